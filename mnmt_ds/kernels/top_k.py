"""A teacher cut to its k most probable words at each token, in plain PyTorch beside the fused loss (Tan et al. 2019).

    -T^2 * sum over the k words of softmax(teacher logits of those k / T) * log softmax(student / T)

The student's logits are made a second time, chunk by chunk, and again in the backward pass; never held whole.
Letters: see types.py; k words of a token.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mnmt_ds.kernels.types import LossOptions, LossSums, Teacher

CHUNK = 1 << 22
"""Logits of a chunk, at most."""


def add_top_k_terms(
    loss_of_other_teachers: Callable[[Sequence[Teacher]], LossSums], hidden_BTD: Tensor, projection_VD: Tensor,
    target_BT: Tensor, teachers: Sequence[Teacher], options: LossOptions,
) -> LossSums:  # fmt: skip
    """Computes the loss where some teachers are cut to their most probable words.

    Args:
        loss_of_other_teachers: the fused loss, for the teachers that have all words.
        hidden_BTD: decoder states; with K passes (K * B, T, D).
        projection_VD: output projection.
        target_BT: gold tokens.
        teachers: all of them.
        options: weights, smoothing, passes, padding.

    Returns:
        The fused loss plus the terms of the others; statistics in the order of ``teachers``.
    """
    sums = loss_of_other_teachers([teacher for teacher in teachers if not teacher.top_k])
    fused_statistics = iter(zip(sums.kd, sums.gate, sums.teacher_probability, sums.agreement, strict=True))
    loss: Tensor = sums.loss
    statistics: list[tuple[Tensor, ...]] = []
    for teacher in teachers:
        if not teacher.top_k:
            statistics.append(next(fused_statistics))
            continue
        term, *term_statistics = _top_k_term(hidden_BTD, projection_VD, target_BT, teacher, options)
        loss = loss + term
        statistics.append(tuple(term_statistics))
    kd, gate, probability, agreement = zip(*statistics, strict=True)
    return sums._replace(loss=loss, kd=kd, gate=gate, teacher_probability=probability, agreement=agreement)


def _top_k_term(
    hidden_BTD: Tensor, projection_VD: Tensor, target_BT: Tensor, teacher: Teacher, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """() weighted and differentiable, () KD, (B,) gate, (B,) gold probability, (B,) agreement; means over passes."""
    (sentences, positions), passes = target_BT.shape, options.passes
    rows_N = (target_BT.reshape(-1) != options.pad).nonzero().squeeze(1)
    sentence_N, gold_N = rows_N.div(max(positions, 1), rounding_mode="floor"), target_BT.reshape(-1)[rows_N]
    tokens_B = torch.bincount(sentence_N, minlength=sentences)
    weight = teacher.weight
    if isinstance(weight, Tensor) and weight.dim():
        weight = weight.detach()[sentence_N] if weight.dim() == 1 else weight.detach().reshape(-1)[rows_N]
    teacher_NE = teacher.hidden_BTE.detach().flatten(0, 1)[rows_N]
    student_KND = hidden_BTD.unflatten(0, (passes, sentences)).flatten(1, 2)[:, rows_N]  # type: ignore[no-untyped-call]

    def chunk_term(student_KCD: Tensor, projection_VD: Tensor, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
        teacher_z_CV = _logits(teacher_NE[chunk], teacher.projection_VE.detach())
        if teacher.vocabulary_V is not None:
            teacher_z_CV = teacher_z_CV.masked_fill(~teacher.vocabulary_V, -torch.inf)
        gold_C = teacher_z_CV.gather(1, gold_N[chunk, None]).squeeze(1)
        probability_C = (gold_C - teacher_z_CV.logsumexp(-1)).exp()
        top_Ck, words_Ck = teacher_z_CV.topk(min(teacher.top_k, teacher_z_CV.shape[-1]), -1)
        z_KCV = _logits(student_KCD, projection_VD) / teacher.temperature
        logp_KCk = z_KCV.gather(-1, words_Ck.expand(passes, -1, -1)) - z_KCV.logsumexp(-1, keepdim=True)
        teacher_p_Ck = (top_Ck / teacher.temperature).softmax(-1)
        kd_KC = -(teacher.temperature**2) * (teacher_p_Ck * logp_KCk.masked_fill(teacher_p_Ck == 0, 0)).sum(-1)
        agree_C = (z_KCV.argmax(-1) == words_Ck[:, 0]).to(kd_KC).mean(0)
        return kd_KC.mean(0), probability_C, agree_C.detach()

    size = max(1, CHUNK // projection_VD.shape[0])
    chunks = [slice(start, start + size) for start in range(0, len(rows_N), size)] or [slice(0, 0)]
    terms = [checkpoint(chunk_term, student_KND[:, c], projection_VD, c, use_reentrant=False) for c in chunks]
    kd_N, probability_N, agree_N = (torch.cat(values) for values in zip(*terms, strict=True))

    def per_sentence(values_N: Tensor) -> Tensor:
        sums_B = values_N.new_zeros(sentences).index_add_(0, sentence_N, values_N)
        return sums_B / tokens_B.clamp(min=1)

    gate_B = (tokens_B > 0).to(kd_N)
    return (weight * kd_N).sum(), kd_N.detach().sum(), gate_B, per_sentence(probability_N), per_sentence(agree_N)


def _logits(hidden_XD: Tensor, projection_VD: Tensor) -> Tensor:
    """Logits in at least float32."""
    logits_XV = F.linear(hidden_XD.to(projection_VD.dtype), projection_VD)
    return logits_XV if logits_XV.dtype == torch.float64 else logits_XV.float()
