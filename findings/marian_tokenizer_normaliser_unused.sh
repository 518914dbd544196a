#!/usr/bin/env bash
# Guessed: MarianTokenizer normalises punctuation where sacremoses is installed, as OPUS-MT's own preprocessing does:
#   it warns 'Recommended: pip install sacremoses' where it is not, and makes a MosesPunctNormalizer where it is.
# What is: The normaliser is made and never called: ids are those of the raw text, with sacremoses or without it.
# Seen with: transformers 5.24.0, sentencepiece 0.2.3, sacremoses 0.2.0; Python 3.11; 2026-11-28
# Why it matters: OPUS-MT models saw straight quotes and three dots; curly quotes, dashes and the like reach them as
#   unknown or rare pieces, while the environment looks complete. Normalise the text before.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check transformers==5.24.0 sentencepiece==0.2.3 sacremoses==0.2.0
cd "$work"

cat > expected <<'END'
normaliser: MosesPunctNormalizer
normalises to: Enter a "valid" value - it's needed...
unknown pieces of the raw text: 5 of the normalised text: 0
END

"$work/env/bin/python" - > seen <<'END'
import json, os, pathlib, warnings

warnings.simplefilter("ignore")
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import sentencepiece as spm
from transformers import MarianTokenizer

folder = pathlib.Path("opus_mt")
folder.mkdir()
text = ['Enter a "valid" value - it\'s needed...', "Close the file, and open it again."] * 30
for side in ("source", "target"):
    with open(folder / f"{side}.spm", "wb") as file:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(text), model_writer=file, vocab_size=60, hard_vocab_limit=False, minloglevel=2,
            normalization_rule_name="identity",
        )
pieces = spm.SentencePieceProcessor(model_file=str(folder / "source.spm"))
words = ["</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size())), "<pad>"]
(folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
(folder / "tokenizer_config.json").write_text(json.dumps({"source_lang": "en", "target_lang": "fr"}))
tokenizer = MarianTokenizer.from_pretrained(folder)
raw = "Enter a \u201cvalid\u201d value \u2014 it\u2019s needed\u2026"
print("normaliser:", type(getattr(tokenizer.punc_normalizer, "__self__", None)).__name__)
print("normalises to:", tokenizer.normalize(raw))
unknown = tokenizer.unk_token_id
print("unknown pieces of the raw text:", tokenizer(raw).input_ids.count(unknown),
      "of the normalised text:", tokenizer(tokenizer.normalize(raw)).input_ids.count(unknown))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(transformers|sentencepiece|sacremoses)==' || true
cat seen
diff expected seen || { echo "CHANGED: MarianTokenizer uses its normaliser"; exit 1; }
echo "as stated"
