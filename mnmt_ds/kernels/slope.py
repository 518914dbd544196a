"""From gates to the coefficients that native gradient kernels take (Slope in csrc/rows.h)."""

import torch
from torch import Tensor

from mnmt_ds.kernels.problem import Problem


def slope_rows(
    problem: Problem,
    cut: slice,
    lse_KC: Tensor,
    lean_KC: Tensor,
    teacher_lse_JC: Tensor,
    warm_lse_JKC: Tensor,
    gate_JKC: Tensor,
) -> Tensor:
    """(rows, C): for each pass log-sum-exp, mass, lean; floor; gold; for each teacher its log-sum-exp and, for each pass, warm and pull."""
    passes, weight_C = problem.passes, problem.weight_N[cut] / problem.passes
    mass_KC = weight_C.expand(passes, -1)
    tail = [weight_C * (problem.smoothing / problem.vocabulary), weight_C * (1 - problem.smoothing)]
    for j, t in enumerate(problem.teachers):
        pull_KC = (t.weight_N[cut] * (t.temperature / passes)) * gate_JKC[j]
        if t.temperature == 1.0:
            mass_KC = mass_KC + pull_KC
        tail.append(teacher_lse_JC[j])
        for k in range(passes):
            tail += [warm_lse_JKC[j, k], pull_KC[k]]
    head = [row for k in range(passes) for row in (lse_KC[k], mass_KC[k], lean_KC[k])]
    return torch.stack(head + tail)
