#!/usr/bin/env bash
# Ground: PEFT on M2M-100 and NLLB, whose one embedding matrix is called model.shared.
# Guessed: LoRA on, or modules_to_save of, "shared" trains the embedding, as the name and the parameter count promise.
# Is: model.shared is never called; encoder, decoder and projection hold the same matrix under names of their own. The
#   adapter's parameters count as trainable and get no gradient; nothing is said when another module is adapted beside it.
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11.
# Why it matters: for a new language or script it is the embedding that must be trained; the run does everything but that.
# Seen:
#   LoRA on shared and q_proj: trainable parameters of shared 232, with a gradient 0
#   modules_to_save shared beside LoRA on q_proj: trainable parameters of shared 1600, with a gradient 0
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


def count(**settings):
    model = peft.get_peft_model(tiny(), peft.LoraConfig(r=2, **settings))
    model(input_ids=torch.tensor([[5, 6, 7, 2]]), labels=torch.tensor([[8, 9, 10, 2]])).loss.backward()
    trainable = [p for name, p in model.named_parameters() if p.requires_grad and ".shared." in name]
    return sum(p.numel() for p in trainable), sum(p.numel() for p in trainable if p.grad is not None)


lora = count(target_modules=["shared", "q_proj"])
print(f"LoRA on shared and q_proj: trainable parameters of shared {lora[0]}, with a gradient {lora[1]}")
whole = count(target_modules=["q_proj"], modules_to_save=["shared"])
print(f"modules_to_save shared beside LoRA on q_proj: trainable parameters of shared {whole[0]}, with a gradient {whole[1]}")
if (lora, whole) != ((232, 0), (1600, 0)):
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
(cd "$work" && env HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$work/env/bin/python" -W ignore try.py)
