#!/usr/bin/env bash
# Ground: DeepSpeed's Muon and encoder-decoder models of transformers.
# Guessed: token embeddings and output matrices are Adam's, as Muon's author wants it; hidden matrices are Muon's.
# Is: DeepSpeed goes by names: what holds "embed" or "lm_head" is Adam's. M2M-100 (NLLB), BART, mBART, T5 and Marian call
#   their tied embedding "shared", so that Muon takes it with every other matrix. Llama's is Adam's.
# Versions: deepspeed 0.19.8, transformers 5.24.0, torch 2.13.0, Python 3.11.
# Why it matters: the embedding is much of a multilingual model (256,206 x 1,024 of NLLB-600M's 615M numbers). Muon's steps
#   are as large for rare directions as for frequent ones, and its learning rate is another one than Adam's.
# Seen:
#   M2M100 model.shared.weight Muon
#   Bart model.shared.weight Muon
#   MBart model.shared.weight Muon
#   T5 shared.weight Muon
#   Marian model.shared.weight Muon
#   Llama model.embed_tokens.weight Adam
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy ninja setuptools wheel
"$work/env/bin/pip" install -q --no-build-isolation deepspeed==0.19.8
"$work/env/bin/pip" install -q transformers==5.24.0
cat > "$work/try.py" <<'PY'
import logging
import os

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29741", DS_ACCELERATOR="cpu")
import deepspeed
import torch
import transformers
from deepspeed.ops import __compatible_ops__
from deepspeed.utils import logger

logger.setLevel(logging.ERROR)
__compatible_ops__["deepspeed_shm_comm"] = False  # not needed here, and slow to build
deepspeed.init_distributed("gloo")
print("deepspeed", deepspeed.__version__, "transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])
COMMON = dict(vocab_size=96, pad_token_id=1, decoder_start_token_id=2)
BOTH = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
            encoder_attention_heads=2, decoder_attention_heads=2, **COMMON)
MODELS = {
    "M2M100": ("M2M100ForConditionalGeneration", "M2M100Config", BOTH),
    "Bart": ("BartForConditionalGeneration", "BartConfig", BOTH),
    "MBart": ("MBartForConditionalGeneration", "MBartConfig", BOTH),
    "T5": ("T5ForConditionalGeneration", "T5Config", dict(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, **COMMON)),
    "Marian": ("MarianMTModel", "MarianConfig", BOTH),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", dict(vocab_size=96, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                                       num_attention_heads=2)),
}
seen = {}
for family, (model_class, config_class, sizes) in MODELS.items():
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**sizes))
    embedding = model.get_input_embeddings().weight
    name = next(name for name, parameter in model.named_parameters() if parameter is embedding)
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(),
        config={"train_micro_batch_size_per_gpu": 1, "steps_per_print": 10**9, "zero_optimization": {"stage": 0},
                "optimizer": {"type": "Muon", "params": {"lr": 1e-3, "weight_decay": 0.0}}},
    )
    group = next(group for group in engine.optimizer.param_groups if any(p is embedding for p in group["params"]))
    seen[family] = "Muon" if group["use_muon"] else "Adam"
    print(family, name, seen[family])
if seen != {family: "Adam" if family == "Llama" else "Muon" for family in MODELS}:
    raise SystemExit("CHANGED: not what is stated at the head of this file")
torch.distributed.destroy_process_group()
PY
"$work/env/bin/python" -W ignore "$work/try.py"
