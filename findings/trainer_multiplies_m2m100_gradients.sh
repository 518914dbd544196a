#!/usr/bin/env bash
# Ground: transformers' Trainer on M2M-100 and NLLB with gradient accumulation.
# Guessed: 8 sentences in one batch, in 4 micro-batches of 2, or in 8 of 1 give the same gradient (sentences are of one
#   length here, so that no averaging over tokens differs).
# Is: the gradient, and the loss that is logged, are the sum over micro-batches: 4 and 8 times as large. The Trainer leaves
#   the division to a model whose forward takes further keywords; M2M-100's takes them and does not divide.
# Versions: transformers 5.24.0, torch 2.13.0, accelerate 1.15.0, Python 3.11.
# Why it matters: with Adam the size of gradients matters little, but every update is clipped by the default norm of 1, and
#   SGD, Adafactor's clipping and whoever compares losses along accumulation are off by that factor.
# Seen:
#   batch 8 x accumulation 1: gradient 1.00 times, logged loss 1.00 times that of one batch
#   batch 2 x accumulation 4: gradient 4.00 times, logged loss 4.00 times that of one batch
#   batch 1 x accumulation 8: gradient 8.00 times, logged loss 8.00 times that of one batch
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy transformers==5.24.0 accelerate==1.15.0
cat > "$work/try.py" <<'PY'
import tempfile

import accelerate
import torch
import transformers
from transformers import M2M100Config, M2M100ForConditionalGeneration, Trainer, TrainingArguments

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0], "accelerate", accelerate.__version__)

def tiny(**settings):
    torch.manual_seed(0)
    return M2M100ForConditionalGeneration(M2M100Config(
        vocab_size=100, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, encoder_layerdrop=0.0, decoder_layerdrop=0.0, dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, init_std=0.3, **settings,
    ))


torch.manual_seed(1)
data = [{"input_ids": torch.randint(5, 100, (6,)), "labels": torch.randint(5, 100, (4,))} for _ in range(8)]


class InOrder(Trainer):
    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(data, batch_size=self.args.per_device_train_batch_size)

    def log(self, logs, *args):
        pass


def update(batch, accumulation):
    model = tiny()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=1, learning_rate=1e-3,
            optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0, report_to=[], use_cpu=True, save_strategy="no",
            disable_tqdm=True,
        )
        loss = InOrder(model, arguments).train().training_loss
    moved = [parameter.detach() - old for parameter, old in zip(model.parameters(), before)]
    return torch.cat([move.flatten() for move in moved]).norm().item() / 1e-3, loss


whole = update(8, 1)
seen = []
for batch, accumulation in ((8, 1), (2, 4), (1, 8)):
    gradient, loss = (value / one for value, one in zip(update(batch, accumulation), whole))
    seen.append((round(gradient, 2), round(loss, 2)))
    print(f"batch {batch} x accumulation {accumulation}: gradient {gradient:.2f} times, logged loss {loss:.2f} times that of one batch")
if seen != [(1.0, 1.0), (4.0, 4.0), (8.0, 8.0)]:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
(cd "$work" && env HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$work/env/bin/python" -W ignore try.py)
