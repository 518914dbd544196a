#!/usr/bin/env bash
# Guessed: Training on a text in which every line stands three times gives the vocabulary of the text itself: all
#   relative frequencies are the same.
# What is: True for BPE. The unigram vocabulary is another one: pieces are pruned by absolute expected counts.
# Seen with: sentencepiece 0.2.3; Python 3.11; 2026-11-28
# Why it matters: Oversampling, or an epoch more in the sample, changes a joint vocabulary even where it changes no
#   share; two corpora that differ in size alone are not comparable by their vocabularies.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check sentencepiece==0.2.3
cd "$work"

cat > expected <<'END'
bpe the same pieces: True
unigram the same pieces: False
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


for kind in ("bpe", "unigram"):
    once, thrice = (
        {m.id_to_piece(i) for i in range(m.get_piece_size())}
        for m in (train(text, model_type=kind, vocab_size=800) for text in (lines, lines * 3))
    )
    print(kind, "the same pieces:", once == thrice)
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(sentencepiece)==' || true
cat seen
diff expected seen || { echo "CHANGED: the unigram vocabulary does not depend on repetition any more, or BPE's does"; exit 1; }
echo "as stated"
