#!/usr/bin/env bash
# Guessed: treat_whitespace_as_suffix=True moves U+2581 to the ends of words, and decoding gives the text back as it
#   does by default.
# What is: The dummy prefix becomes a dummy suffix, which decoding does not take away again: every decoded sentence
#   has a space at its end. With add_dummy_prefix=False it has none.
# Seen with: sentencepiece 0.2.3; Python 3.11; 2026-11-28
# Why it matters: Translations are no longer equal to references where whole lines are compared, cached or
#   deduplicated; nothing shows in print.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check sentencepiece==0.2.3
cd "$work"

cat > expected <<'END'
{} same text: True a space more: False
{'treat_whitespace_as_suffix': True} same text: False a space more: True
{'treat_whitespace_as_suffix': True, 'add_dummy_prefix': False} same text: True a space more: False
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


sentence = lines[0]
for settings in ({}, {"treat_whitespace_as_suffix": True}, {"treat_whitespace_as_suffix": True, "add_dummy_prefix": False}):
    model = train(lines, vocab_size=300, **settings)
    back = model.decode(model.encode(sentence))
    print(settings, "same text:", back == sentence, "a space more:", back == sentence + " ")
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(sentencepiece)==' || true
cat seen
diff expected seen || { echo "CHANGED: suffix white space round trips otherwise"; exit 1; }
echo "as stated"
