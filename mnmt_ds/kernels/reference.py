"""The definition: the fused loss in plain PyTorch, every (token, word) matrix held whole, gradients by autograd.

Runs in any float dtype (float64 for proofs). Everything else in this package must agree with this file.
Letters: see types.py; k words of a top-k distribution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mnmt_ds.kernels.gates import gate_value
from mnmt_ds.kernels.types import LossOptions, LossSums, Teacher


def ce_with_teacher(
    hidden_BTD: Tensor, projection_VD: Tensor, target_BT: Tensor, teachers: Sequence[Teacher], options: LossOptions
) -> LossSums:
    """Computes the loss and its statistics by the definition.

    gold_weight * CE + sum_j weight_j * gate_j * KD_j, averaged over passes, + divergence_weight * X-divergence, with
    CE = -(1 - smoothing) * log p(gold) - smoothing * mean_v log p(v) and
    KD = -T^2 * sum_v softmax(teacher / T)_v * log softmax(student / T)_v.

    Args:
        hidden_BTD: decoder states; with K passes (K * B, T, D), pass after pass.
        projection_VD: output projection.
        target_BT: gold tokens.
        teachers: none to any number.
        options: weights, smoothing, passes, padding.

    Returns:
        Sums over tokens; ``loss`` is differentiable.
    """
    smoothing, gold_weight, passes, divergence_weight, pad, *_ = options
    valid_BT = target_BT != pad
    gold_BT = target_BT.where(valid_BT, 0)
    logits_KBTV = _logits(hidden_BTD, projection_VD, valid_BT.repeat(passes, 1)).unflatten(0, (passes, -1))  # type: ignore[no-untyped-call]
    logp_KBTV = logits_KBTV.log_softmax(-1)

    def per_token(values_BT: Tensor) -> Tensor:
        return values_BT.where(valid_BT, 0)

    def per_sentence(values_BT: Tensor) -> Tensor:
        return per_token(values_BT).sum(-1) / valid_BT.sum(-1).clamp(min=1)

    nll_KBT = -_at(logp_KBTV, gold_BT)
    ce_KBT = (1 - smoothing) * nll_KBT - smoothing * logp_KBTV.mean(-1)
    probability_KBT = (-nll_KBT).exp().detach()
    loss_KBT = _weight(gold_weight) * ce_KBT

    kd, gates, probabilities, agreements = [], [], [], []
    for teacher in teachers:
        logits_BTV = _logits(teacher.hidden_BTE, teacher.projection_VE, valid_BT).detach()
        if teacher.vocabulary_V is not None:
            logits_BTV = logits_BTV.masked_fill(~teacher.vocabulary_V, -torch.inf)
        teacher_BT = _at(logits_BTV.log_softmax(-1), gold_BT).exp()
        if teacher.top_k:
            kth_BT1 = logits_BTV.topk(min(teacher.top_k, logits_BTV.shape[-1]), -1).values[..., -1:]
            logits_BTV = logits_BTV.masked_fill(logits_BTV < kth_BT1, -torch.inf)
        kd_KBT = -(teacher.temperature**2) * (
            (logits_BTV / teacher.temperature).softmax(-1) * (logits_KBTV / teacher.temperature).log_softmax(-1)
        ).sum(-1)
        if teacher.gate.level == "token":
            gate_KBT = gate_value(teacher.gate, teacher_BT, probability_KBT)
        else:
            gate_KB = gate_value(teacher.gate, per_sentence(teacher_BT), per_sentence(probability_KBT))
            gate_KBT = gate_KB.unsqueeze(-1).expand_as(kd_KBT)
        loss_KBT = loss_KBT + _weight(teacher.weight) * gate_KBT * kd_KBT
        kd.append(per_token(gate_KBT * kd_KBT).detach().sum() / passes)
        gates.append(per_sentence(gate_KBT).mean(0))
        probabilities.append(per_sentence(teacher_BT))
        agreements.append(per_sentence((logits_KBTV.argmax(-1) == logits_BTV.argmax(-1)).to(kd_KBT)).mean(0))

    divergence = per_token(x_divergence(logp_KBTV)).sum()
    return LossSums(
        loss=per_token(loss_KBT).sum() / passes + divergence_weight * divergence,
        ce=per_token(ce_KBT).detach().sum() / passes,
        nll=per_token(nll_KBT).detach().sum() / passes,
        tokens=valid_BT.sum().to(loss_KBT),
        kd=tuple(kd),
        gate=tuple(gates),
        student_probability_B=per_sentence(probability_KBT).mean(0),
        teacher_probability=tuple(probabilities),
        agreement=tuple(agreements),
        divergence=divergence.detach(),
        ce_B=per_token(ce_KBT).detach().sum(-1).mean(0) if options.sentence_sums else None,
        nll_B=per_token(nll_KBT).detach().sum(-1).mean(0) if options.sentence_sums else None,
    )


def x_divergence(logp_KBTV: Tensor) -> Tensor:
    """Computes 1/K sum_k [KL(p_k || mean) + KL(mean || p_k)]  (intra-distillation, Eq. 3).

    Written as 1/K sum_k sum_v (p_k - mean p)(log p_k - mean log p): the same value, since sum_k (p_k - mean p) = 0
    takes any term without k out of the second bracket; finite however small the probabilities are.

    Args:
        logp_KBTV: log-probabilities of K passes.

    Returns:
        (B, T), in nats.
    """
    p_KBTV = logp_KBTV.exp()
    return ((p_KBTV - p_KBTV.mean(0)) * (logp_KBTV - logp_KBTV.mean(0))).sum(-1).mean(0)


def _logits(hidden_BTX: Tensor, projection_VX: Tensor, valid_BT: Tensor) -> Tensor:
    """Logits in at least float32; padding (which may hold anything) is zeroed first."""
    hidden_BTX = hidden_BTX.masked_fill(~valid_BT.unsqueeze(-1), 0)
    logits = F.linear(hidden_BTX.to(projection_VX.dtype), projection_VX)
    return logits if logits.dtype == torch.float64 else logits.float()


def _at(values_XBTV: Tensor, index_BT: Tensor) -> Tensor:
    """The value at each position's index into the last axis."""
    index = index_BT.expand(values_XBTV.shape[:-1]).unsqueeze(-1)
    return values_XBTV.gather(-1, index).squeeze(-1)


def _weight(weight: float | Tensor) -> float | Tensor:
    """A number, (B,) or (B, T), in a form that multiplies (K, B, T)."""
    if isinstance(weight, Tensor) and weight.dim() == 1:
        return weight.detach().unsqueeze(-1)
    return weight.detach() if isinstance(weight, Tensor) else weight
