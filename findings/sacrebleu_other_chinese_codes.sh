#!/usr/bin/env bash
# Guessed: -l en-zh_TW (or en-zh_Hant, en-zho, en-cmn) takes the Chinese tokenizer, as -l en-zh and -l en-zh-TW do.
# What is: The target code is compared with zh by its letters: all these take 13a, without a warning. Unspaced Chinese
#   is then a word a clause, and BLEU falls to nearly nothing.
# Seen with: sacrebleu 2.6.0; Python 3.11; 2026-11-28
# Why it matters: The codes of FLORES, of mBART and of locales are those that MT scripts have at hand; the figure is
#   wrong by a multiple, and only the signature shows it.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check sacrebleu==2.6.0
cd "$work"

cat > expected <<'END'
en-zh tokenizer zh BLEU 63.0
en-zh-TW tokenizer zh BLEU 63.0
en-zh_TW tokenizer 13a BLEU 0.0
en-zh_Hant tokenizer 13a BLEU 0.0
en-zho tokenizer 13a BLEU 0.0
en-cmn tokenizer 13a BLEU 0.0
END

"$work/env/bin/python" - > seen <<'END'
import pathlib, re, subprocess, sys

text = ["\u6211\u4eec\u4eca\u5929\u5728\u5bb6\u5403\u996d\u3002", "\u4ed6\u4eec\u660e\u5929\u53bb\u5317\u4eac\u5de5\u4f5c\u3002"]
pathlib.Path("reference").write_text("\n".join(text) + "\n", encoding="utf-8")
pathlib.Path("output").write_text("\n".join(line.replace("\u5929", "\u65e5") for line in text) + "\n", encoding="utf-8")
tool = str(pathlib.Path(sys.executable).parent / "sacrebleu")
for pair in ("en-zh", "en-zh-TW", "en-zh_TW", "en-zh_Hant", "en-zho", "en-cmn"):
    run = subprocess.run([tool, "reference", "-i", "output", "-l", pair], capture_output=True, text=True, check=True)
    print(pair, "tokenizer", re.search(r"tok:([\w-]+)", run.stdout)[1], "BLEU", re.search(r'"score": ([\d.]+)', run.stdout)[1])
for name in ("reference", "output"):
    pathlib.Path(name).unlink()
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(sacrebleu)==' || true
cat seen
diff expected seen || { echo "CHANGED: other codes of Chinese choose another tokenizer"; exit 1; }
echo "as stated"
