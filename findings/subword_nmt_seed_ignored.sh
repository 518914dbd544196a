#!/usr/bin/env bash
# Guessed: subword-nmt apply-bpe --dropout 0.1 --seed 1 writes the same file each time: the help says that seed is for
#   BPE dropout.
# What is: The command `subword-nmt` takes --seed and never uses it: every call gives another segmentation. Only the
#   module subword_nmt.apply_bpe, run as a script, sets the seed.
# Seen with: subword-nmt 0.3.8; Python 3.11; 2026-11-28
# Why it matters: Training text with BPE dropout cannot be made again, though the command line in the paper's appendix
#   has a seed.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check subword-nmt==0.3.8
cd "$work"

cat > expected <<'END'
the command twice, same output: False
the module twice, same output: True
END

"$work/env/bin/python" - > seen <<'END'
import pathlib, subprocess, sys

text = "\n".join("the translation of a long sentence is number " + str(n) for n in range(200)) + "\n"
tool = str(pathlib.Path(sys.executable).parent / "subword-nmt")


def run(*command):
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


codes = pathlib.Path("codes.txt")
codes.write_text(run(tool, "learn-bpe", "-s", "60"))
options = ["-c", str(codes), "--dropout", "0.3", "--seed", "1"]
module = [sys.executable, "-W", "ignore", "-m", "subword_nmt.apply_bpe"]
print("the command twice, same output:", run(tool, "apply-bpe", *options) == run(tool, "apply-bpe", *options))
print("the module twice, same output:", run(*module, *options) == run(*module, *options))
codes.unlink()
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(subword-nmt)==' || true
cat seen
diff expected seen || { echo "CHANGED: the command uses its seed now, or the module does not"; exit 1; }
echo "as stated"
