"""The fused loss, chunk by chunk: logits, row arithmetic, and the gradients of hidden states and projection.

The same loop serves every implementation; they differ in the row arithmetic alone. Nothing of (tokens x vocabulary)
is ever held whole. Gradients are made in the forward (the logits are at hand there) and scaled in the backward.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds.kernels import chunked
from mnmt_ds.kernels.gates import gate_value
from mnmt_ds.kernels.problem import Problem, accumulator, chunks
from mnmt_ds.kernels.types import Sums

BUDGET = {"cpu": 64 << 20, "cuda": 512 << 20}
"""Bytes of logits held at once, student's and teachers' together."""


class Found(NamedTuple):
    """Per-token statistics of the whole batch, and gradients."""

    gold_KN: Tensor
    """Log-probability of the gold token."""
    mean_KN: Tensor
    """Mean log-probability over the vocabulary."""
    teacher_JN: Tensor
    kd_JKN: Tensor
    gate_JKN: Tensor
    agree_JKN: Tensor
    divergence_N: Tensor
    hidden_KND: Tensor | None
    projection_VD: Tensor | None


def compute(problem: Problem, want_hidden: bool, want_projection: bool) -> Found:
    """Runs the chunks; gradients of the loss with respect to hidden states and projection where wanted."""
    p = problem
    dtype = accumulator(p.hidden_KND.dtype, p.projection_VD.dtype)
    weights_VD = p.projection_VD.to(dtype)
    teachers_VE = [t.projection_VE.to(dtype) for t in p.teachers]
    passes, total, width = p.hidden_KND.shape
    column_D = weights_VD.sum(0)
    dhidden = torch.empty_like(p.hidden_KND, dtype=dtype) if want_hidden else None
    dweights = torch.zeros_like(weights_VD) if want_projection else None
    smooth_D = torch.zeros_like(column_D)
    found: list[tuple[Tensor, ...]] = []
    buffers = passes + len(p.teachers)
    most = BUDGET[p.hidden_KND.device.type] // (buffers * p.vocabulary * weights_VD.element_size())
    whole_KB = p.tokens_B.clamp(min=1)
    store: dict[int, Tensor] = {}

    def logits(slot: int, hidden_RX: Tensor, projection_VX: Tensor) -> Tensor:
        """One product into a buffer that the next chunk reuses."""
        rows = hidden_RX.shape[0]
        if slot not in store or store[slot].shape[0] < rows:
            store[slot] = hidden_RX.new_empty(rows, p.vocabulary)
        return torch.mm(hidden_RX, projection_VX.t(), out=store[slot][:rows])

    for start, stop in chunks(p, max(1, most)):
        cut = slice(start, stop)
        hidden_RD = p.hidden_KND[:, cut].to(dtype).reshape(-1, width)
        rows = chunked.Rows(
            logits(0, hidden_RD, weights_VD).view(passes, stop - start, p.vocabulary),
            tuple(logits(1 + j, t.hidden_NE[cut].to(dtype), teachers_VE[j]) for j, t in enumerate(p.teachers)),
            p.gold_N[cut],
            p.weight_N[cut],
            tuple(t._replace(hidden_NE=t.hidden_NE[cut], weight_N=t.weight_N[cut]) for t in p.teachers),
            p.smoothing,
            p.divergence_weight,
            p.plain,
        )
        scratch: dict[str, Tensor] = {}
        s = chunked.statistics(rows, scratch)
        mean_KC = (hidden_RD @ column_D).view(passes, -1) / p.vocabulary - s.lse_KC
        gold_KC = s.gold_KC - s.lse_KC
        gate_JKC = _gates(p, cut, gold_KC.exp(), s.teacher_JC, whole_KB)
        found.append((gold_KC, mean_KC, s.teacher_JC, s.kd_JKC, gate_JKC, s.agree_JKC, s.divergence_C))
        if dhidden is None and dweights is None:
            continue
        constant = chunked.gradient(rows, gate_JKC, scratch)
        dz_RV = rows.logits_KCV.view(-1, p.vocabulary)
        weight_R = rows.weight_C.repeat(passes) * constant
        if dhidden is not None:
            dhidden[:, cut] = torch.addr(dz_RV @ weights_VD, weight_R, column_D).view(passes, -1, width)
        if dweights is not None:
            dweights.addmm_(dz_RV.t(), hidden_RD)
            smooth_D += weight_R @ hidden_RD
    if dweights is not None:
        dweights += smooth_D
        if passes > 1:
            dweights /= passes
    if dhidden is not None and passes > 1:
        dhidden /= passes
    return Found(*_join(p, found), dhidden, dweights)


def _gates(p: Problem, cut: slice, student_KC: Tensor, teacher_JC: Tensor, tokens_B: Tensor) -> Tensor:
    """(J, K, C): each teacher's gate for the chunk's tokens; a sentence gate from the sentence's mean probabilities."""
    gates = []
    sentence_C = p.sentence_N[cut]
    for j, t in enumerate(p.teachers):
        student, teacher = student_KC, teacher_JC[j]
        if t.gate.level == "sentence" and t.gate.kind != "whole":
            student = _per_sentence(student_KC, sentence_C, tokens_B)[:, sentence_C]
            teacher = _per_sentence(teacher, sentence_C, tokens_B)[sentence_C]
        gates.append(gate_value(t.gate, teacher, student))
    return torch.stack(gates) if gates else student_KC.new_zeros(0, *student_KC.shape)


