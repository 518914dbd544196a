#!/usr/bin/env bash
# Ground: PEFT on M2M-100 and NLLB, trainable_token_indices for the rows of a new language's words.
# Guessed: named by layer, {"embed_tokens": rows}, or as a list, it trains the same rows, and merging keeps what was trained.
# Is: the list trains one set of rows for all uses of the matrix. By the name encoder and decoder get a set each, the output
#   projection none; merging writes both into the one matrix, and the merged model computes something else than the one that
#   was trained and validated. Neither creating nor merging warns.
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11.
# Why it matters: the model that is handed on after the merge is worse than the one that was chosen.
# Seen:
#   rows as a list: sets of trained rows 1, merged logits are the trained ones to 1e-4: True
#   rows of embed_tokens: sets of trained rows 2, merged logits are the trained ones to 1e-4: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy transformers==5.24.0 peft==0.21.2
cat > "$work/try.py" <<'PY'
import peft
import torch
import transformers
from transformers import M2M100Config, M2M100ForConditionalGeneration

transformers.utils.logging.set_verbosity_error()
print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])

def tiny(**settings):
    torch.manual_seed(0)
    return M2M100ForConditionalGeneration(M2M100Config(
        vocab_size=100, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, encoder_layerdrop=0.0, decoder_layerdrop=0.0, dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, init_std=0.3, **settings,
    ))


source, decoder = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[2, 8, 9, 10]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=source, decoder_input_ids=decoder).logits


def trained(rows):
    model = peft.get_peft_model(tiny(), peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=rows))
    sets = sum("trainable_tokens" in name for name, p in model.named_parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        model(input_ids=source, labels=torch.tensor([[8, 9, 10, 2]])).loss.backward()
        optimizer.step()
    before = logits(model)
    return sets, bool((logits(model.merge_and_unload()) - before).abs().max() < 1e-4)


seen = [trained([8, 9]), trained({"embed_tokens": [8, 9]})]
for title, (sets, same) in zip(("rows as a list", "rows of embed_tokens"), seen):
    print(f"{title}: sets of trained rows {sets}, merged logits are the trained ones to 1e-4: {same}")
if seen != [(1, True), (2, False)]:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
(cd "$work" && env HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$work/env/bin/python" -W ignore try.py)
