"""The vocabulary-parallel form: student's and teachers' projections split over ranks by words, hidden states on all.

Each rank holds consecutive words (as many as you like), those of rank 0 first; the group is any torch.distributed
group, such as megatron-core's parallel_state.get_tensor_model_parallel_group(). Every rank gets the same loss and
sums, the whole hidden gradient, and its shard's projection gradient. PyTorch arithmetic in chunks.
Letters: see types.py, but V the words of this rank; R = K * C rows.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.kernels.autograd import attach_gradients, gradients_needed
from mnmt_ds.kernels.chunk_loop import Implementation, compute_chunks, sum_results
from mnmt_ds.kernels.chunked import max_chunk_tokens
from mnmt_ds.kernels.loss_inputs import LossInputs, check_arguments, flatten
from mnmt_ds.kernels.statistics import Statistics, Workspace
from mnmt_ds.kernels.types import LossOptions, LossSums, Teacher
from mnmt_ds.kernels.vocab_shard import VocabShard


class _Saved(NamedTuple):
    """What a chunk's statistics leave for its gradients."""

    z_KCV: Tensor
    hidden_RD: Tensor
    weights_VD: Tensor
    lse_KC: Tensor
    """Log-sum-exp of the student's logits over all words."""
    expected_log_ratio_KC: Tensor
    """sum_v p_k (log p_k - mean over passes of log p)."""
    teacher_p_jCV: list[Tensor]
    """Each teacher's probabilities at its temperature."""
    lse_at_temperature_jKC: list[Tensor]
    """Log-sum-exp of the student's logits at each teacher's temperature."""


def vocab_parallel_ce_with_teacher(
    hidden_BTD: Tensor,
    projection_VD: Tensor,
    target_BT: Tensor,
    teachers: Sequence[Teacher],
    options: LossOptions,
    group: dist.ProcessGroup,
) -> LossSums:
    """Computes the loss with every projection (and vocabulary mask) being this rank's shard.

    Args:
        hidden_BTD: decoder states, the same on all ranks; with K passes (K * B, T, D).
        projection_VD: this rank's rows of the output projection.
        target_BT: gold tokens, as ids of the whole vocabulary.
        teachers: none to any number, without top_k.
        options: weights, smoothing, passes, padding.
        group: the ranks that share the vocabulary.

    Returns:
        Sums over tokens, the same on all ranks; ``loss`` is differentiable.

    Raises:
        UserError: when arguments do not fit, or a teacher has top_k.
    """
    sizes = _shard_sizes(projection_VD, group)
    start, vocabulary_size = sum(sizes[: dist.get_rank(group)]), sum(sizes)
    shard = VocabShard(group, start, start + projection_VD.shape[0])
    options = check_arguments(hidden_BTD, projection_VD, target_BT, teachers, options, vocabulary_size)
    if any(teacher.top_k for teacher in teachers):
        raise UserError("loss: top_k needs the whole vocabulary on each rank; set top_k: 0 under tensor parallelism")
    needed = gradients_needed(hidden_BTD, projection_VD)
    with torch.no_grad():
        inputs = flatten(hidden_BTD, projection_VD, target_BT, teachers, options)
        functions = Implementation(
            functools.partial(max_chunk_tokens, vocabulary_size=max(sizes)),  # chunks are alike on all ranks
            functools.partial(statistics, shard, vocabulary_size),
            functools.partial(gradients, shard, vocabulary_size),
        )
        results = compute_chunks(inputs, functions, *needed)
        sums = sum_results(inputs, results)
    if not any(needed):
        return sums
    return sums._replace(loss=attach_gradients(hidden_BTD, projection_VD, sums.loss, inputs, results))


def _shard_sizes(projection_VD: Tensor, group: dist.ProcessGroup) -> list[int]:
    """Words of every rank."""
    sizes = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=projection_VD.device)
    sizes[dist.get_rank(group)] = projection_VD.shape[0]
    dist.all_reduce(sizes, group=group)
    return list(map(int, sizes.tolist()))


