#!/usr/bin/env bash
# Ground: PEFT on M2M-100 and NLLB, modules_to_save=["lm_head"] beside LoRA (the usual advice for a new vocabulary).
# Guessed: merge_and_unload gives a whole model; saved and loaded again it computes the same.
# Is: in memory it does. Its directory holds the trained projection and one embedding, and says that nothing is tied;
#   transformers then looks for the encoder's and the decoder's own embeddings, which are in no file, and draws them anew.
#   PEFT warns that input and output are no longer tied; that the other two matrices go, nobody says.
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0, Python 3.11.
# Why it matters: the directory that is published translates with random embeddings; the model that was evaluated did not.
# Seen:
#   merged in memory: logits differ by less than 1e-4 from the trained ones: True
#   the merged model's directory has: lm_head.weight, model.shared.weight; tie_word_embeddings: False
#   loaded again: encoder's embedding is the saved one: False, decoder's: False, projection: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 numpy transformers==5.24.0 peft==0.21.2
cat > "$work/try.py" <<'PY'
import json
import tempfile
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file
from transformers import M2M100Config, M2M100ForConditionalGeneration

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])

def tiny(**settings):
    torch.manual_seed(0)
    return M2M100ForConditionalGeneration(M2M100Config(
        vocab_size=100, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, encoder_layerdrop=0.0, decoder_layerdrop=0.0, dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, init_std=0.3, **settings,
    ))


source, decoder = torch.tensor([[5, 6, 7, 2]]), torch.tensor([[2, 8, 9, 10]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=source, decoder_input_ids=decoder).logits


model = peft.get_peft_model(tiny(), peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
for _ in range(5):
    optimizer.zero_grad()
    model(input_ids=source, labels=torch.tensor([[8, 9, 10, 2]])).loss.backward()
    optimizer.step()
trained = logits(model)
merged = model.merge_and_unload()
in_memory = bool((logits(merged) - trained).abs().max() < 1e-4)
print("merged in memory: logits differ by less than 1e-4 from the trained ones:", in_memory)
with tempfile.TemporaryDirectory() as folder:
    merged.save_pretrained(folder)
    names = sorted(n for n in load_file(Path(folder, "model.safetensors")) if "layers" not in n and "norm" not in n)
    tied = json.loads(Path(folder, "config.json").read_text())["tie_word_embeddings"]
    again = M2M100ForConditionalGeneration.from_pretrained(folder)
print(f"the merged model's directory has: {', '.join(names)}; tie_word_embeddings: {tied}")
same = [torch.equal(mine.weight, theirs.weight) for mine, theirs in (
    (again.model.encoder.embed_tokens, merged.model.encoder.embed_tokens),
    (again.model.decoder.embed_tokens, merged.model.decoder.embed_tokens), (again.lm_head, merged.lm_head))]
print(f"loaded again: encoder's embedding is the saved one: {same[0]}, decoder's: {same[1]}, projection: {same[2]}")
if (in_memory, names, tied, same) != (True, ["lm_head.weight", "model.shared.weight"], False, [False, False, True]):
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
(cd "$work" && env HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$work/env/bin/python" -W ignore try.py)
