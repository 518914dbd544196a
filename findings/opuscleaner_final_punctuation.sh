#!/usr/bin/env bash
# Guessed: OpusCleaner's filter fix_sent_final_punct makes the ends of a pair agree, and leaves alone what ends
#   rightly in its own script.
# What is: It knows ASCII and Latin signs alone: a full stop is put behind the Chinese and the Hindi one, and a German
#   closing quotation mark is replaced by a second full stop.
# Seen with: opuscleaner 0.7.1; Python 3.11; 2026-11-28
# Why it matters: A cleaning step adds a wrong sign to nearly every sentence of such a language pair, and the model
#   learns it.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check opuscleaner==0.7.1
cd "$work"

cat > expected <<'END'
Yes.	是。.
Is it?	是吗？?
Yes.	हाँ।.
He said yes.	Er sagte "ja..
Yes.	Ja.
END

"$work/env/bin/python" - > seen <<'END'
import pathlib, subprocess, sys
import opuscleaner

tool = pathlib.Path(opuscleaner.__file__).parent / "filters" / "fix_sent_final_punct.py"
pairs = [("Yes.", "\u662f\u3002"), ("Is it?", "\u662f\u5417\uff1f"), ("Yes.", "\u0939\u093e\u0901\u0964"), ("He said yes.", 'Er sagte "ja."'), ("Yes.", "Ja.")]
text = "".join(f"{source}\t{target}\n" for source, target in pairs)
run = subprocess.run([sys.executable, str(tool)], input=text, capture_output=True, text=True, check=True, encoding="utf-8")
print(run.stdout, end="")
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(opuscleaner)==' || true
cat seen
diff expected seen || { echo "CHANGED: the filter treats final signs otherwise"; exit 1; }
echo "as stated"
