"""What each place of the model's row costs, so that pipeline stages are cut evenly: measured, or by parameters."""

import json
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from mnmt_ds.batch import PAD
from mnmt_ds.distributed import device, on_main_first
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher
from mnmt_ds.models.layer_sequence import LayerEntry, LayerSegment, StageActivations, layer_entries
from mnmt_ds.models.settings import ModelSettings

LENGTH = 32
"""Tokens of a sentence, on both sides, in the batch that is timed."""
MOST_TOKENS = 2048
ROUNDS = 6
FILE = "pipeline.json"


def costs(recipe: Recipe, vocabulary_size: int) -> list[float]:
    """A cost for each place of the row; times are kept beside the run, so that a resumed run is cut alike."""
    assert recipe.pipeline is not None
    if recipe.pipeline.balance == "parameters":
        return by_parameters(layer_entries(recipe.model, vocabulary_size))
    return list(on_main_first(_times, recipe, vocabulary_size))


def by_parameters(row: Sequence[LayerEntry]) -> list[float]:
    """Parameters of each place; a tied matrix counts at every place that uses it, as its work does."""
    with torch.device("meta"):
        return [float(sum(parameter.numel() for parameter in part.make().parameters())) for part in row]


def by_time(model: ModelSettings, vocabulary_size: int, max_tokens: int, implementation: str) -> list[float]:
    """Seconds of each place, forward and backward, on this device: one layer of each kind, the best of some rounds. On
    a CPU they are the processor's, so that nothing counts as a layer's work that else ran on the machine."""
    row = layer_entries(model, vocabulary_size)
    rows, found = max(1, min(max_tokens, MOST_TOKENS) // LENGTH), dict[str, float]()
    with torch.random.fork_rng():
        token_BT = torch.randint(PAD + 1, vocabulary_size, (rows, min(LENGTH, model.max_positions))).to(device())
        for place, part in enumerate(row):
            if part.kind not in found:
                segment = LayerSegment(model, vocabulary_size, row, place, place + 1).to(device())
                for parameter in segment.parameters():
                    torch.nn.init.normal_(parameter, std=0.02)
                found[part.kind] = min(_seconds(segment, token_BT, implementation) for _ in range(ROUNDS))
    return [found[part.kind] for part in row]


def _seconds(segment: LayerSegment, token_BT: Tensor, implementation: str) -> float:
    shape = (*token_BT.shape, segment.settings.d_model)
    x_BTD, memory_BTD = (torch.randn(shape, device=token_BT.device, requires_grad=True) for _ in range(2))
    begin = _clock()
    if segment.entries[segment.start].kind in ("projection", "head"):
        weight_VD = next(segment.parameters())
        loss = ce_with_teacher(x_BTD, weight_VD, token_BT, implementation=implementation).loss
    else:
        loss = segment.pack(segment(StageActivations(token_BT, token_BT, x_BLD=x_BTD, memory_BSD=memory_BTD))).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return _clock() - begin


def _clock() -> float:
    if device().type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _times(recipe: Recipe, vocabulary_size: int) -> list[float]:
    path = recipe.directory / FILE
    if not path.exists():
        found = by_time(recipe.model, vocabulary_size, recipe.train.max_tokens, recipe.train.loss_implementation)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"seconds": found}), encoding="utf-8")
        temporary.replace(path)
    return [float(value) for value in json.loads(path.read_text(encoding="utf-8"))["seconds"]]
