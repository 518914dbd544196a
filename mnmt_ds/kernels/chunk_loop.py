"""The fused loss, chunk by chunk: logits, row arithmetic, and the gradients of hidden states and projection.

The same loop serves every implementation; they differ in what they do with a chunk. Nothing of (tokens x vocabulary)
is ever held whole. Gradients are made in the forward (the logits are at hand there) and scaled in the backward.
Letters: see types.py.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mnmt_ds.kernels.gates import gate_value
from mnmt_ds.kernels.loss_inputs import LossInputs, accumulation_dtype, chunk_ranges
from mnmt_ds.kernels.statistics import Statistics, Workspace
from mnmt_ds.kernels.types import LossSums


class MaxChunkTokens(Protocol):
    """Function of an implementation that computes its chunk size."""

    def __call__(self, inputs: LossInputs, /) -> int:
        """Computes how many tokens a chunk should have, at most.

        Args:
            inputs: the loss's arguments as rows.

        Returns:
            Tokens.
        """


class ChunkStatistics(Protocol):
    """Function of an implementation that runs the forward pass of a chunk."""

    def __call__(self, inputs: LossInputs, chunk: slice, workspace: Workspace, /) -> Statistics:
        """Computes logits and what gates and logs need of them.

        Args:
            inputs: the loss's arguments as rows.
            chunk: the tokens to take.
            workspace: scratch memory; its ``saved`` is set for the gradients.

        Returns:
            The chunk's statistics.
        """


class ChunkGradients(Protocol):
    """Function of an implementation that computes a chunk's gradients, right after its statistics."""

    def __call__(
        self,
        inputs: LossInputs,
        chunk: slice,
        workspace: Workspace,
        gate_JKC: Tensor,
        dhidden_KCD: Tensor | None,
        dprojection_VD: Tensor | None,
        /,
    ) -> None:
        """Writes the chunk's hidden gradients and adds to the projection's (writes it for the first chunk).

        Args:
            inputs: the loss's arguments as rows.
            chunk: the tokens to take.
            workspace: scratch memory, with what the statistics saved.
            gate_JKC: each teacher's gate.
            dhidden_KCD: written, contiguous; None: not wanted.
            dprojection_VD: added to; None: not wanted.
        """


class Implementation(NamedTuple):
    """The functions with which an implementation of the loss computes a chunk."""

    max_chunk_tokens: MaxChunkTokens
    statistics: ChunkStatistics
    gradients: ChunkGradients


class LossResults(NamedTuple):
    """Results of the whole batch: statistics, gates and gradients."""

    token: Statistics
    gate_JKN: Tensor
    dhidden_KND: Tensor | None
    dprojection_VD: Tensor | None


def compute_chunks(
    inputs: LossInputs, functions: Implementation, want_hidden: bool, want_projection: bool
) -> LossResults:
    """Runs all chunks.

    Args:
        inputs: the loss's arguments as rows.
        functions: an implementation.
        want_hidden: whether to make the loss's gradient with respect to hidden states.
        want_projection: whether to make that with respect to the projection.

    Returns:
        Statistics a token, gates and gradients in the accumulation dtype.
    """
    dtype, device = accumulation_dtype(inputs.hidden_KND.dtype, inputs.projection_VD.dtype), inputs.hidden_KND.device
    workspace = Workspace(device, dtype, want_hidden or want_projection)
    ranges = chunk_ranges(inputs, functions.max_chunk_tokens(inputs))
    make = torch.empty if ranges else torch.zeros
    dhidden = make(inputs.hidden_KND.shape, dtype=dtype, device=device) if want_hidden else None
    dprojection = make(inputs.projection_VD.shape, dtype=dtype, device=device) if want_projection else None
    statistics: list[Statistics] = []
    gates: list[Tensor] = []
    for start, stop in ranges:
        chunk = slice(start, stop)
        statistics.append(functions.statistics(inputs, chunk, workspace))
        gates.append(_gates(inputs, chunk, statistics[-1].gold_KC.exp(), statistics[-1].teacher_JC))
        if dhidden is None and dprojection is None:
            continue
        dhidden_KCD = None if dhidden is None else dhidden[:, chunk]
        if dhidden_KCD is not None and not dhidden_KCD.is_contiguous():
            dhidden_KCD = torch.empty_like(dhidden_KCD, memory_format=torch.contiguous_format)
        functions.gradients(inputs, chunk, workspace, gates[-1], dhidden_KCD, dprojection)
        if dhidden is not None and dhidden_KCD is not None and dhidden_KCD.data_ptr() != dhidden[:, chunk].data_ptr():
            dhidden[:, chunk] = dhidden_KCD
    if not ranges:
        statistics = [_empty_statistics(inputs, dtype)]
        gates = [torch.zeros(len(inputs.teachers), inputs.passes, 0, dtype=dtype, device=device)]
    if len(statistics) == 1:
        return LossResults(statistics[0], gates[0], dhidden, dprojection)
    token = Statistics(*(torch.cat(values, -1) for values in zip(*statistics, strict=True)))
    return LossResults(token, torch.cat(gates, -1), dhidden, dprojection)


