"""How a student asks another one for its states of some text: requests as one int64 tensor, and back.

Shape letters: B sentences, S source positions, T target positions.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.batch import Batch

EVAL_MODE = -1
"""In the place of a seed: no dropout."""


class WantedStates(NamedTuple):
    """The students whose states a micro-batch needs, and the text."""

    students: Sequence[str]
    """Names; empty: nobody's."""
    batch: Batch
    """Only its source and decoder tokens count."""
    seed: int
    """Seed of the other students' dropout; ``EVAL_MODE``: none."""


class PeerRequest(NamedTuple):
    """Header that a member sends of a micro-batch, before its text."""

    students: int = 0
    """A bit for each student whose states it wants, by their order in the run."""
    rows: int = 0
    """B."""
    source: int = 0
    """S."""
    target: int = 0
    """T."""
    seed: int = EVAL_MODE
    """Seed of the other students' dropout."""


def encode_requests(names: Sequence[str], wanted_states: Sequence[WantedStates]) -> Tensor:
    """Encodes the requests of an update's micro-batches.

    Args:
        names: all students, in order.
        wanted_states: of each micro-batch.

    Returns:
        int64: how many requests, the requests, the text of those that somebody has to answer; empty where there are no
        micro-batches.
    """
    requests, texts = [], []
    for students, batch, seed in wanted_states:
        (rows, source), target = batch.source_BS.shape, batch.decoder_BT.shape[1]
        bits = sum(1 << names.index(name) for name in students)
        requests.append(PeerRequest(bits, rows, source, target, seed) if students else PeerRequest())
        texts += [batch.source_BS.flatten(), batch.decoder_BT.flatten()] if students else []
    numbers = [len(requests), *chain(*requests)] if requests else []
    return torch.cat([torch.tensor(numbers, dtype=torch.int64), *texts])


def decode_requests(encoded: Tensor) -> list[tuple[PeerRequest, Batch]]:
    """Decodes what ``encode_requests`` encoded.

    Args:
        encoded: int64, one-dimensional.

    Returns:
        The requests with their batches.
    """
    width, count = len(PeerRequest._fields), int(encoded[0]) if len(encoded) else 0
    numbers, text = encoded[1 : 1 + count * width], encoded[1 + count * width :]
    requests = [PeerRequest(*row) for row in numbers.view(count, width).tolist()]
    shapes = [(request.rows, length) for request in requests for length in (request.source, request.target)]
    parts = text.split([rows * length for rows, length in shapes])
    tokens = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    batches = [
        Batch(source_BS, decoder_BT, decoder_BT, 0, decoder_BT, 0, 1)
        for source_BS, decoder_BT in zip(tokens[::2], tokens[1::2], strict=True)
    ]
    return list(zip(requests, batches, strict=True))
