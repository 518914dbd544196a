"""What a student's method may know of the run's other students (its peers) and request from them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.config import PaperDifference, Settings


class TrialSettings(Settings):
    """Data on which a student tries weights, and what becomes of the trained copies."""

    differences: ClassVar = {
        "rho": PaperDifference(
            "0.1 (2, 4.1)", "0.05, 0.1 or 0.2 by script", "the paper's; the study of released code has the scripts'"
        ),
        "data": PaperDifference("a sample of every pair (2, Algorithm 2)", "`coming`", "the paper's"),
        "after": PaperDifference(
            "the trained copies are thrown away (2, Algorithm 2)",
            "`keep`: the rollback does nothing, so that every trial trains for good",
            "the paper's; the control that tells the search from its updates is extra_updates",
        ),
    }

    rho: float = Field(0.1, gt=0, le=1)
    """Share of every pair's training sentences in the trial set."""
    data: Literal["sample", "coming"] = "sample"
    """sample: one sample of every pair for the whole run (paper); coming: the first batches of the coming epoch, for
    the first student half of them the second's (released)."""
    after: Literal["restore", "keep"] = "restore"
    """restore: the trained copies are thrown away (paper); keep: every trial goes on from the one before and trains
    the student for good, as the released code does in effect."""
    cache_gib: float = Field(4.0, ge=0, le=10**6)
    """CPU memory a rank may spend on the peers' states of the trial set; where they need more, each trial makes them
    anew."""


RunTrials = Callable[[TrialSettings, Sequence[Callable[[], None]]], list[dict[str, float]]]
"""(settings, changes of the weights) -> every pair's dev loss (nats a token) after each change."""


class Peers(NamedTuple):
    """The run's other students, as one student's method may use them.

    Shape letters: B sentences, T target positions, E the peer's width, V vocabulary.
    """

    name: str
    """The name of the student that these are the peers of."""
    others: Sequence[str]
    """Names of its peers."""
    subscribe: Callable[[Callable[[str], Collection[str]], bool], None]
    """Called once, when the method is built, with a function from a pair (its name) to the peers whose states its
    batches need, as things are at the time, and whether those are taken with dropout. They are fetched before each
    update."""
    states: Callable[[Sequence[str], Batch], Mapping[str, tuple[Tensor, Tensor]]]
    """Decoder states (B, T, E) and projection (V, E), without gradient, of the named peers on a batch."""
    run_trials: RunTrials
    """For each change: makes it, trains on the trial set from the present state on, measures every pair's dev loss."""
    last_update: int
    """Updates at most in the whole run: the paper's T_max."""
