"""The PyTorch implementation: runs where nothing can be compiled, on any device, in any float dtype.

A chunk's logits become its gradient in place. Letters: see types.py; R = K * C rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.kernels.loss_inputs import LossInputs, accumulation_dtype
from mnmt_ds.kernels.statistics import Statistics, Workspace

BUDGET = {"cpu": 64 << 20, "cuda": 512 << 20}
"""Bytes of logits held at once, student's and teachers' together."""


class _Saved(NamedTuple):
    """What a chunk's statistics leave for its gradients."""

    p_KCV: Tensor
    """The student's probabilities, where its logits were."""
    teacher_p_jCV: list[Tensor]
    """Each teacher's, at its temperature."""
    hidden_RD: Tensor
    centred_logp_KCV: Tensor | None
    """log p_k - mean over passes of log p; None for one pass."""
    p_at_temperature_KCV: dict[int, Tensor]
    """The student's probabilities at a teacher's temperature, by the teacher's index; where that is not 1."""


def max_chunk_tokens(inputs: LossInputs, vocabulary_size: int = 0) -> int:
    """Computes how many tokens' logits the budget holds.

    Args:
        inputs: the loss's arguments as rows.
        vocabulary_size: words of a row of logits; 0: the projection's.

    Returns:
        Tokens, at least 1.
    """
    itemsize = accumulation_dtype(inputs.hidden_KND.dtype, inputs.projection_VD.dtype).itemsize
    rows_per_token = inputs.passes + len(inputs.teachers)
    token_bytes = rows_per_token * (vocabulary_size or inputs.vocabulary_size) * itemsize
    return max(1, BUDGET.get(inputs.hidden_KND.device.type, 64 << 20) // token_bytes)


def statistics(inputs: LossInputs, chunk: slice, workspace: Workspace) -> Statistics:
    """Computes logits and all that gates and logs need; leaves probabilities in the logits' places for the gradients.

    Args:
        inputs: the loss's arguments as rows.
        chunk: the tokens to take.
        workspace: scratch memory.

    Returns:
        The chunk's statistics.
    """
    gold_C = inputs.gold_N[chunk]
    z_KCV, hidden_RD = _student_logits(inputs, chunk, workspace)
    teacher_z_jCV = [_teacher_logits(inputs, j, chunk, workspace) for j in range(len(inputs.teachers))]
    passes, tokens, vocabulary_size = z_KCV.shape
    column_sum_D = _cached(workspace, "column_sum", lambda: _weights(inputs, workspace).sum(0))
    logit_sum_KC = (hidden_RD @ column_sum_D).view(passes, -1)
    index_KC1 = gold_C.expand(passes, -1).unsqueeze(-1)
    gold_KC = z_KCV.gather(-1, index_KC1).squeeze(-1)
    argmax_KC = z_KCV.argmax(-1) if teacher_z_jCV else gold_C
    teacher, kd, agree, p_at_temperature = [], [], [], {}
    for j, (t, z_CV) in enumerate(zip(inputs.teachers, teacher_z_jCV, strict=True)):
        agree.append(torch.eq(argmax_KC, z_CV.argmax(-1)))
        teacher_gold_C = z_CV.gather(-1, gold_C.unsqueeze(-1)).squeeze(-1)
        if t.temperature == 1.0:
            teacher.append((teacher_gold_C - _softmax_(z_CV)).exp())
            kd.append(-torch.linalg.vecdot(z_CV, z_KCV))  # the student's log-sum-exp is added below
        else:
            teacher.append((teacher_gold_C - z_CV.logsumexp(-1)).exp())
            _softmax_(z_CV.div_(t.temperature))
            z_at_temperature_KCV = z_KCV / t.temperature
            cross_KC = torch.linalg.vecdot(z_CV, z_at_temperature_KCV)
            kd.append(t.temperature**2 * (_softmax_(z_at_temperature_KCV) - cross_KC))
            p_at_temperature[j] = z_at_temperature_KCV
    divergence_C, centred_KCV = z_KCV.new_zeros(tokens), None
    if passes > 1:
        centred_KCV = z_KCV.log_softmax(-1)
        lse_KC = gold_KC - centred_KCV.gather(-1, index_KC1).squeeze(-1)
        torch.exp(centred_KCV, out=z_KCV)
        centred_KCV.sub_(centred_KCV.mean(0))
        divergence_C = torch.linalg.vecdot(z_KCV - z_KCV.mean(0), centred_KCV).mean(0)
    else:
        lse_KC = _softmax_(z_KCV)
    kd = [kd_KC if t.temperature != 1.0 else kd_KC + lse_KC for kd_KC, t in zip(kd, inputs.teachers, strict=True)]
    workspace.saved = _Saved(z_KCV, teacher_z_jCV, hidden_RD, centred_KCV, p_at_temperature)
    empty_JKC = (0, passes, tokens)
    return Statistics(
        gold_KC - lse_KC,
        logit_sum_KC / vocabulary_size - lse_KC,
        torch.stack(teacher) if teacher else z_KCV.new_zeros(0, tokens),
        torch.stack(kd) if kd else z_KCV.new_zeros(empty_JKC),
        torch.stack(agree) if agree else torch.zeros(empty_JKC, dtype=torch.bool, device=z_KCV.device),
        divergence_C,
    )


def gradients(
    inputs: LossInputs,
    chunk: slice,
    workspace: Workspace,
    gate_JKC: Tensor,
    dhidden_KCD: Tensor | None,
    dprojection_VD: Tensor | None,
) -> None:
    """Writes the chunk's hidden gradients and adds to the projection's (writes it for the first chunk).

    dL/dlogits of a token in one of K passes is 1/K times the sum of these terms (p: the student's probabilities, gold:
    1 at the gold token, q_j: teacher j's probabilities at its temperature T_j, p_Tj: the student's at T_j)::

        CE          weight * (p - (1 - smoothing) * gold - smoothing / V)
        KD_j        T_j * weight_j * gate_j * (p_Tj - q_j)
        divergence  divergence_weight * (p * (d - <p, d>) + p - mean of p over passes),
                    d = log p - mean of log p over passes

    All p at temperature 1 are multiplied at once, by the weight plus the sum of weight_j * gate_j. The last part of CE,
    equal for every word, is cheaper as a product of two vectors than as a pass over the matrix.

    Args:
        inputs: the loss's arguments as rows.
        chunk: the tokens to take.
        workspace: scratch memory, with what the statistics saved.
        gate_JKC: each teacher's gate.
        dhidden_KCD: written; None: not wanted.
        dprojection_VD: added to; None: not wanted.
    """
    saved: _Saved = workspace.saved
    p_KCV, centred_KCV = saved.p_KCV, saved.centred_logp_KCV
    passes, _, vocabulary_size = p_KCV.shape
    weight_C = inputs.weight_N[chunk]
    divergence_gradient = None
    if centred_KCV is not None and inputs.divergence_weight:
        expected_KC1 = torch.linalg.vecdot(p_KCV, centred_KCV).unsqueeze(-1)
        divergence_gradient = centred_KCV.sub_(expected_KC1).mul_(p_KCV).add_(p_KCV).sub_(p_KCV.mean(0))
    if inputs.teachers or not inputs.unweighted:
        factor_KC = weight_C.expand(passes, -1).clone()
        for j, t in enumerate(inputs.teachers):
            if t.temperature == 1.0:
                factor_KC += t.weight_N[chunk] * gate_JKC[j]
        p_KCV.mul_(factor_KC.unsqueeze(-1))
    for j, t in enumerate(inputs.teachers):
        kd_factor_KC1 = (t.temperature * t.weight_N[chunk] * gate_JKC[j]).unsqueeze(-1)
        p_KCV.addcmul_(saved.teacher_p_jCV[j], kd_factor_KC1, value=-1)
        if j in saved.p_at_temperature_KCV:
            p_KCV.addcmul_(saved.p_at_temperature_KCV[j], kd_factor_KC1)
    gold_KC1 = inputs.gold_N[chunk].expand(passes, -1).unsqueeze(-1)
    p_KCV.scatter_add_(-1, gold_KC1, (weight_C * (inputs.smoothing - 1)).expand(passes, -1).unsqueeze(-1))
    if divergence_gradient is not None:
        p_KCV.add_(divergence_gradient, alpha=inputs.divergence_weight)
    if passes > 1:
        p_KCV.div_(passes)
    dz_RV = p_KCV.view(-1, vocabulary_size)
    smoothing_R = weight_C.repeat(passes) * (-inputs.smoothing / vocabulary_size / passes)
    weights_VD, column_sum_D = _weights(inputs, workspace), workspace.buffers["column_sum"]
    if dhidden_KCD is not None:
        dhidden_KCD.view(-1, weights_VD.shape[1]).copy_(torch.addr(dz_RV @ weights_VD, smoothing_R, column_sum_D))
    if dprojection_VD is not None:
        if chunk.start == 0:
            torch.mm(dz_RV.t(), saved.hidden_RD, out=dprojection_VD)
        else:
            dprojection_VD.addmm_(dz_RV.t(), saved.hidden_RD)
        dprojection_VD += smoothing_R @ saved.hidden_RD


def _student_logits(inputs: LossInputs, chunk: slice, workspace: Workspace) -> tuple[Tensor, Tensor]:
    """(K, C, V) logits and (R, D) hidden states."""
    passes, _, width = inputs.hidden_KND.shape
    hidden_RD = inputs.hidden_KND[:, chunk].to(workspace.dtype).reshape(-1, width)
    z_RV = _product(hidden_RD, _weights(inputs, workspace), "student", workspace)
    return z_RV.view(passes, -1, inputs.vocabulary_size), hidden_RD


def _teacher_logits(inputs: LossInputs, j: int, chunk: slice, workspace: Workspace) -> Tensor:
    """(C, V) logits of a teacher, -inf outside its vocabulary."""
    t = inputs.teachers[j]
    weights_VE = _cached(workspace, f"weights{j}", lambda: t.projection_VE.to(workspace.dtype))
    z_CV = _product(t.hidden_NE[chunk].to(workspace.dtype), weights_VE, f"teacher{j}", workspace)
    return z_CV if t.vocabulary_V is None else z_CV.masked_fill_(~t.vocabulary_V, -torch.inf)


def _weights(inputs: LossInputs, workspace: Workspace) -> Tensor:
    """The student's projection in the accumulation dtype."""
    return _cached(workspace, "weights", lambda: inputs.projection_VD.to(workspace.dtype))


def _cached(workspace: Workspace, name: str, make: Callable[[], Tensor]) -> Tensor:
    """A tensor that all chunks share, made by the first."""
    if name not in workspace.buffers:
        workspace.buffers[name] = make()
    return workspace.buffers[name]


def _product(hidden_RX: Tensor, weights_VX: Tensor, name: str, workspace: Workspace) -> Tensor:
    """(R, V) logits in a buffer of the workspace."""
    shape = (hidden_RX.shape[0], weights_VX.shape[0])
    size = shape[0] * shape[1]
    return torch.mm(hidden_RX, weights_VX.t(), out=workspace.buffer(name, size)[:size].view(shape))


def _softmax_(z_XV: Tensor) -> Tensor:
    """Softmax in place; returns log-sum-exp: the largest probability, 1 / sum exp(z - max), cannot underflow."""
    max_X = z_XV.amax(-1)
    torch.softmax(z_XV, -1, out=z_XV)
    return max_X - z_XV.amax(-1).log()
