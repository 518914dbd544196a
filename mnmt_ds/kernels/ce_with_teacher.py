"""The fused loss's one entry: gold and teacher cross-entropy, gates, and the K-pass divergence.

    loss = gold_weight * CE + sum_j weight_j * gate_j * KD_j + divergence_weight * X-divergence

reference.py defines it. ``implementation``: reference (plain PyTorch), chunked (PyTorch, no big matrix), cpu (C++),
cuda; auto takes the fastest that runs here. Letters: see types.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from mnmt_ds.kernels import operator, reference, tiles
from mnmt_ds.kernels.autograd import attach_gradients, compute_loss, gradients_needed
from mnmt_ds.kernels.implementations import TILES, resolve_implementation, select_implementation
from mnmt_ds.kernels.loss_inputs import check_arguments, flatten
from mnmt_ds.kernels.target_rows import TargetRows
from mnmt_ds.kernels.top_k import add_top_k_terms
from mnmt_ds.kernels.types import Gate, LossOptions, LossSums, Teacher
from mnmt_ds.kernels.vocab_parallel import vocab_parallel_ce_with_teacher

__all__ = ["Gate", "LossOptions", "LossSums", "TargetRows", "Teacher", "ce_with_teacher"]


def ce_with_teacher(
    hidden_BTD: Tensor,
    projection_VD: Tensor,
    target_BT: Tensor,
    teachers: Sequence[Teacher] = (),
    *,
    smoothing: float = 0.1,
    gold_weight: float | Tensor = 1.0,
    passes: int = 1,
    divergence_weight: float = 0.0,
    pad: int = 1,
    target_rows: TargetRows | None = None,
    sentence_sums: bool = False,
    implementation: str = "auto",
    group: dist.ProcessGroup | None = None,
) -> LossSums:
    """Computes the loss and its statistics.

    Args:
        hidden_BTD: decoder states, any float dtype; with K passes (K * B, T, D), pass after pass.
        projection_VD: output projection.
        target_BT: int64 or int32 gold tokens; positions equal to ``pad`` never count.
        teachers: none to any number.
        smoothing: see ``LossOptions``, as for the following six.
        gold_weight: a number, (B,) or (B, T).
        passes: K.
        divergence_weight: weight of the X-divergence.
        pad: target id that never counts.
        target_rows: of ``target_BT``, where they are known already.
        sentence_sums: whether ``ce_B`` and ``nll_B`` are wanted; not under torch.compile.
        implementation: auto, reference, chunked, cpu, cuda or triton.
        group: ranks over which every projection is split by words (vocab_parallel.py, whatever the implementation).

    Returns:
        Sums over tokens; ``loss`` is differentiable with respect to hidden states and projection.

    Raises:
        UserError: when shapes, dtypes, weights, targets or vocabularies do not fit, or the implementation cannot run.
    """
    options = LossOptions(smoothing, gold_weight, passes, divergence_weight, pad, target_rows, sentence_sums)
    if group is not None:
        return vocab_parallel_ce_with_teacher(hidden_BTD, projection_VD, target_BT, teachers, options, group)
    if implementation == "reference" or not any(teacher.top_k for teacher in teachers):
        return _loss(hidden_BTD, projection_VD, target_BT, teachers, options, implementation)
    options = check_arguments(hidden_BTD, projection_VD, target_BT, teachers, options)

    def loss_of_other_teachers(others: Sequence[Teacher]) -> LossSums:
        return _loss(hidden_BTD, projection_VD, target_BT, others, options, implementation)

    return add_top_k_terms(loss_of_other_teachers, hidden_BTD, projection_VD, target_BT, teachers, options)


def _loss(
    hidden_BTD: Tensor, projection_VD: Tensor, target_BT: Tensor, teachers: Sequence[Teacher], options: LossOptions,
    implementation: str,
) -> LossSums:  # fmt: skip
    """The loss on one device, of teachers without top_k (but in the reference)."""
    if torch.compiler.is_compiling():
        return operator.call(hidden_BTD, projection_VD, target_BT, teachers, options, implementation)
    if implementation == "reference":
        check_arguments(hidden_BTD, projection_VD, target_BT, teachers, options)
        return reference.ce_with_teacher(hidden_BTD, projection_VD, target_BT, teachers, options)
    needed = gradients_needed(hidden_BTD, projection_VD)
    if any(needed) and not teachers and hidden_BTD.device.type == "cpu" and hidden_BTD.dtype == torch.bfloat16:
        options = check_arguments(hidden_BTD, projection_VD, target_BT, teachers, options)
        inputs = flatten(hidden_BTD, projection_VD, target_BT, teachers, options)
        functions = select_implementation(resolve_implementation(implementation, hidden_BTD.device), inputs)
        if functions is TILES and len(inputs.gold_N):
            return tiles.loss_with_late_gradients(hidden_BTD, projection_VD, inputs)
    sums, inputs, results = compute_loss(
        hidden_BTD, projection_VD, target_BT, teachers, options, implementation, *needed
    )
    if not any(needed):
        return sums
    return sums._replace(loss=attach_gradients(hidden_BTD, projection_VD, sums.loss, inputs, results))
