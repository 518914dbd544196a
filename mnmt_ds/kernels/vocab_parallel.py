"""The tensor-parallel form: student's and teachers' projections split over ranks by vocabulary, hidden states on all.

Each rank holds V consecutive words (V here: the shard, as many as you like), those of rank 0 first; the group is any
torch.distributed group, such as megatron-core's parallel_state.get_tensor_model_parallel_group(). Every rank gets the
same loss and sums, the whole hidden gradient, and its shard's projection gradient. PyTorch arithmetic in chunks;
letters: see types.py, C tokens of a chunk, R = K * C rows.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.kernels.autograd import attach
from mnmt_ds.kernels.chunk_loop import Implementation, compute, sums
from mnmt_ds.kernels.chunked import most_tokens
from mnmt_ds.kernels.loss_inputs import LossInputs, check, flatten
from mnmt_ds.kernels.statistics import Statistics, Workspace
from mnmt_ds.kernels.types import LossSums, Teacher


class VocabRange(NamedTuple):
    """This rank's part of the vocabulary."""

    group: dist.ProcessGroup
    first: int
    words: int
    """Of all ranks together."""
    most: int
    """Of the rank that has most: chunks are alike on all."""

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        dist.all_reduce(values, group=self.group)
        return values

    def extreme(self, values: Tensor, least: bool = False) -> Tensor:
        """Largest (or least) over ranks, in place."""
        dist.all_reduce(values, dist.ReduceOp.MIN if least else dist.ReduceOp.MAX, group=self.group)
        return values


def vocab_parallel_ce_with_teacher(
    hidden_BTD: Tensor,
    projection_VD: Tensor,
    target_BT: Tensor,
    teachers: Sequence[Teacher] = (),
    *,
    group: dist.ProcessGroup,
    smoothing: float = 0.1,
    gold_weight: float | Tensor = 1.0,
    passes: int = 1,
    divergence_weight: float = 0.0,
    pad: int = 1,
) -> LossSums:
    """ce_with_teacher with every projection (and vocabulary mask) being this rank's shard."""
    shard = _shard(projection_VD, group)
    arguments = (teachers, smoothing, gold_weight, passes, divergence_weight, pad)
    check(hidden_BTD, projection_VD, target_BT, *arguments, vocabulary=shard.words)
    if any(teacher.top_k for teacher in teachers):
        raise UserError("loss: top_k needs the whole vocabulary on each rank; set top_k: 0 under tensor parallelism")
    grad = torch.is_grad_enabled()
    wanted = (grad and hidden_BTD.requires_grad, grad and projection_VD.requires_grad)
    with torch.no_grad():
        problem = flatten(hidden_BTD, projection_VD, target_BT, *arguments)
        ours = Implementation(
            functools.partial(most_tokens, words=shard.most),
            functools.partial(statistics, shard),
            functools.partial(gradients, shard),
        )
        found = compute(problem, ours, *wanted)
        result = sums(problem, found)
    if not any(wanted):
        return result
    return result._replace(loss=attach(hidden_BTD, projection_VD, result.loss, problem, found))


def _shard(projection_VD: Tensor, group: dist.ProcessGroup) -> VocabRange:
    rank = dist.get_rank(group)
    sizes = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=projection_VD.device)
    sizes[rank] = projection_VD.shape[0]
    dist.all_reduce(sizes, group=group)
    words = sizes.tolist()
    return VocabRange(group, sum(words[:rank]), sum(words), max(words))


def statistics(shard: VocabRange, p: LossInputs, cut: slice, store: Workspace) -> Statistics:
    """As chunked.statistics, over all ranks' words."""
    weights_VD = p.projection_VD.to(store.dtype)
    hidden_RD = p.hidden_KND[:, cut].to(store.dtype).reshape(-1, weights_VD.shape[1])
    z_KCV = (hidden_RD @ weights_VD.t()).view(p.passes, -1, weights_VD.shape[0])
    lse_KC = _log_sum_exp(shard, z_KCV)
    best_KC = _favourite(shard, z_KCV) if p.teachers else lse_KC
    lessons, teacher, kd, agree = [], [], [], []
    for t in p.teachers:
        y_CV = t.hidden_NE[cut].to(store.dtype) @ t.projection_VE.to(store.dtype).t()
        if t.vocabulary_V is not None:
            y_CV.masked_fill_(~t.vocabulary_V, torch.finfo(store.dtype).min)
        teacher.append((_at_gold(shard, y_CV, p.gold_N[cut]) - _log_sum_exp(shard, y_CV)).exp())
        agree.append(best_KC == _favourite(shard, y_CV))
        y_CV.div_(t.temperature)
        q_CV = (y_CV - _log_sum_exp(shard, y_CV).unsqueeze(-1)).exp_()
        cross_KC = shard.sum(torch.linalg.vecdot(q_CV, z_KCV)) / t.temperature
        warm_KC = lse_KC if t.temperature == 1.0 else _log_sum_exp(shard, z_KCV / t.temperature)
        kd.append(t.temperature**2 * (warm_KC - cross_KC))
        lessons.append((q_CV, warm_KC))
    divergence_C, lean_KC = z_KCV.new_zeros(z_KCV.shape[1]), torch.zeros_like(lse_KC)
    if p.passes > 1:
        logp_KCV = z_KCV - lse_KC.unsqueeze(-1)
        p_KCV = logp_KCV.exp()
        logp_KCV -= logp_KCV.mean(0)
        lean_KC = shard.sum(torch.linalg.vecdot(p_KCV, logp_KCV))
        divergence_C = shard.sum(torch.linalg.vecdot(p_KCV - p_KCV.mean(0), logp_KCV).mean(0))
    store.kept = (z_KCV, hidden_RD, weights_VD, lse_KC, lean_KC, lessons)
    none = z_KCV.new_zeros(0, *lse_KC.shape)
    return Statistics(
        _at_gold(shard, z_KCV, p.gold_N[cut]) - lse_KC,
        shard.sum(z_KCV.sum(-1)) / shard.words - lse_KC,
        torch.stack(teacher) if teacher else none[:, 0],
        torch.stack(kd) if kd else none,
        torch.stack(agree) if agree else none.bool(),
        divergence_C,
    )


