#!/usr/bin/env bash
# Guessed: OpusFilter's NonZeroNumeralsFilter compares numbers: 12 and the same number in Arabic-Indic or Devanagari
#   digits agree; other numbers, another order and 105 against 15 do not.
# What is: Digits of other scripts are no numerals for it, so right pairs score 0 and are dropped; 105 against 15 and
#   100 against 1 score 1, since zeros are left out and digits are compared one by one.
# Seen with: opusfilter 3.3.1; Python 3.11; 2026-11-28
# Why it matters: Arabic, Persian, Hindi and Bengali text with numbers is lost, while wrong numbers that differ in
#   zeros pass.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check opusfilter==3.3.1
cd "$work"

cat > expected <<'END'
12 files | 12 Dateien [1.0] kept
12 files | ١٢ ملف [0.0] dropped
12 files | १२ [0.0] dropped
105 files | 15 Dateien [1.0] kept
100 files | 1 Datei [1.0] kept
END

"$work/env/bin/python" - > seen <<'END'
import logging
from opusfilter.filters import NonZeroNumeralsFilter

logging.disable(logging.CRITICAL)
check = NonZeroNumeralsFilter()
for pair in (("12 files", "12 Dateien"), ("12 files", "\u0661\u0662 \u0645\u0644\u0641"), ("12 files", "\u0967\u0968"), ("105 files", "15 Dateien"), ("100 files", "1 Datei")):
    (score,) = check.score(iter([pair]))
    print(" | ".join(pair), [round(value, 2) for value in score], "kept" if check.accept(score) else "dropped")
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(opusfilter)==' || true
cat seen
diff expected seen || { echo "CHANGED: the filter compares numbers otherwise"; exit 1; }
echo "as stated"
