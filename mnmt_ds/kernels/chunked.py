"""Row arithmetic of the fused loss in PyTorch: what runs where nothing can be compiled, in any float dtype.

Works on one chunk whose logits are there; they become the gradient in place. Letters: see types.py; C tokens of a chunk.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.kernels.problem import TeacherRows


class Rows(NamedTuple):
    """A chunk: logits, and what each token asks of them."""

    logits_KCV: Tensor
    """Overwritten: first by probabilities, then by the gradient."""
    teacher_logits: tuple[Tensor, ...]
    """(C, V) each; overwritten."""
    gold_C: Tensor
    weight_C: Tensor
    teachers: tuple[TeacherRows, ...]
    """With rows cut to the chunk."""
    smoothing: float
    divergence_weight: float
    plain: bool


class Statistics(NamedTuple):
    """Per token; first axes K passes, J teachers."""

    lse_KC: Tensor
    gold_KC: Tensor
    """The gold token's logit."""
    teacher_JC: Tensor
    """The gold token's probability under each teacher."""
    kd_JKC: Tensor
    """T^2 * CE(teacher / T, student / T)."""
    agree_JKC: Tensor
    divergence_C: Tensor


def statistics(rows: Rows, scratch: dict[str, Tensor]) -> Statistics:
    """All that gates and logs need; leaves probabilities in the logits' places."""
    z_KCV = rows.logits_KCV
    passes, tokens, vocabulary = z_KCV.shape
    scratch.clear()
    index_KC1 = rows.gold_C.expand(passes, -1).unsqueeze(-1)
    gold_KC = z_KCV.gather(-1, index_KC1).squeeze(-1)
    teacher, kd, agree = [], [], []
    best_KC = z_KCV.argmax(-1) if rows.teachers else None
    for j, (t, z_CV) in enumerate(zip(rows.teachers, rows.teacher_logits, strict=True)):
        if t.vocabulary_V is not None:
            z_CV.masked_fill_(~t.vocabulary_V, -torch.inf)
        agree.append(best_KC == z_CV.argmax(-1))
        at_C = z_CV.gather(-1, rows.gold_C.unsqueeze(-1)).squeeze(-1)
        if t.temperature == 1.0:
            teacher.append((at_C - _softmax_(z_CV)).exp())
            kd.append(-torch.linalg.vecdot(z_CV, z_KCV))  # LSE is added below
        else:
            teacher.append((at_C - z_CV.logsumexp(-1)).exp())
            _softmax_(z_CV.div_(t.temperature))
            warm_KCV = z_KCV / t.temperature
            cross_KC = torch.linalg.vecdot(z_CV, warm_KCV)
            kd.append(t.temperature**2 * (_softmax_(warm_KCV) - cross_KC))
            scratch[f"warm{j}"] = warm_KCV
    divergence_C = z_KCV.new_zeros(tokens)
    if passes > 1:
        logp_KCV = z_KCV.log_softmax(-1)
        lse_KC = gold_KC - logp_KCV.gather(-1, index_KC1).squeeze(-1)
        torch.exp(logp_KCV, out=z_KCV)
        centred_KCV = logp_KCV.sub_(logp_KCV.mean(0))
        divergence_C = torch.linalg.vecdot(z_KCV - z_KCV.mean(0), centred_KCV).mean(0)
        scratch["centred"] = centred_KCV
    else:
        lse_KC = _softmax_(z_KCV)
    kd = [k if t.temperature != 1.0 else k + lse_KC for k, t in zip(kd, rows.teachers, strict=True)]
    stack = torch.stack
    return Statistics(
        lse_KC,
        gold_KC,
        stack(teacher) if teacher else z_KCV.new_zeros(0, tokens),
        stack(kd) if kd else z_KCV.new_zeros(0, passes, tokens),
        stack(agree) if agree else torch.zeros(0, passes, tokens, dtype=torch.bool, device=z_KCV.device),
        divergence_C,
    )


def gradient(rows: Rows, gate_JKC: Tensor, scratch: dict[str, Tensor]) -> float:
    """Writes K * dloss/dlogits over the probabilities, but for the constant -weight * smoothing / V, which it returns.

    c * p_s - q of performance.md: the constant part of q is cheaper as two vectors than as a pass over the matrix.
    """
    p_KCV = rows.logits_KCV
    passes, _, vocabulary = p_KCV.shape
    divergent = None
    if "centred" in scratch and rows.divergence_weight:
        centred_KCV = scratch["centred"]
        lean_KC1 = torch.linalg.vecdot(p_KCV, centred_KCV).unsqueeze(-1)
        divergent = centred_KCV.sub_(lean_KC1).mul_(p_KCV).add_(p_KCV).sub_(p_KCV.mean(0))
    if rows.teachers or not rows.plain:
        c_KC = rows.weight_C.expand(passes, -1).clone()
        for j, t in enumerate(rows.teachers):
            if t.temperature == 1.0:
                c_KC += t.weight_N * gate_JKC[j]
        p_KCV.mul_(c_KC.unsqueeze(-1))
    for j, t in enumerate(rows.teachers):
        scale_KC1 = (t.temperature * t.weight_N * gate_JKC[j]).unsqueeze(-1)
        p_KCV.addcmul_(rows.teacher_logits[j], scale_KC1, value=-1)
        if t.temperature != 1.0:
            p_KCV.addcmul_(scratch[f"warm{j}"], scale_KC1)
    gold_KC1 = rows.gold_C.expand(passes, -1).unsqueeze(-1)
    one_KC1 = (rows.weight_C * -(1 - rows.smoothing)).expand(passes, -1).unsqueeze(-1)
    p_KCV.scatter_add_(-1, gold_KC1, one_KC1)
    if divergent is not None:
        p_KCV.add_(divergent, alpha=rows.divergence_weight)
    return -rows.smoothing / vocabulary


def _softmax_(z_XV: Tensor) -> Tensor:
    """Softmax in place; returns log-sum-exp: the largest probability is 1 / sum exp(z - max), which cannot underflow."""
    top_X = z_XV.amax(-1)
    torch._softmax(z_XV, -1, False, out=z_XV)
    return top_X - z_XV.amax(-1).log()
