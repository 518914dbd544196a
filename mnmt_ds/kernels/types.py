"""What the fused loss takes and gives: teachers with their gates, options, and the sums that come out.

Letters of this package: B sentences, T positions, N tokens that count, D student's width, E teacher's width,
V vocabulary, K passes, J teachers, C tokens of a chunk, R rows (the file says of what), X any axes.
"""

from typing import NamedTuple

from torch import Tensor

from mnmt_ds.kernels.target_rows import TargetRows


class Gate(NamedTuple):
    """Share of a teacher's term that a sentence (or a token) takes (LSSD); carries no gradient.

    With P the mean gold probability of a sentence (level "sentence") or the gold probability of a token ("token"):
    whole: 1. selective: 1 where P(teacher) >= P(student), else ``below``. adaptive: min(P(teacher) / P(student), cap).
    """

    kind: str = "whole"
    """whole, selective or adaptive."""
    level: str = "sentence"
    """sentence or token: over what P is taken."""
    cap: float = 2.0
    """Greatest adaptive gate."""
    below: float = 0.0
    """Selective gate where the teacher is worse (the released LSSD code: 0.2)."""
    strict: bool = False
    """Selective: the teacher must be better, not merely as good."""


class Teacher(NamedTuple):
    """One teacher of a batch, without gradient: adds T^2 * CE(softmax(teacher / T), softmax(student / T)) a token."""

    hidden_BTE: Tensor
    """The teacher's decoder states."""
    projection_VE: Tensor
    """The teacher's output projection."""
    weight: float | Tensor
    """Weight of the term: a number, (B,) a sentence, or (B, T) a token."""
    gate: Gate = Gate()
    temperature: float = 1.0
    """T above; gates always compare probabilities at temperature 1."""
    vocabulary_V: Tensor | None = None
    """bool: the words this teacher may use; its distribution is cut to them and renormalised. None: all."""
    top_k: int = 0
    """Each token's distribution is cut to its k most probable words and renormalised; 0: all. Gate: whole alone."""


class LossOptions(NamedTuple):
    """Options of the fused loss beside tensors and teachers."""

    smoothing: float = 0.1
    """Label smoothing of the gold term, 0 to 1: the share of the target that is spread evenly over the vocabulary."""
    gold_weight: float | Tensor = 1.0
    """Weight of the gold term: a number, (B,) a sentence, or (B, T) a token."""
    passes: int = 1
    """K: hidden states are (K * B, T, D), pass after pass; sums are means over passes."""
    divergence_weight: float = 0.0
    """Weight of the K passes' X-divergence (intra-distillation)."""
    pad: int = 1
    """Target id that never counts."""
    target_rows: TargetRows | None = None
    """Which targets count, where that is known already; it spares the waits for a GPU that finding it takes."""
    sentence_sums: bool = False
    """Whether cross-entropies are also summed sentence by sentence."""


class LossSums(NamedTuple):
    """Loss and logged figures as sums over tokens, in nats; with K passes the mean over passes of each sum."""

    loss: Tensor
    """() the objective, differentiable."""
    ce: Tensor
    """() label-smoothed CE, not weighted by ``gold_weight``."""
    nll: Tensor
    """() CE without smoothing."""
    tokens: Tensor
    """() tokens that count (of one pass)."""
    kd: tuple[Tensor, ...]
    """() per teacher: gate times KD, without the teacher's weight."""
    gate: tuple[Tensor, ...]
    """(B,) per teacher: mean gate over the sentence's tokens; 0 for an empty sentence."""
    student_probability_B: Tensor
    """Mean gold probability of each sentence."""
    teacher_probability: tuple[Tensor, ...]
    """(B,) per teacher: the same of the teacher, at temperature 1."""
    agreement: tuple[Tensor, ...]
    """(B,) per teacher: share of tokens where student and teacher favour the same word."""
    divergence: Tensor
    """() X-divergence of the K passes, not weighted; 0 for one pass."""
    ce_B: Tensor | None = None
    """(B,) ``ce`` of each sentence, where ``sentence_sums`` asks for it."""
    nll_B: Tensor | None = None
    """(B,) ``nll`` of each sentence, likewise."""