def _gates(inputs: LossInputs, chunk: slice, student_KC: Tensor, teacher_JC: Tensor) -> Tensor:
    """(J, K, C): each teacher's gate for the chunk's tokens; a sentence gate from the sentence's mean probabilities."""
    gates = []
    sentence_C = inputs.sentence_N[chunk]
    for j, t in enumerate(inputs.teachers):
        student, teacher = student_KC, teacher_JC[j]
        if t.gate.level == "sentence" and t.gate.kind != "whole":
            student = _per_sentence(student_KC, sentence_C, inputs.tokens_B)[:, sentence_C]
            teacher = _per_sentence(teacher, sentence_C, inputs.tokens_B)[sentence_C]
        gates.append(gate_value(t.gate, teacher, student))
    return torch.stack(gates) if gates else student_KC.new_zeros(0, *student_KC.shape)


def _per_sentence(values_XN: Tensor, sentence_N: Tensor, tokens_B: Tensor) -> Tensor:
    """Means over each sentence's tokens; 0 for an empty sentence."""
    sums_XB = values_XN.new_zeros(*values_XN.shape[:-1], len(tokens_B))
    return sums_XB.index_add_(-1, sentence_N, values_XN) / tokens_B.clamp(min=1)


def _empty_statistics(inputs: LossInputs, dtype: torch.dtype) -> Statistics:
    """Of a batch of padding alone."""
    kd_JKC = torch.zeros(len(inputs.teachers), inputs.passes, 0, dtype=dtype, device=inputs.gold_N.device)
    gold_KC = kd_JKC.new_zeros(inputs.passes, 0)
    teacher_JC, divergence_C = kd_JKC.new_zeros(len(inputs.teachers), 0), kd_JKC.new_zeros(0)
    return Statistics(gold_KC, gold_KC, teacher_JC, kd_JKC, kd_JKC.bool(), divergence_C)


def sum_results(inputs: LossInputs, results: LossResults) -> LossSums:
    """Sums statistics over tokens.

    Args:
        inputs: the loss's arguments as rows.
        results: as from ``compute_chunks``.

    Returns:
        The sums; the loss has no graph, its gradients are in ``results``.
    """
    token, passes = results.token, inputs.passes
    ce_KN = -(1 - inputs.smoothing) * token.gold_KC - inputs.smoothing * token.mean_KC
    loss = (ce_KN if inputs.unweighted else ce_KN * inputs.weight_N).sum()
    kd_JKN = token.kd_JKC * results.gate_JKN
    for j, teacher in enumerate(inputs.teachers):
        loss = loss + (kd_JKN[j] * teacher.weight_N).sum()
    divergence = token.divergence_C.sum()
    loss = loss / passes + inputs.divergence_weight * divergence

    def per_sentence(values_XN: Tensor) -> Tensor:
        return _per_sentence(values_XN.to(token.gold_KC.dtype), inputs.sentence_N, inputs.tokens_B)

    teachers = range(len(inputs.teachers))
    return LossSums(
        loss=loss,
        ce=ce_KN.sum() / passes,
        nll=-token.gold_KC.sum() / passes,
        tokens=inputs.tokens_B.sum().to(token.gold_KC.dtype),
        kd=tuple(kd_JKN[j].sum() / passes for j in teachers),
        gate=tuple(per_sentence(results.gate_JKN[j]).mean(0) for j in teachers),
        student_probability_B=per_sentence(token.gold_KC.exp()).mean(0),
        teacher_probability=tuple(per_sentence(token.teacher_JC[j]) for j in teachers),
        agreement=tuple(per_sentence(token.agree_JKC[j]).mean(0) for j in teachers),
        divergence=divergence,
        ce_B=_sentence_sums(inputs, ce_KN),
        nll_B=_sentence_sums(inputs, -token.gold_KC),
    )


def _sentence_sums(inputs: LossInputs, values_KN: Tensor) -> Tensor | None:
    """(B,) sums over each sentence's tokens, means over passes; None where nobody asks."""
    if not inputs.sentence_sums:
        return None
    sums_B = values_KN.new_zeros(len(inputs.tokens_B))
    return sums_B.index_add_(0, inputs.sentence_N, values_KN.mean(0))
