#!/usr/bin/env bash
# Guessed: OpusCleaner's filter num_mismatch keeps pairs whose two sides have the same numbers, and drops those that
#   do not.
# What is: A number that touches a Chinese, Japanese or Korean letter is none for it: right pairs are dropped (3 files
#   / the same in Chinese), and pairs of two such languages with different numbers pass.
# Seen with: opuscleaner 0.7.1; Python 3.11; 2026-11-28
# Why it matters: Nearly every Chinese or Japanese line with a counter word is lost, and nothing of it is in the log
#   of the filter.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check opuscleaner==0.7.1
cd "$work"

cat > expected <<'END'
kept | We have 3 files | Wir haben 3 Dateien
dropped | We have 3 files | 我们有3个文件
dropped | 2 of 3 | 3個中2個
kept | 5月10日 | 5월 11일
END

"$work/env/bin/python" - > seen <<'END'
import pathlib, subprocess, sys
import opuscleaner

tool = pathlib.Path(opuscleaner.__file__).parent / "filters" / "num_mismatch.py"
pairs = [("We have 3 files", "Wir haben 3 Dateien"), ("We have 3 files", "\u6211\u4eec\u67093\u4e2a\u6587\u4ef6"), ("2 of 3", "3\u500b\u4e2d2\u500b"), ("5\u670810\u65e5", "5\uc6d4 11\uc77c")]
for source, target in pairs:
    text = f"{source}\t{target}\n"
    run = subprocess.run([sys.executable, str(tool), "--ratio", "1"], input=text, capture_output=True, text=True, check=True, encoding="utf-8")
    print("kept" if run.stdout else "dropped", "|", source, "|", target)
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(opuscleaner)==' || true
cat seen
diff expected seen || { echo "CHANGED: the filter finds other numbers"; exit 1; }
echo "as stated"
