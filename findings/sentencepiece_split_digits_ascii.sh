#!/usr/bin/env bash
# Guessed: split_digits=True makes every digit a piece of its own, in whatever script.
# What is: Only the digits 0 to 9 are split. Digits of Arabic, Persian, Hindi or Bengali text are merged into pieces
#   of several digits, as if the option were off.
# Seen with: sentencepiece 0.2.3; Python 3.11; 2026-11-28
# Why it matters: Numbers of these languages are split otherwise than English ones, from one model: copying numbers is
#   learned per script, and nothing says so.
# The output that was seen is the text below `expected`. Ends with 1 where it is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check sentencepiece==0.2.3
cd "$work"

cat > expected <<'END'
unigram pieces of several digits: True of them with 0-9: 0
bpe pieces of several digits: True of them with 0-9: 0
END

"$work/env/bin/python" - > seen <<'END'
import io
import sentencepiece as spm

plain = [f"number {n} of {n * 7919 % 100000}" for n in range(300)]
arabic = [line.translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")) for line in plain]
hindi = [line.translate(str.maketrans("0123456789", "०१२३४५६७८९")) for line in plain]
for kind in ("unigram", "bpe"):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(plain + arabic + hindi), model_writer=model, split_digits=True, model_type=kind,
        vocab_size=120, hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )
    trained = spm.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [trained.id_to_piece(i) for i in range(trained.get_piece_size())]
    several = [piece for piece in pieces if sum(c.isdigit() for c in piece) > 1]
    ascii_only = [piece for piece in several if any(c in "0123456789" for c in piece)]
    print(kind, "pieces of several digits:", len(several) > 0, "of them with 0-9:", len(ascii_only))
END

"$work/env/bin/pip" freeze --disable-pip-version-check | grep -i -E '^(sentencepiece)==' || true
cat seen
diff expected seen || { echo "CHANGED: split_digits now treats other scripts' digits otherwise"; exit 1; }
echo "as stated"
