"""One rank's part of a vocabulary that is split over ranks, for the loss and for the models.

Letters: V vocabulary, or the words of one rank.
"""

from typing import NamedTuple

from torch import distributed as dist


class VocabShard(NamedTuple):
    """This rank's words ``start`` to before ``stop`` of a vocabulary, and the ranks that hold the others."""

    group: dist.ProcessGroup
    """The ranks that share the vocabulary; the words of its rank 0 come first."""
    start: int
    """This rank's first word."""
    stop: int
    """One past its last word."""
