#!/usr/bin/env bash
# Ground: torch on CPUs, dev losses and perplexities of a model in bf16.
# Guessed: cross_entropy of bf16 logits adds up in fp32 and rounds once: the mean over many tokens is right to bf16's last
#   place (0.2 %).
# Is: tokens are added up in bf16. The mean (and the sum) is 0.5 to 1.3 % too low here, by an amount that depends on how many
#   tokens there are; the same losses, taken one by one and added in fp32, are right.
# Versions: torch 2.13.0, Python 3.11, CPU.
# Why it matters: dev losses that are compared are from sets of different sizes, or of different batches of one set; 1 % of
#   4.6 nats is more than most methods gain.
# Remedy: reduction="none", then .float().mean(); or logits in fp32.
# Seen:
#   1024 tokens: of all in fp32 4.646, bf16 4.625, one by one 4.646
#   4096 tokens: of all in fp32 4.640, bf16 4.594, one by one 4.640
#   262144 tokens: of all in fp32 4.652, bf16 4.594, one by one 4.652
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy
cat > "$work/try.py" <<'PY'
import torch
from torch.nn.functional import cross_entropy

print("torch", torch.__version__.partition("+")[0])
torch.set_num_threads(1)
lowest, worst = 0.0, 0.0
for tokens in (1024, 4096, 262144):
    torch.manual_seed(0)
    logits, gold = torch.randn(tokens, 64).bfloat16(), torch.randint(0, 64, (tokens,))
    right = cross_entropy(logits.float(), gold).item()
    mean = cross_entropy(logits, gold).item()
    one_by_one = cross_entropy(logits, gold, reduction="none").float().mean().item()
    print(f"{tokens} tokens: of all in fp32 {right:.3f}, bf16 {mean:.3f}, one by one {one_by_one:.3f}")
    lowest, worst = min(lowest, mean / right - 1), max(worst, abs(one_by_one / right - 1))
if lowest > -0.008 or worst > 0.0005:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
"$work/env/bin/python" -W ignore "$work/try.py"
