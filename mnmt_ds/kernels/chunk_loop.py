"""The fused loss, chunk by chunk: logits, row arithmetic, and the gradients of hidden states and projection.

The same loop serves every implementation; they differ in what they do with a chunk. Nothing of (tokens x vocabulary)
is ever held whole. Gradients are made in the forward (the logits are at hand there) and scaled in the backward.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.kernels.gates import gate_value
from mnmt_ds.kernels.loss_inputs import LossInputs, accumulator, chunks
from mnmt_ds.kernels.statistics import Statistics, Workspace
from mnmt_ds.kernels.types import LossSums


class Implementation(NamedTuple):
    """What to do with a chunk."""

    most_tokens: Callable[[LossInputs], int]
    statistics: Callable[[LossInputs, slice, Workspace], Statistics]
    gradients: Callable[[LossInputs, slice, Workspace, Tensor, Tensor | None, Tensor | None], None]


class LossResults(NamedTuple):
    """Statistics of the whole batch, gates, and gradients."""

    token: Statistics
    gate_JKN: Tensor
    hidden_KND: Tensor | None
    projection_VD: Tensor | None


def compute(problem: LossInputs, how: Implementation, want_hidden: bool, want_projection: bool) -> LossResults:
    """Runs the chunks; gradients of the loss with respect to hidden states and projection where wanted."""
    p = problem
    dtype = accumulator(p.hidden_KND.dtype, p.projection_VD.dtype)
    store = Workspace(p.hidden_KND.device, dtype, want_hidden or want_projection)
    cuts = chunks(p, how.most_tokens(p))
    make = torch.empty if cuts else torch.zeros
    device = p.hidden_KND.device
    dhidden = make(p.hidden_KND.shape, dtype=dtype, device=device) if want_hidden else None
    dprojection = make(p.projection_VD.shape, dtype=dtype, device=device) if want_projection else None
    found: list[Statistics] = []
    gates: list[Tensor] = []
    for start, stop in cuts:
        cut = slice(start, stop)
        found.append(how.statistics(p, cut, store))
        gates.append(_gates(p, cut, found[-1].gold_KC.exp(), found[-1].teacher_JC))
        if dhidden is None and dprojection is None:
            continue
        part = None if dhidden is None else dhidden[:, cut]
        if part is not None and not part.is_contiguous():
            part = torch.empty_like(part, memory_format=torch.contiguous_format)
        how.gradients(p, cut, store, gates[-1], part, dprojection)
        if dhidden is not None and part is not None and part.data_ptr() != dhidden[:, cut].data_ptr():
            dhidden[:, cut] = part
    if not found:
        found, gates = [_nothing(p, dtype)], [torch.zeros(len(p.teachers), p.passes, 0, dtype=dtype, device=device)]
    if len(found) == 1:
        return LossResults(found[0], gates[0], dhidden, dprojection)
    token = Statistics(*(torch.cat(parts, -1) for parts in zip(*found, strict=True)))
    return LossResults(token, torch.cat(gates, -1), dhidden, dprojection)


def _gates(p: LossInputs, cut: slice, student_KC: Tensor, teacher_JC: Tensor) -> Tensor:
    """(J, K, C): each teacher's gate for the chunk's tokens; a sentence gate from the sentence's mean probabilities."""
    gates = []
    sentence_C = p.sentence_N[cut]
    for j, t in enumerate(p.teachers):
        student, teacher = student_KC, teacher_JC[j]
        if t.gate.level == "sentence" and t.gate.kind != "whole":
            student = _per_sentence(student_KC, sentence_C, p.tokens_B)[:, sentence_C]
            teacher = _per_sentence(teacher, sentence_C, p.tokens_B)[sentence_C]
        gates.append(gate_value(t.gate, teacher, student))
    return torch.stack(gates) if gates else student_KC.new_zeros(0, *student_KC.shape)


def _per_sentence(values_XN: Tensor, sentence_N: Tensor, tokens_B: Tensor) -> Tensor:
    """Means over each sentence's tokens; 0 for an empty sentence."""
    sums_XB = values_XN.new_zeros(*values_XN.shape[:-1], len(tokens_B))
    return sums_XB.index_add_(-1, sentence_N, values_XN) / tokens_B.clamp(min=1)


def _nothing(p: LossInputs, dtype: torch.dtype) -> Statistics:
    """A batch of padding alone."""
    zeros = torch.zeros(len(p.teachers), p.passes, 0, dtype=dtype, device=p.gold_N.device)
    row_K = zeros.new_zeros(p.passes, 0)
    return Statistics(row_K, row_K, zeros.new_zeros(len(p.teachers), 0), zeros, zeros.bool(), zeros.new_zeros(0))


def sums(p: LossInputs, f: LossResults) -> LossSums:
    """Statistics to sums; the loss here is a plain number, its gradient is ``f``'s."""
    t, passes = f.token, p.passes
    ce_KN = -(1 - p.smoothing) * t.gold_KC - p.smoothing * t.mean_KC
    loss = (ce_KN if p.plain else ce_KN * p.weight_N).sum()
    kd_JKN = t.kd_JKC * f.gate_JKN
    for j, teacher in enumerate(p.teachers):
        loss = loss + (kd_JKN[j] * teacher.weight_N).sum()
    divergence = t.divergence_C.sum()
    loss = loss / passes + p.divergence_weight * divergence

    def per_sentence(values_XN: Tensor) -> Tensor:
        return _per_sentence(values_XN.to(t.gold_KC.dtype), p.sentence_N, p.tokens_B)

    each = range(len(p.teachers))
    return LossSums(
        loss=loss,
        ce=ce_KN.sum() / passes,
        nll=-t.gold_KC.sum() / passes,
        tokens=p.tokens_B.sum().to(t.gold_KC.dtype),
        kd=tuple(kd_JKN[j].sum() / passes for j in each),
        gate=tuple(per_sentence(f.gate_JKN[j]).mean(0) for j in each),
        student_probability_B=per_sentence(t.gold_KC.exp()).mean(0),
        teacher_probability=tuple(per_sentence(t.teacher_JC[j]) for j in each),
        agreement=tuple(per_sentence(t.agree_JKC[j]).mean(0) for j in each),
        divergence=divergence,
    )
