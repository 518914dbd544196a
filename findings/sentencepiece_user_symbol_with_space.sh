#!/usr/bin/env bash
# Guessed: A user-defined symbol is one piece wherever it stands in text, also one that has a space in it (New York).
# What is: A symbol with a space is in the vocabulary, and never found: text is matched with U+2581 in place of
#   spaces, the symbol is kept as written. Written with U+2581 it is found.
# Seen with: sentencepiece 0.2.3; Python 3.11; 2026-11-28
# Why it matters: Terms, placeholders or names of two words that were meant to stay whole are split, and a row of the
#   embedding is never trained.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check sentencepiece==0.2.3
cd "$work"

cat > expected <<'END'
in the vocabulary: True found in text: False
in the vocabulary: True found in text: True
END

"$work/env/bin/python" - > seen <<'END'
import io
import sentencepiece as spm

text = ["I live in New York now", "We live in the city", "They like the new city now"] * 20
for symbol in ("New York", "New\u2581York"):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, user_defined_symbols=[symbol], vocab_size=60,
        hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )
    trained = spm.SentencePieceProcessor(model_proto=model.getvalue())
    known = trained.piece_to_id(symbol) != trained.unk_id()
    pieces = trained.encode("I live in New York now", out_type=str)
    print("in the vocabulary:", known, "found in text:", symbol in pieces)
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(sentencepiece)==' || true
cat seen
diff expected seen || { echo "CHANGED: user-defined symbols with a space are matched otherwise"; exit 1; }
echo "as stated"
