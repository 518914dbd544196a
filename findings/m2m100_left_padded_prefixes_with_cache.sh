#!/usr/bin/env bash
# Ground: transformers' M2M-100 and NLLB, decoder prefixes of different lengths in one batch (constrained or interactive
#   translation, scoring of continuations).
# Guessed: prefixes are padded on the left, decoder_attention_mask says so; with the cache and without it the next word has
#   the same scores.
# Is: without the cache the padded row has the scores that it has alone; with it a step counts the padding as positions, and
#   all scores of that row are others. The row without padding is right.
# Versions: transformers 5.24.0, torch 2.13.0, Python 3.11.
# Why it matters: the cache is on by default; the same sentence gets another continuation depending on its neighbours.
# Seen:
#   padded row, without cache against alone: same to 1e-4: True
#   padded row, with cache against alone: same to 1e-4: False
#   other row, with cache against without: same to 1e-4: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy transformers==5.24.0
cat > "$work/try.py" <<'PY'
import torch
import transformers
from transformers import M2M100Config, M2M100ForConditionalGeneration

print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])

def tiny(**settings):
    torch.manual_seed(0)
    return M2M100ForConditionalGeneration(M2M100Config(
        vocab_size=100, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, encoder_layerdrop=0.0, decoder_layerdrop=0.0, dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, init_std=0.3, **settings,
    ))


model = tiny().eval()
source = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 11, 12, 2]])
prefix = torch.tensor([[1, 1, 2, 20, 21], [2, 30, 31, 32, 33]])  # 1 is the padding, 2 starts a decoder's sequence
mask = (prefix != 1).long()
with torch.no_grad():
    whole = model(input_ids=source, decoder_input_ids=prefix, decoder_attention_mask=mask, use_cache=False).logits[:, -1]
    first = model(input_ids=source, decoder_input_ids=prefix[:, :-1], decoder_attention_mask=mask[:, :-1], use_cache=True)
    cached = model(
        encoder_outputs=(first.encoder_last_hidden_state,), decoder_input_ids=prefix[:, -1:], decoder_attention_mask=mask,
        past_key_values=first.past_key_values, use_cache=True,
    ).logits[:, -1]
    alone = model(input_ids=source[:1], decoder_input_ids=prefix[:1, 2:], use_cache=False).logits[:, -1]
seen = [bool((a - b).abs().max() < 1e-4) for a, b in ((whole[:1], alone), (cached[:1], alone), (cached[1:], whole[1:]))]
print("padded row, without cache against alone: same to 1e-4:", seen[0])
print("padded row, with cache against alone: same to 1e-4:", seen[1])
print("other row, with cache against without: same to 1e-4:", seen[2])
if seen != [True, False, True]:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
(cd "$work" && env HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$work/env/bin/python" -W ignore try.py)