def statistics(
    shard: VocabShard, vocabulary_size: int, inputs: LossInputs, chunk: slice, workspace: Workspace
) -> Statistics:
    """Computes a chunk's statistics over all ranks' words, as ``chunked.statistics`` does on one.

    Args:
        shard: this rank's words.
        vocabulary_size: words of all ranks.
        inputs: the loss's arguments as rows.
        chunk: the tokens to take.
        workspace: scratch memory.

    Returns:
        The chunk's statistics, the same on all ranks.
    """
    dtype = workspace.dtype
    weights_VD = inputs.projection_VD.to(dtype)
    hidden_RD = inputs.hidden_KND[:, chunk].to(dtype).reshape(-1, weights_VD.shape[1])
    z_KCV = (hidden_RD @ weights_VD.t()).view(inputs.passes, -1, weights_VD.shape[0])
    lse_KC = _log_sum_exp(shard, z_KCV)
    argmax_KC = _argmax(shard, vocabulary_size, z_KCV) if inputs.teachers else lse_KC
    teacher, kd, agree, teacher_p_jCV, lse_at_temperature_jKC = [], [], [], [], []
    for t in inputs.teachers:
        y_CV = t.hidden_NE[chunk].to(dtype) @ t.projection_VE.to(dtype).t()
        if t.vocabulary_V is not None:
            y_CV.masked_fill_(~t.vocabulary_V, torch.finfo(dtype).min)
        teacher.append((_at_gold(shard, y_CV, inputs.gold_N[chunk]) - _log_sum_exp(shard, y_CV)).exp())
        agree.append(argmax_KC == _argmax(shard, vocabulary_size, y_CV))
        y_CV.div_(t.temperature)
        q_CV = (y_CV - _log_sum_exp(shard, y_CV).unsqueeze(-1)).exp_()
        cross_KC = _sum(shard, torch.linalg.vecdot(q_CV, z_KCV)) / t.temperature
        lse_at_temperature_KC = lse_KC if t.temperature == 1.0 else _log_sum_exp(shard, z_KCV / t.temperature)
        kd.append(t.temperature**2 * (lse_at_temperature_KC - cross_KC))
        teacher_p_jCV.append(q_CV)
        lse_at_temperature_jKC.append(lse_at_temperature_KC)
    divergence_C, expected_log_ratio_KC = z_KCV.new_zeros(z_KCV.shape[1]), torch.zeros_like(lse_KC)
    if inputs.passes > 1:
        logp_KCV = z_KCV - lse_KC.unsqueeze(-1)
        p_KCV = logp_KCV.exp()
        logp_KCV -= logp_KCV.mean(0)
        expected_log_ratio_KC = _sum(shard, torch.linalg.vecdot(p_KCV, logp_KCV))
        divergence_C = _sum(shard, torch.linalg.vecdot(p_KCV - p_KCV.mean(0), logp_KCV).mean(0))
    workspace.saved = _Saved(
        z_KCV, hidden_RD, weights_VD, lse_KC, expected_log_ratio_KC, teacher_p_jCV, lse_at_temperature_jKC
    )
    empty_JKC = z_KCV.new_zeros(0, *lse_KC.shape)
    return Statistics(
        _at_gold(shard, z_KCV, inputs.gold_N[chunk]) - lse_KC,
        _sum(shard, z_KCV.sum(-1)) / vocabulary_size - lse_KC,
        torch.stack(teacher) if teacher else empty_JKC[:, 0],
        torch.stack(kd) if kd else empty_JKC,
        torch.stack(agree) if agree else empty_JKC.bool(),
        divergence_C,
    )


