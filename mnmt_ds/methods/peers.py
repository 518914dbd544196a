"""What a student's method may know and ask of the run's other students."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import model_validator
from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.config import Settings


class TrialSettings(Settings):
    """On what a student tries weights, and what becomes of it."""

    rho: float = 0.1
    """Share of every pair's training sentences in the trial set."""
    data: Literal["sample", "coming"] = "sample"
    """sample: one sample of every pair for the whole run (paper); coming: the first batches of the coming epoch, for
    the first student half of them the second's (released)."""
    after: Literal["restore", "keep"] = "restore"
    """restore: the trained copies are thrown away (paper); keep: every trial goes on from the one before and trains
    the student for good, as the released code does in effect."""
    cache_gib: float = 4.0
    """CPU memory a rank may spend on the peers' states of the trial set; where they need more, each trial makes them
    anew."""

    @model_validator(mode="after")
    def _check(self) -> "TrialSettings":
        if not 0 < self.rho <= 1:
            raise ValueError(f"rho is a share of the training set, more than 0 and at most 1, not {self.rho}")
        return self


Trial = Callable[[TrialSettings, Sequence[Callable[[], None]]], list[dict[str, float]]]


class Peers(NamedTuple):
    """The students of a run of several, seen from one of them."""

    me: str
    others: Sequence[str]
    want: Callable[[Callable[[str], Collection[str]], bool], None]
    """Told once: which students a batch of a pair (its name) wants states of, as things then are, and whether with
    their dropout. An update's are brought before it."""
    states: Callable[[Sequence[str], Batch], Mapping[str, tuple[Tensor, Tensor]]]
    """Decoder states (B, T, E) and projections (V, E), without gradient, of students that a batch wants."""
    trial: Trial
    """For each change: make it, train on the trial set from the present state on, give every pair's dev loss."""
    last_update: int
    """Updates at most in the whole run: the paper's T_max."""
