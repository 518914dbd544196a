"""What flows from data to loss: a batch of ONE language pair, and what teachers add to it.

Letters: B sentences (rows of ``source_BS`` and ``decoder_BT`` are K * B with K passes), S source positions, T target
positions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnmt_ds.kernels.target_rows import TargetRows
from mnmt_ds.kernels.types import Teacher

BOS, PAD, EOS, UNK = 0, 1, 2, 3
"""Special ids, as in M2M100 (so that an export needs no renumbering)."""


class Batch(NamedTuple):
    """Sentences of one language pair, padded; already framed with tags and end symbols."""

    source_BS: Tensor
    """int64, PAD on the right."""
    decoder_BT: Tensor
    """int64, decoder input: start symbol or tag, then the target shifted right."""
    target_BT: Tensor
    """int64, gold tokens and the end symbol; PAD where nothing counts."""
    pair: int
    """Index of the language pair in the run's list."""
    sentence_B: Tensor
    """int64, index of each sentence in its pair's training set (the key of caches); stays on the CPU."""
    tokens: int
    """Gold tokens of this micro-batch that count."""
    divisor: int
    """Gold tokens of the whole update, over all ranks and accumulation steps: the one divisor of the loss."""
    gold_weight: float = 1.0
    """Weight of the cross-entropy with gold (Pareto-MD: 1 - alpha)."""
    teachers: Mapping[str, Teacher] = {}
    """The teachers' states for this batch, by the name under which their term is reported; added by a method."""
    task: str = "translation"
    """What the batch is for, such as translation; a batch serves one task."""
    encoder_target_BS: Tensor | None = None
    """int64, gold tokens that the encoder is to predict, PAD where nothing counts; None where it predicts nothing."""
    task_divisor: int = 0
    """Gold tokens of the whole update in batches of this task; 0: all batches are."""
    update: int = 0
    """The update that this batch is part of, from 1; 0 outside training."""
    micro_batch: int = 0
    """Its number among this rank's micro-batches of that update, from 0."""
    passes: int = 1
    """K: source and decoder input hold K copies of the rows, one after another; all else stands once."""
    shared_memory: bool = False
    """All passes' decoders look at the first pass's encoder states (a fault of intra-distillation's released code)."""
    divergence_weight: float = 0.0
    """Weight of the K passes' X-divergence."""
    target_rows: TargetRows | None = None
    """Which tokens of ``target_BT`` count; found where the batch is made, so that nobody waits for a GPU to find it."""
    encoder_target_rows: TargetRows | None = None
    """The same of ``encoder_target_BS``."""


class MicroBatchContent(NamedTuple):
    """Contents of a micro-batch, which every rank knows before any rank reads it."""

    pair: int
    sentence: NDArray[np.int64]
    """Numbers of its sentences in the pair's training set."""


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copies a batch's tensors to a device; asynchronously where they are in pinned memory.

    Args:
        batch: the batch; teachers' states and the sentences' numbers stay where they are.
        device: where the tensors are to be.

    Returns:
        A new batch; what is on the device already is shared with the old one.
    """
    moved: dict[str, Any] = {**_tensors_to(batch, device), "sentence_B": batch.sentence_B}
    for name in ("target_rows", "encoder_target_rows"):
        rows: TargetRows | None = getattr(batch, name)
        moved[name] = rows and rows._replace(**_tensors_to(rows, device))
    return batch._replace(**moved)


def _tensors_to(fields: Batch | TargetRows, device: torch.device) -> dict[str, Any]:
    """A tuple's tensors on a device, by name."""
    tensors = {name: value for name, value in fields._asdict().items() if isinstance(value, Tensor)}
    return {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