def gradients(
    shard: VocabShard,
    vocabulary_size: int,
    inputs: LossInputs,
    chunk: slice,
    workspace: Workspace,
    gate_JKC: Tensor,
    dhidden_KCD: Tensor | None,
    dprojection_VD: Tensor | None,
) -> None:
    """Makes a chunk's gradients as ``chunked.gradients`` does: this shard's words, hidden gradients summed over ranks.

    Args:
        shard: this rank's words.
        vocabulary_size: words of all ranks.
        inputs: the loss's arguments as rows.
        chunk: the tokens to take.
        workspace: scratch memory, with what the statistics saved.
        gate_JKC: each teacher's gate.
        dhidden_KCD: written; None: not wanted.
        dprojection_VD: added to; None: not wanted.
    """
    saved: _Saved = workspace.saved
    z_KCV = saved.z_KCV
    logp_KCV = z_KCV - saved.lse_KC.unsqueeze(-1)
    p_KCV, weight_C = logp_KCV.exp(), inputs.weight_N[chunk]
    dz_KCV = weight_C.unsqueeze(-1) * (p_KCV - inputs.smoothing / vocabulary_size)
    for j, t in enumerate(inputs.teachers):
        p_at_temperature_KCV = (
            p_KCV
            if t.temperature == 1.0
            else (z_KCV / t.temperature - saved.lse_at_temperature_jKC[j].unsqueeze(-1)).exp_()
        )
        kd_factor_KC = t.temperature * t.weight_N[chunk] * gate_JKC[j]
        dz_KCV += kd_factor_KC.unsqueeze(-1) * (p_at_temperature_KCV - saved.teacher_p_jCV[j])
    index_C, is_local_C = _local_index(shard, inputs.gold_N[chunk])
    gold_C = weight_C * (inputs.smoothing - 1) * is_local_C
    dz_KCV.scatter_add_(
        -1, index_C.expand(inputs.passes, -1).unsqueeze(-1), gold_C.expand(inputs.passes, -1).unsqueeze(-1)
    )
    if inputs.passes > 1 and inputs.divergence_weight:
        logp_KCV -= logp_KCV.mean(0)
        divergence_gradient_KCV = p_KCV * (logp_KCV - saved.expected_log_ratio_KC.unsqueeze(-1)) + p_KCV - p_KCV.mean(0)
        dz_KCV += inputs.divergence_weight * divergence_gradient_KCV
    dz_RV = dz_KCV.div_(inputs.passes).view(-1, z_KCV.shape[-1])
    if dhidden_KCD is not None:
        dhidden_KCD.copy_(_sum(shard, dz_RV @ saved.weights_VD).view_as(dhidden_KCD))
    if dprojection_VD is not None:
        if chunk.start == 0:
            dprojection_VD.zero_()
        dprojection_VD.addmm_(dz_RV.t(), saved.hidden_RD)


def _sum(shard: VocabShard, values: Tensor) -> Tensor:
    """Sum over ranks, in place."""
    dist.all_reduce(values, group=shard.group)
    return values


def _max(shard: VocabShard, values: Tensor) -> Tensor:
    """Largest over ranks, in place."""
    dist.all_reduce(values, dist.ReduceOp.MAX, group=shard.group)
    return values


def _min(shard: VocabShard, values: Tensor) -> Tensor:
    """Least over ranks, in place."""
    dist.all_reduce(values, dist.ReduceOp.MIN, group=shard.group)
    return values


def _log_sum_exp(shard: VocabShard, z_XV: Tensor) -> Tensor:
    """Log-sum-exp over all ranks' words."""
    max_X = _max(shard, z_XV.amax(-1))
    return max_X + _sum(shard, (z_XV - max_X.unsqueeze(-1)).exp_().sum(-1)).log()


def _argmax(shard: VocabShard, vocabulary_size: int, z_XV: Tensor) -> Tensor:
    """The most probable word of all ranks; of equal ones the first."""
    value_X, word_X = z_XV.max(-1)
    max_X = _max(shard, value_X.clone())
    return _min(shard, (word_X + shard.start).where(value_X == max_X, vocabulary_size))


def _at_gold(shard: VocabShard, z_XCV: Tensor, gold_C: Tensor) -> Tensor:
    """The gold words' logits, from whichever rank holds them."""
    index_C, is_local_C = _local_index(shard, gold_C)
    local_XC = z_XCV.gather(-1, index_C.expand(z_XCV.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return _sum(shard, local_XC.where(is_local_C, 0))


def _local_index(shard: VocabShard, gold_C: Tensor) -> tuple[Tensor, Tensor]:
    """The gold word's index in this shard (0 where it is not here), and whether it is here."""
    index_C = gold_C - shard.start
    is_local_C = (index_C >= 0) & (index_C < shard.stop - shard.start)
    return index_C.where(is_local_C, 0), is_local_C
