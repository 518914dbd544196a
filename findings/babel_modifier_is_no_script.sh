#!/usr/bin/env bash
# Guessed: Locale.parse knows gettext's modifiers: sr@latin is Serbian in Latin script, uz@cyrillic Uzbek in Cyrillic.
# What is: Both are parsed without an error and keep the modifier in their name, but have the data of the plain
#   language: sr@latin writes Cyrillic, uz@cyrillic Latin. sr_Latn and uz_Cyrl are right.
# Seen with: babel 2.19.0; Python 3.11; 2026-11-28
# Why it matters: Names of languages, dates or amounts taken for a language by its gettext code are in the other
#   script: training text under a wrong tag, with no word said.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check babel==2.19.0
cd "$work"

cat > expected <<'END'
sr@latin parsed as sr@latin writes CYRILLIC
sr_Latn parsed as sr_Latn writes LATIN
uz@cyrillic parsed as uz@cyrillic writes LATIN
uz_Cyrl parsed as uz_Cyrl writes CYRILLIC
END

"$work/env/bin/python" - > seen <<'END'
import unicodedata
from babel import Locale

for code in ("sr@latin", "sr_Latn", "uz@cyrillic", "uz_Cyrl"):
    locale = Locale.parse(code)
    print(code, "parsed as", locale, "writes", unicodedata.name(locale.languages["en"][0]).split()[0])
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(babel)==' || true
cat seen
diff expected seen || { echo "CHANGED: Babel reads modifiers otherwise"; exit 1; }
echo "as stated"