def gradients(
    shard: VocabRange,
    p: LossInputs,
    cut: slice,
    store: Workspace,
    gate_JKC: Tensor,
    dhidden_KCD: Tensor | None,
    dprojection_VD: Tensor | None,
) -> None:
    """As chunked.gradients: this shard's words, and the hidden gradient summed over ranks."""
    z_KCV, hidden_RD, weights_VD, lse_KC, lean_KC, lessons = store.kept
    logp_KCV = z_KCV - lse_KC.unsqueeze(-1)
    p_KCV, weight_C = logp_KCV.exp(), p.weight_N[cut]
    dz_KCV = weight_C.unsqueeze(-1) * (p_KCV - p.smoothing / shard.words)
    for j, t in enumerate(p.teachers):
        q_CV, warm_KC = lessons[j]
        warm_KCV = p_KCV if t.temperature == 1.0 else (z_KCV / t.temperature - warm_KC.unsqueeze(-1)).exp_()
        dz_KCV += (t.temperature * t.weight_N[cut] * gate_JKC[j]).unsqueeze(-1) * (warm_KCV - q_CV)
    mine_C, inside_C = _inside(shard, p.gold_N[cut], z_KCV.shape[-1])
    gold_C = weight_C * (p.smoothing - 1) * inside_C
    dz_KCV.scatter_add_(-1, mine_C.expand(p.passes, -1).unsqueeze(-1), gold_C.expand(p.passes, -1).unsqueeze(-1))
    if p.passes > 1 and p.divergence_weight:
        logp_KCV -= logp_KCV.mean(0)
        slope_KCV = p_KCV * (logp_KCV - lean_KC.unsqueeze(-1)) + p_KCV - p_KCV.mean(0)
        dz_KCV += p.divergence_weight * slope_KCV
    dz_RV = dz_KCV.div_(p.passes).view(-1, z_KCV.shape[-1])
    if dhidden_KCD is not None:
        dhidden_KCD.copy_(shard.sum(dz_RV @ weights_VD).view_as(dhidden_KCD))
    if dprojection_VD is not None:
        if cut.start == 0:
            dprojection_VD.zero_()
        dprojection_VD.addmm_(dz_RV.t(), hidden_RD)


def _log_sum_exp(shard: VocabRange, z_XV: Tensor) -> Tensor:
    top_X = shard.extreme(z_XV.amax(-1))
    return top_X + shard.sum((z_XV - top_X.unsqueeze(-1)).exp_().sum(-1)).log()


def _favourite(shard: VocabRange, z_XV: Tensor) -> Tensor:
    """The most probable word of all ranks; of equal ones the first."""
    value_X, word_X = z_XV.max(-1)
    best_X = shard.extreme(value_X.clone())
    return shard.extreme((word_X + shard.first).where(value_X == best_X, shard.words), least=True)


def _at_gold(shard: VocabRange, z_XCV: Tensor, gold_C: Tensor) -> Tensor:
    mine_C, inside_C = _inside(shard, gold_C, z_XCV.shape[-1])
    found_XC = z_XCV.gather(-1, mine_C.expand(z_XCV.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return shard.sum(found_XC.where(inside_C, 0))


def _inside(shard: VocabRange, gold_C: Tensor, words: int) -> tuple[Tensor, Tensor]:
    """The gold word's place in this shard (0 where it is not here), and whether it is here."""
    mine_C = gold_C - shard.first
    inside_C = (mine_C >= 0) & (mine_C < words)
    return mine_C.where(inside_C, 0), inside_C
