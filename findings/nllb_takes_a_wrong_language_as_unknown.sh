#!/usr/bin/env bash
# Ground: transformers' NLLB tokenizer, language codes.
# Guessed: a code that is none of the tokenizer's (fr_Latn for fra_Latn) raises, as M2M-100's tokenizer does with a KeyError.
# Is: the sentence gets <unk> in the tag's place, for sources and for labels, at construction and later. And without
#   tgt_lang labels are tagged with the source's language.
# Versions: transformers 5.24.0, Python 3.11.
# Why it matters: a data set is binarised and a model fine-tuned with <unk> as the tag of one language; it translates from
#   and into that language somewhat, and badly.
# Seen:
#   source of fra_Latn: ['fra_Latn', 'a', 'b', '</s>']
#   source of fr_Latn: ['<unk>', 'a', 'b', '</s>']
#   target of deu: ['<unk>', 'a', 'b', '</s>']
#   target without tgt_lang: ['fra_Latn', 'a', 'b', '</s>']
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q transformers==5.24.0
cat > "$work/try.py" <<'PY'
import transformers
from transformers import NllbTokenizer

transformers.utils.logging.set_verbosity_error()
print("transformers", transformers.__version__)
vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a", "b", "▁"])}


def tokenizer(**settings):
    return NllbTokenizer(vocab=dict(vocabulary), merges=[], **settings)


def tokens(made, **text):
    return [token for token in made.convert_ids_to_tokens(made(**text)["input_ids"]) if token != "▁"]


right = tokens(tokenizer(src_lang="fra_Latn"), text="ab")
wrong = tokens(tokenizer(src_lang="fr_Latn"), text="ab")
changed = tokenizer(src_lang="fra_Latn")
changed.tgt_lang = "deu"
target = tokens(changed, text_target="ab")
without = tokens(tokenizer(src_lang="fra_Latn"), text_target="ab")
print("source of fra_Latn:", right)
print("source of fr_Latn:", wrong)
print("target of deu:", target)
print("target without tgt_lang:", without)
if [row[0] for row in (right, wrong, target, without)] != ["fra_Latn", "<unk>", "<unk>", "fra_Latn"]:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
(cd "$work" && env HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$work/env/bin/python" -W ignore try.py)
