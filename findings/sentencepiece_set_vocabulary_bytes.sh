#!/usr/bin/env bash
# Guessed: set_vocabulary restricts which pieces encode may use; where all pieces are allowed nothing changes, and
#   reset_vocabulary undoes it.
# What is: It takes the byte pieces' type away. Ids stay the same, but decoding writes an unknown character as the
#   text <0xE2><0x98><0x83>, also where every piece is allowed, and after reset_vocabulary.
# Seen with: sentencepiece 0.2.1; Python 3.11; 2026-11-28
# Why it matters: 0.2.1 is the last version whose Python class has set_vocabulary (0.2.2 and 0.2.3 have none), so
#   whoever restricts a joint vocabulary uses it; each character by bytes becomes literal text in translations.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check sentencepiece==0.2.1
cd "$work"

cat > expected <<'END'
before: True
all pieces allowed: same ids True same text False <0xE2><0x98><0x83>
after reset: same ids True same text False
END

"$work/env/bin/python" - > seen <<'END'
import io, random
import sentencepiece as spm

draw = random.Random(1)
syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(3000)]
shares = [1 / (rank + 2) for rank in range(len(words))]
lines = [" ".join(draw.choices(words, shares, k=8)) for _ in range(2000)]


def train(text, **settings):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, minloglevel=2, num_threads=1, **settings
    )
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


model = train(lines, vocab_size=700, byte_fallback=True)
text = "\u2603 " + lines[0]
ids = model.encode(text)
print("before:", model.decode(ids) == text)
model.set_vocabulary([model.id_to_piece(i) for i in range(model.get_piece_size())])
print("all pieces allowed: same ids", model.encode(text) == ids, "same text", model.decode(ids) == text, model.decode(ids)[:18])
model.reset_vocabulary()
print("after reset: same ids", model.encode(text) == ids, "same text", model.decode(ids) == text)
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(sentencepiece)==' || true
cat seen
diff expected seen || { echo "CHANGED: byte pieces survive set_vocabulary"; exit 1; }
echo "as stated"
