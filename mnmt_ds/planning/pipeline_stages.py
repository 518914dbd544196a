"""What each pipeline stage of a model holds: its places in the row, its parameters, its micro-batches under way."""

from collections.abc import Sequence
from typing import NamedTuple

from mnmt_ds.models.layer_sequence import layer_entries
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.planning.parameters import of_places

VOCABULARY = ("source", "target", "projection", "head")
"""Kinds of places whose matrix has a row a word."""


class StageContents(NamedTuple):
    """One of p stages; a model without a pipeline is one stage alone."""

    kinds: Sequence[str]
    """Of its places (models/layer_sequence.py)."""
    following: str
    """The kind of the first place of the stage behind it; empty: it is the last."""
    parameters: int
    """A tied matrix counts at every stage that uses it."""
    under_way: int
    """Micro-batches whose activations it holds at once: min(m, p - number), since after its own warm-up a stage
    alternates forward and backward passes (1F1B)."""
    refills: bool
    """Whether forward passes follow backward passes within an update: m is more than that."""
    share: float
    """Its work, as a part of what all of the model is on one rank."""

    @property
    def first(self) -> bool:
        """Whether the data come in here; its first rank is the main one, which writes the run's files."""
        return self.kinds[0] == "source"

    def describe(self) -> str:
        """Its layers, as people say it."""
        layers = [f"{self.kinds.count(kind)} {kind}" for kind in ("encoder", "decoder") if kind in self.kinds]
        ends = [name for kind, name in (("source", "source embedding"), ("head", "loss")) if kind in self.kinds]
        return " + ".join([*ends[:1], *layers, *ends[1:]] if "source" in self.kinds else [*layers, *ends])


def stages_of(
    m: ModelSettings, words: int, count: int = 1, costs: Sequence[float] = (), micro_batches: int = 1, sharing: int = 1
) -> list[StageContents]:
    """The model in ``count`` stages, cut by ``costs`` of its places as training cuts it; m micro-batches an update.
    ``words``: of the vocabulary on each of the ranks that are ``sharing`` it; the rest of a stage each of them does."""
    row = layer_entries(m, words)
    cut, costs = [0, len(row)], costs or [1.0] * len(row)
    if count > 1:
        from mnmt_ds.engine.parallel.pipeline_module import bounds

        cut = bounds(row, costs, count)
    found = []
    for number, (begin, end) in enumerate(zip(cut, cut[1:], strict=False)):
        following = row[end].kind if end < len(row) else ""
        kinds, size = [part.kind for part in row[begin:end]], of_places(m, words, row[begin:end])
        under_way = min(micro_batches, count - number)
        own = [cost / (sharing if part.kind in VOCABULARY else 1) for cost, part in zip(costs, row, strict=True)]
        share = sum(own[begin:end]) / sum(costs)
        found.append(StageContents(kinds, following, size, under_way, micro_batches > under_way, share))
    return found


def slowdown(stages: Sequence[StageContents], micro_batches: int, sharing: int = 1) -> float:
    """What p stages, each of as many ranks as are ``sharing`` a vocabulary, lose against so many ranks' own speed: the
    bubble (m + p - 1) / m, the dearest stage over the mean one, and the work that those ranks all do alike."""
    count = len(stages)
    return bubble(count, micro_batches) * count * sharing * max(stage.share for stage in stages)


def bubble(count: int, micro_batches: int) -> float:
    """(m + p - 1) / m."""
    return (micro_batches + count - 1) / micro_batches
