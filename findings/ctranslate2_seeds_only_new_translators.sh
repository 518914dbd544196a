#!/usr/bin/env bash
# Ground: CTranslate2, sampling (back-translation).
# Guessed: set_random_seed makes what is sampled next repeatable.
# Is: it reaches translators that are made after it and have not translated yet. A translator that has gone on sampling takes
#   no notice: the same seed before each of two calls gives two texts.
# Versions: ctranslate2 4.8.5, Python 3.11. A made-up model with random weights.
# Why it matters: a corpus of sampled back-translations, made shard by shard with a seed for each, cannot be made again, and
#   shards depend on which were made before in the same process.
# Seen:
#   seed, new translator, twice: the same text: True
#   seed, the same translator, twice: the same text: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q ctranslate2==4.8.5 numpy
cat > "$work/try.py" <<'PY'
import tempfile

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerSpec
from ctranslate2.specs.model_spec import LayerSpec

print("ctranslate2", ctranslate2.__version__)
spec = TransformerSpec.from_config(num_layers=1, num_heads=2)
random, words, width = np.random.default_rng(0), 200, 16


def fill(layer):
    """Random weights for everything that has some: norms, linear layers, embeddings."""
    for name, value in list(vars(layer).items()):
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, LayerSpec):
                fill(part)
    kind = type(layer).__name__
    if kind == "LayerNormSpec":
        layer.gamma, layer.beta = np.ones(width, np.float32), np.zeros(width, np.float32)
    elif kind == "EmbeddingsSpec":
        layer.weight = random.normal(size=(words, width)).astype(np.float32)
    elif kind == "LinearSpec":
        layer.weight, layer.bias = np.zeros((width, width), np.float32), np.zeros(width, np.float32)


def linear(layer, outputs):
    layer.weight = random.normal(0, 0.3, (outputs, layer.weight.shape[1])).astype(np.float32)
    layer.bias = np.zeros(outputs, np.float32)


fill(spec)
for side in (spec.encoder, spec.decoder):
    side.position_encodings.encodings = np.zeros((64, width), np.float32)
for layer in (*spec.encoder.layer, *spec.decoder.layer):
    linear(layer.self_attention.linear[0], 3 * width)
    linear(layer.self_attention.linear[1], width)
for layer in spec.decoder.layer:
    linear(layer.attention.linear[0], width)
    linear(layer.attention.linear[1], 2 * width)
    linear(layer.attention.linear[2], width)
linear(spec.decoder.projection, words)
vocabulary = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, words))]
spec.register_source_vocabulary(vocabulary)
spec.register_target_vocabulary(vocabulary)
spec.validate()


def sample(translator):
    result = translator.translate_batch([["w5", "w6"]], beam_size=1, sampling_topk=0, max_decoding_length=12, min_decoding_length=12)
    return result[0].hypotheses[0]


with tempfile.TemporaryDirectory() as folder:
    spec.save(folder)
    new = []
    for _ in range(2):
        ctranslate2.set_random_seed(3)
        translator = ctranslate2.Translator(folder, device="cpu", inter_threads=1, intra_threads=1)
        new.append(sample(translator))
    old = []
    for _ in range(2):
        ctranslate2.set_random_seed(3)
        old.append(sample(translator))
print("seed, new translator, twice: the same text:", new[0] == new[1])
print("seed, the same translator, twice: the same text:", old[0] == old[1])
if (new[0] == new[1], old[0] == old[1]) != (True, False):
    raise SystemExit("CHANGED: not what is stated at the head of this file")
PY
(cd "$work" && "$work/env/bin/python" -W ignore try.py)
