"""What each layer of the model costs, so that pipeline stages are cut evenly: measured, or by parameters.

Shape letters: B sentences, T positions, L positions of the states, S source positions, D model width, V words.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import TypedDict

from mnmt_ds.batch import PAD
from mnmt_ds.distributed import device, on_main_first
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import UserError
from mnmt_ds.files import write_text
from mnmt_ds.json_files import read_json
from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher
from mnmt_ds.models.layer_sequence import LayerEntry, ModelChunk, StageActivations, layer_entries
from mnmt_ds.models.settings import ModelSettings

LENGTH = 32
"""Tokens of a sentence, on both sides, in the batch that is timed."""
MOST_TOKENS = 2048
"""Tokens of that batch at most."""
ROUNDS = 6
"""How often each kind of layer is timed."""
FILE = "pipeline.json"
"""Where a run keeps its times."""


def costs(recipe: Recipe, vocabulary_size: int) -> list[float]:
    """Computes a cost of each layer; measured times are kept beside the run, so that a resumed run is cut alike.

    Args:
        recipe: with a pipeline.
        vocabulary_size: V.

    Returns:
        Seconds, or parameters, of each layer; equal on every rank.
    """
    assert recipe.pipeline is not None
    if recipe.pipeline.balance == "parameters":
        return by_parameters(layer_entries(recipe.model, vocabulary_size))
    return list(on_main_first(_kept_times, recipe, vocabulary_size))


def by_parameters(entries: Sequence[LayerEntry]) -> list[float]:
    """Counts the parameters of each layer.

    Args:
        entries: the model's layers in order.

    Returns:
        Parameters; a tied matrix counts at every layer that uses it, as its work does.
    """
    with torch.device("meta"):
        return [float(sum(parameter.numel() for parameter in entry.make().parameters())) for entry in entries]


def by_time(model: ModelSettings, vocabulary_size: int, max_tokens: int, implementation: str) -> list[float]:
    """Times each layer, forward and backward, on this device: one layer of each kind, the best of some rounds.

    Args:
        model: whose layers are timed.
        vocabulary_size: V.
        max_tokens: padded tokens of a micro-batch.
        implementation: of the loss.

    Returns:
        Seconds of each layer. On a CPU they are the processor's, so that nothing counts as a layer's work that else ran
        on the machine.
    """
    entries = layer_entries(model, vocabulary_size)
    rows, seconds = max(1, min(max_tokens, MOST_TOKENS) // LENGTH), dict[str, float]()
    with torch.random.fork_rng():
        token_BT = torch.randint(PAD + 1, vocabulary_size, (rows, min(LENGTH, model.max_positions))).to(device())
        for index, entry in enumerate(entries):
            if entry.kind not in seconds:
                model_chunk = ModelChunk(model, vocabulary_size, entries, index, index + 1).to(device())
                for parameter in model_chunk.parameters():
                    torch.nn.init.normal_(parameter, std=0.02)
                seconds[entry.kind] = min(_seconds(model_chunk, token_BT, implementation) for _ in range(ROUNDS))
    return [seconds[entry.kind] for entry in entries]


class _Times(TypedDict):
    seconds: list[float]


def read_times(path: Path) -> list[float]:
    """Reads the times that a run has kept.

    Args:
        path: of the run's ``FILE``.

    Returns:
        Seconds of each layer.

    Raises:
        UserError: where the file holds none.
    """
    try:
        return [float(value) for value in read_json(path, _Times)["seconds"]]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no times of layers ({error}); remove it, they are measured again") from None


def _seconds(model_chunk: ModelChunk, token_BT: Tensor, implementation: str) -> float:
    shape = (*token_BT.shape, model_chunk.settings.d_model)
    x_BTD, memory_BTD = (torch.randn(shape, device=token_BT.device, requires_grad=True) for _ in range(2))
    began = _clock()
    if model_chunk.entries[model_chunk.start].kind in ("projection", "head"):
        weight_VD = next(model_chunk.parameters())
        loss = ce_with_teacher(x_BTD, weight_VD, token_BT, implementation=implementation).loss
    else:
        loss = model_chunk.pack(
            model_chunk(StageActivations(token_BT, token_BT, x_BLD=x_BTD, memory_BSD=memory_BTD))
        ).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return _clock() - began


def _clock() -> float:
    if device().type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _kept_times(recipe: Recipe, vocabulary_size: int) -> list[float]:
    path = recipe.directory / FILE
    if not path.exists():
        train = recipe.train
        seconds = by_time(recipe.model, vocabulary_size, train.max_tokens, train.loss_implementation)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"seconds": seconds}))
    return read_times(path)
