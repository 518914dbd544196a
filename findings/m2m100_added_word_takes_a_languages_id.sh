#!/usr/bin/env bash
# Ground: transformers, M2M-100's tokenizer, words or languages added for fine-tuning.
# Guessed: add_tokens gives a new word an id behind all others, those of the 100 languages among them.
# Is: of a tokenizer that is made of its two files (vocab.json, a SentencePiece model), or of a directory that save_pretrained
#   wrote of such a one, the languages are not counted: the first added word gets the id of __af__, the second that of __am__.
#   Both are one row of the embedding from then on, and ids of the language are decoded as the word. A directory whose files
#   list the languages as special tokens, as the published ones do, is not touched.
# Versions: transformers 5.24.0, sentencepiece 0.2.3, Python 3.11. A made-up vocabulary.
# Why it matters: models converted from fairseq have just these two files; a fine-tuned model answers in Afrikaans with the
#   new word, or trains the new language's tag on Afrikaans' row, and nothing says so.
# Remedy: pass additional_special_tokens=list(tokenizer.lang_token_to_id) when the tokenizer is made.
# Seen:
#   of two files: Kubernetes 26, __new__ 27, __af__ 26, __am__ 27; tokens 26
#   saved and loaded: Kubernetes 26, __new__ 27, __af__ 26, __am__ 27; tokens 26
#   languages listed: Kubernetes 126, __new__ 127, __af__ 26, __am__ 27; tokens 126
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q transformers==5.24.0 sentencepiece==0.2.3
cat > "$work/try.py" <<'PY'
import json
from pathlib import Path

import sentencepiece
import transformers
from transformers import M2M100Tokenizer

transformers.logging.set_verbosity_error()
print("transformers", transformers.__version__, "sentencepiece", sentencepiece.__version__)
text = ["the cat sees a dog in the house", "new york is large and old"] * 50
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(text), model_prefix="spm", vocab_size=60, hard_vocab_limit=False, minloglevel=2
)
pieces = sentencepiece.SentencePieceProcessor(model_file="spm.model")
words = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(n) for n in range(3, len(pieces)))]
Path("vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))


def made(**more):
    return M2M100Tokenizer(vocab_file="vocab.json", spm_file="spm.model", **more)


def added(name, tokenizer):
    """Ids of two added words and of the first two languages, less the number of pieces."""
    before, asked = len(tokenizer), ["Kubernetes", "__new__", "__af__", "__am__"]
    tokenizer.add_tokens(asked[:2])
    ids = tokenizer.convert_tokens_to_ids(asked)
    print(f"{name}: {', '.join(f'{word} {n}' for word, n in zip(asked, ids))}; tokens {before}")
    return [n - len(words) for n in ids]


made().save_pretrained("saved")
seen = [
    added("of two files", made()),
    added("saved and loaded", M2M100Tokenizer.from_pretrained("saved")),
    added("languages listed", made(additional_special_tokens=list(made().lang_token_to_id))),
]
if seen != [[0, 1, 0, 1], [0, 1, 0, 1], [100, 101, 0, 1]]:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
(cd "$work" && "$work/env/bin/python" -W ignore try.py)