def _per_sentence(values_XN: Tensor, sentence_N: Tensor, tokens_B: Tensor) -> Tensor:
    """Means over each sentence's tokens; 0 for an empty sentence."""
    sums_XB = values_XN.new_zeros(*values_XN.shape[:-1], len(tokens_B))
    return sums_XB.index_add_(-1, sentence_N, values_XN) / tokens_B.clamp(min=1)


def _join(p: Problem, found: list[tuple[Tensor, ...]]) -> list[Tensor]:
    if not found:
        empty, teachers = p.weight_N.new_zeros(p.passes, 0), len(p.teachers)
        many = p.weight_N.new_zeros(teachers, p.passes, 0)
        return [empty, empty, p.weight_N.new_zeros(teachers, 0), many, many, many, p.weight_N.new_zeros(0)]
    if len(found) == 1:
        return list(found[0])
    return [torch.cat(parts, -1) for parts in zip(*found, strict=True)]


def sums(p: Problem, f: Found) -> Sums:
    """Found statistics to sums; the loss here is a plain number, its gradient is ``f``'s."""
    passes = p.passes
    ce_KN = -(1 - p.smoothing) * f.gold_KN - p.smoothing * f.mean_KN
    loss = (ce_KN * p.weight_N).sum()
    for j, t in enumerate(p.teachers):
        loss = loss + (f.kd_JKN[j] * f.gate_JKN[j] * t.weight_N).sum()
    divergence = f.divergence_N.sum()

    def per_sentence(values_XN: Tensor) -> Tensor:
        return _per_sentence(values_XN.to(f.gold_KN.dtype), p.sentence_N, p.tokens_B)

    teachers = range(len(p.teachers))
    return Sums(
        loss=loss / passes + p.divergence_weight * divergence,
        ce=ce_KN.sum() / passes,
        nll=-f.gold_KN.sum() / passes,
        tokens=p.tokens_B.sum().to(f.gold_KN.dtype),
        kd=tuple((f.kd_JKN[j] * f.gate_JKN[j]).sum() / passes for j in teachers),
        gate=tuple(per_sentence(f.gate_JKN[j]).mean(0) for j in teachers),
        student_probability_B=per_sentence(f.gold_KN.exp()).mean(0),
        teacher_probability=tuple(per_sentence(f.teacher_JN[j]) for j in teachers),
        agreement=tuple(per_sentence(f.agree_JKN[j]).mean(0) for j in teachers),
        divergence=divergence,
    )


class _Attach(torch.autograd.Function):
    """Hangs gradients that are already known on the loss."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, projection: Tensor, loss: Tensor, dhidden: Tensor, dweights: Tensor
    ) -> Tensor:
        """The loss as it is."""
        ctx.save_for_backward(dhidden, dweights)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """The known gradients times the loss's own; in place unless the graph is kept for another backward."""
        keep = torch._C._autograd._get_current_graph_task_keep_graph()
        parts = [None if part is None else (part * scale if keep else part.mul_(scale)) for part in ctx.saved_tensors]
        return parts[0], parts[1], None, None, None


def attach(hidden: Tensor, projection: Tensor, loss: Tensor, p: Problem, f: Found) -> Tensor:
    """The differentiable loss."""
    dhidden = f.hidden_KND
    if dhidden is not None:
        flat = hidden.new_zeros(p.passes, hidden.shape[0] // p.passes * hidden.shape[1], hidden.shape[2])
        if dhidden.shape[1] == flat.shape[1]:
            flat = dhidden.to(hidden.dtype)
        else:
            flat[:, p.rows_N] = dhidden.to(hidden.dtype)
        dhidden = flat.view_as(hidden)
    dweights = None if f.projection_VD is None else f.projection_VD.to(projection.dtype)
    return _Attach.apply(hidden, projection, loss, dhidden, dweights)
