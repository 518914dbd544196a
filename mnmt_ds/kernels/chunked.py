"""The PyTorch implementation: runs where nothing can be compiled, on any device, in any float dtype.

A chunk's logits become its gradient in place. Letters: see types.py; C tokens of a chunk, R = K * C rows.
"""

from typing import Any

import torch
from torch import Tensor

from mnmt_ds.kernels.loss_inputs import LossInputs, accumulator
from mnmt_ds.kernels.statistics import Statistics, Workspace

BUDGET = {"cpu": 64 << 20, "cuda": 512 << 20}
"""Bytes of logits held at once, student's and teachers' together."""


def most_tokens(problem: LossInputs, words: int = 0) -> int:
    """Tokens whose logits, over so many words (0: the projection's), the budget holds."""
    wide = accumulator(problem.hidden_KND.dtype, problem.projection_VD.dtype).itemsize
    buffers = problem.passes + len(problem.teachers)
    row = buffers * (words or problem.vocabulary) * wide
    return max(1, BUDGET.get(problem.hidden_KND.device.type, 64 << 20) // row)


def statistics(problem: LossInputs, cut: slice, store: Workspace) -> Statistics:
    """All that gates and logs need; keeps probabilities in the logits' places for the gradients."""
    gold_C = problem.gold_N[cut]
    z_KCV, hidden_RD = _student(problem, cut, store)
    z_jCV = [_teacher(problem, j, cut, store) for j in range(len(problem.teachers))]
    passes, tokens, vocabulary = z_KCV.shape
    total_KC = (hidden_RD @ _kept(store, "column", lambda: _weights(problem, store).sum(0))).view(passes, -1)
    index_KC1 = gold_C.expand(passes, -1).unsqueeze(-1)
    gold_KC = z_KCV.gather(-1, index_KC1).squeeze(-1)
    best_KC = z_KCV.argmax(-1) if z_jCV else gold_C
    teacher, kd, agree, extra = [], [], [], {}
    for j, (t, z_CV) in enumerate(zip(problem.teachers, z_jCV, strict=True)):
        agree.append(torch.eq(best_KC, z_CV.argmax(-1)))
        at_C = z_CV.gather(-1, gold_C.unsqueeze(-1)).squeeze(-1)
        if t.temperature == 1.0:
            teacher.append((at_C - _softmax_(z_CV)).exp())
            kd.append(-torch.linalg.vecdot(z_CV, z_KCV))  # the student's log-sum-exp is added below
        else:
            teacher.append((at_C - z_CV.logsumexp(-1)).exp())
            _softmax_(z_CV.div_(t.temperature))
            warm_KCV = z_KCV / t.temperature
            cross_KC = torch.linalg.vecdot(z_CV, warm_KCV)
            kd.append(t.temperature**2 * (_softmax_(warm_KCV) - cross_KC))
            extra[j] = warm_KCV
    divergence_C, centred_KCV = z_KCV.new_zeros(tokens), None
    if passes > 1:
        centred_KCV = z_KCV.log_softmax(-1)
        lse_KC = gold_KC - centred_KCV.gather(-1, index_KC1).squeeze(-1)
        torch.exp(centred_KCV, out=z_KCV)
        centred_KCV.sub_(centred_KCV.mean(0))
        divergence_C = torch.linalg.vecdot(z_KCV - z_KCV.mean(0), centred_KCV).mean(0)
    else:
        lse_KC = _softmax_(z_KCV)
    kd = [k if t.temperature != 1.0 else k + lse_KC for k, t in zip(kd, problem.teachers, strict=True)]
    store.kept = (z_KCV, z_jCV, hidden_RD, centred_KCV, extra)
    many = (0, passes, tokens)
    return Statistics(
        gold_KC - lse_KC,
        total_KC / vocabulary - lse_KC,
        torch.stack(teacher) if teacher else z_KCV.new_zeros(0, tokens),
        torch.stack(kd) if kd else z_KCV.new_zeros(many),
        torch.stack(agree) if agree else torch.zeros(many, dtype=torch.bool, device=z_KCV.device),
        divergence_C,
    )


def gradients(
    problem: LossInputs,
    cut: slice,
    store: Workspace,
    gate_JKC: Tensor,
    dhidden_KCD: Tensor | None,
    dprojection_VD: Tensor | None,
) -> None:
    """Writes the chunk's hidden gradients and adds to the projection's (writes it for the first chunk).

    c * p_s - q of the fused loss; the constant part of q, weight * smoothing / V for every word, is cheaper as a
    product of two vectors than as a pass over the matrix.
    """
    p_KCV, teacher_CV, hidden_RD, centred_KCV, warm = store.kept
    passes, _, vocabulary = p_KCV.shape
    weight_C = problem.weight_N[cut]
    divergent = None
    if centred_KCV is not None and problem.divergence_weight:
        lean_KC1 = torch.linalg.vecdot(p_KCV, centred_KCV).unsqueeze(-1)
        divergent = centred_KCV.sub_(lean_KC1).mul_(p_KCV).add_(p_KCV).sub_(p_KCV.mean(0))
    if problem.teachers or not problem.plain:
        mass_KC = weight_C.expand(passes, -1).clone()
        for j, t in enumerate(problem.teachers):
            if t.temperature == 1.0:
                mass_KC += t.weight_N[cut] * gate_JKC[j]
        p_KCV.mul_(mass_KC.unsqueeze(-1))
    for j, t in enumerate(problem.teachers):
        pull_KC1 = (t.temperature * t.weight_N[cut] * gate_JKC[j]).unsqueeze(-1)
        p_KCV.addcmul_(teacher_CV[j], pull_KC1, value=-1)
        if j in warm:
            p_KCV.addcmul_(warm[j], pull_KC1)
    gold_KC1 = problem.gold_N[cut].expand(passes, -1).unsqueeze(-1)
    p_KCV.scatter_add_(-1, gold_KC1, (weight_C * (problem.smoothing - 1)).expand(passes, -1).unsqueeze(-1))
    if divergent is not None:
        p_KCV.add_(divergent, alpha=problem.divergence_weight)
    if passes > 1:
        p_KCV.div_(passes)
    dz_RV = p_KCV.view(-1, vocabulary)
    floor_R = weight_C.repeat(passes) * (-problem.smoothing / vocabulary / passes)
    weights_VD, column_D = _weights(problem, store), store.buffers["column"]
    if dhidden_KCD is not None:
        dhidden_KCD.view(-1, weights_VD.shape[1]).copy_(torch.addr(dz_RV @ weights_VD, floor_R, column_D))
    if dprojection_VD is not None:
        if cut.start == 0:
            torch.mm(dz_RV.t(), hidden_RD, out=dprojection_VD)
        else:
            dprojection_VD.addmm_(dz_RV.t(), hidden_RD)
        dprojection_VD += floor_R @ hidden_RD


def _student(problem: LossInputs, cut: slice, store: Workspace) -> tuple[Tensor, Tensor]:
    passes, _, width = problem.hidden_KND.shape
    hidden_RD = problem.hidden_KND[:, cut].to(store.dtype).reshape(-1, width)
    z_RV = _product(hidden_RD, _weights(problem, store), "student", store)
    return z_RV.view(passes, -1, problem.vocabulary), hidden_RD


def _teacher(problem: LossInputs, j: int, cut: slice, store: Workspace) -> Tensor:
    t = problem.teachers[j]
    weights_VE = _kept(store, f"weights{j}", lambda: t.projection_VE.to(store.dtype))
    z_CV = _product(t.hidden_NE[cut].to(store.dtype), weights_VE, f"teacher{j}", store)
    return z_CV if t.vocabulary_V is None else z_CV.masked_fill_(~t.vocabulary_V, -torch.inf)


def _weights(problem: LossInputs, store: Workspace) -> Tensor:
    return _kept(store, "weights", lambda: problem.projection_VD.to(store.dtype))


def _kept(store: Workspace, name: str, make: Any) -> Tensor:
    if name not in store.buffers:
        store.buffers[name] = make()
    return store.buffers[name]


def _product(hidden_RX: Tensor, weights_VX: Tensor, name: str, store: Workspace) -> Tensor:
    shape = (hidden_RX.shape[0], weights_VX.shape[0])
    return torch.mm(
        hidden_RX, weights_VX.t(), out=store.buffer(name, shape[0] * shape[1])[: shape[0] * shape[1]].view(shape)
    )


def _softmax_(z_XV: Tensor) -> Tensor:
    """Softmax in place; returns log-sum-exp: the largest probability, 1 / sum exp(z - max), cannot underflow."""
    top_X = z_XV.amax(-1)
    torch._softmax(z_XV, -1, False, out=z_XV)
    return top_X - z_XV.amax(-1).log()
