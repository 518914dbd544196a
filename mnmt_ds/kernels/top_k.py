"""A teacher cut to its k most probable words at each token, in plain PyTorch beside the fused loss (Tan et al. 2019).

    -T^2 * sum over the k words of softmax(teacher logits of those k / T) * log softmax(student / T)

The student's logits are made a second time, chunk by chunk, and again in the backward pass; never held whole.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mnmt_ds.kernels.types import LossSums, Teacher

CHUNK = 1 << 22
"""Logits of a chunk, at most."""


def with_top_k(
    fused: Callable[[Sequence[Teacher]], LossSums], hidden_BTD: Tensor, projection_VD: Tensor, target_BT: Tensor,
    teachers: Sequence[Teacher], passes: int, pad: int,
) -> LossSums:  # fmt: skip
    """The fused loss with the teachers that have all words, plus the terms of the others; statistics in their order."""
    found = fused([teacher for teacher in teachers if not teacher.top_k])
    own = iter(zip(found.kd, found.gate, found.teacher_probability, found.agreement, strict=True))
    loss: Tensor = found.loss
    rows: list[tuple[Tensor, ...]] = []
    for teacher in teachers:
        if not teacher.top_k:
            rows.append(next(own))
            continue
        weighted, *row = _term(hidden_BTD, projection_VD, target_BT, teacher, passes, pad)
        loss = loss + weighted
        rows.append((*row,))
    kd, gate, probability, agreement = zip(*rows, strict=True)
    return found._replace(loss=loss, kd=kd, gate=gate, teacher_probability=probability, agreement=agreement)


def _term(
    hidden_BTD: Tensor, projection_VD: Tensor, target_BT: Tensor, teacher: Teacher, passes: int, pad: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """() weighted and differentiable, () KD, (B,) gate, (B,) gold probability, (B,) agreement; means over passes."""
    sentences, positions = target_BT.shape
    rows_N = (target_BT.reshape(-1) != pad).nonzero().squeeze(1)
    sentence_N, gold_N = rows_N.div(max(positions, 1), rounding_mode="floor"), target_BT.reshape(-1)[rows_N]
    count_B = torch.bincount(sentence_N, minlength=sentences)
    weight = teacher.weight
    if isinstance(weight, Tensor) and weight.dim():
        weight = weight.detach()[sentence_N] if weight.dim() == 1 else weight.detach().reshape(-1)[rows_N]
    taught_NE = teacher.hidden_BTE.detach().flatten(0, 1)[rows_N]
    student_KND = hidden_BTD.unflatten(0, (passes, sentences)).flatten(1, 2)[:, rows_N]  # type: ignore[no-untyped-call]

    def chunk(student_KCD: Tensor, projection_VD: Tensor, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        logits_CV = logits(taught_NE[part], teacher.projection_VE.detach())
        if teacher.vocabulary_V is not None:
            logits_CV = logits_CV.masked_fill(~teacher.vocabulary_V, -torch.inf)
        probability_C = (logits_CV.gather(1, gold_N[part, None]).squeeze(1) - logits_CV.logsumexp(-1)).exp()
        top_Ck, words_Ck = logits_CV.topk(min(teacher.top_k, logits_CV.shape[-1]), -1)
        own_KCV = logits(student_KCD, projection_VD) / teacher.temperature
        picked_KCk = own_KCV.gather(-1, words_Ck.expand(passes, -1, -1)) - own_KCV.logsumexp(-1, keepdim=True)
        share_Ck = (top_Ck / teacher.temperature).softmax(-1)
        kd_KC = -(teacher.temperature**2) * (share_Ck * picked_KCk.masked_fill(share_Ck == 0, 0)).sum(-1)
        agree_C = (own_KCV.argmax(-1) == words_Ck[:, 0]).to(kd_KC).mean(0)
        return kd_KC.mean(0), probability_C, agree_C.detach()

    size = max(1, CHUNK // projection_VD.shape[0])
    parts = [slice(start, start + size) for start in range(0, len(rows_N), size)] or [slice(0, 0)]
    made = [checkpoint(chunk, student_KND[:, part], projection_VD, part, use_reentrant=False) for part in parts]
    kd_N, probability_N, agree_N = (torch.cat(values) for values in zip(*made, strict=True))

    def per_sentence(values_N: Tensor) -> Tensor:
        sums_B = values_N.new_zeros(sentences).index_add_(0, sentence_N, values_N)
        return sums_B / count_B.clamp(min=1)

    gate_B = (count_B > 0).to(kd_N)
    return (weight * kd_N).sum(), kd_N.detach().sum(), gate_B, per_sentence(probability_N), per_sentence(agree_N)


def logits(hidden_XD: Tensor, projection_VD: Tensor) -> Tensor:
    """In at least float32."""
    found = F.linear(hidden_XD.to(projection_VD.dtype), projection_VD)
    return found if found.dtype == torch.float64 else found.float()
