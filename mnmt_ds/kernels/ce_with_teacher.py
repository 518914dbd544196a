"""The fused loss's one signature: gold and teacher cross-entropy, gates, and the K-pass divergence.

    loss = gold_weight * CE + sum_j weight_j * gate_j * KD_j + divergence_weight * X-divergence

reference.py defines it. ``implementation``: reference (plain PyTorch), chunked (PyTorch, no big matrix), cpu (C++),
cuda; auto takes the fastest that runs here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from mnmt_ds.kernels import operator, reference
from mnmt_ds.kernels.autograd import attach, run
from mnmt_ds.kernels.loss_inputs import check
from mnmt_ds.kernels.top_k import with_top_k
from mnmt_ds.kernels.types import Gate, LossSums, Teacher
from mnmt_ds.kernels.vocab_parallel import vocab_parallel_ce_with_teacher

__all__ = ["Gate", "LossSums", "Teacher", "ce_with_teacher"]


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
    implementation: str = "auto",
    group: dist.ProcessGroup | None = None,
) -> LossSums:
    """The loss and its statistics; with K passes, hidden states are (K * B, T, D), pass after pass.

    target_BT: integer; positions equal to ``pad`` never count. gold_weight: a number, (B,) or (B, T).
    group: ranks over which every projection is split by words (sharded.py, whatever the implementation).
    UserError where shapes, dtypes, weights, targets or vocabularies do not fit.
    """
    if group is not None:
        return vocab_parallel_ce_with_teacher(
            hidden_BTD, projection_VD, target_BT, teachers, group=group, smoothing=smoothing, gold_weight=gold_weight,
            passes=passes, divergence_weight=divergence_weight, pad=pad,
        )  # fmt: skip
    if implementation != "reference" and any(teacher.top_k for teacher in teachers):
        check(hidden_BTD, projection_VD, target_BT, teachers, smoothing, gold_weight, passes, divergence_weight, pad)

        def fused(others: Sequence[Teacher]) -> LossSums:
            return ce_with_teacher(
                hidden_BTD, projection_VD, target_BT, others, smoothing=smoothing, gold_weight=gold_weight,
                passes=passes, divergence_weight=divergence_weight, pad=pad, implementation=implementation,
            )  # fmt: skip

        return with_top_k(fused, hidden_BTD, projection_VD, target_BT, teachers, passes, pad)
    arguments = (teachers, smoothing, gold_weight, passes, divergence_weight, pad)
    if torch.compiler.is_compiling():
        return operator.call(hidden_BTD, projection_VD, target_BT, *arguments, implementation)
    if implementation == "reference":
        check(hidden_BTD, projection_VD, target_BT, *arguments)
        return reference.ce_with_teacher(
            hidden_BTD, projection_VD, target_BT, teachers, smoothing=smoothing, gold_weight=gold_weight,
            passes=passes, divergence_weight=divergence_weight, pad=pad,
        )  # fmt: skip
    grad = torch.is_grad_enabled()
    wanted = (grad and hidden_BTD.requires_grad, grad and projection_VD.requires_grad)
    result, problem, found = run(hidden_BTD, projection_VD, target_BT, *arguments, implementation, *wanted)
    if not any(wanted):
        return result
    return result._replace(loss=attach(hidden_BTD, projection_VD, result.loss, problem, found))
