"""What each pipeline stage of a model holds: its entries of the layer sequence, its parameters, its micro-batches in
flight."""

from collections.abc import Sequence
from typing import NamedTuple

from mnmt_ds.models.layer_sequence import layer_entries, trained_entries
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.planning.parameters import parameters_of_entries, trained_parameters

VOCABULARY_KINDS = ("source", "target", "projection", "head")
"""Kinds of entries whose matrix has a row a word."""


class StageContents(NamedTuple):
    """Contents of one of p pipeline stages; a model without a pipeline is one stage."""

    kinds: Sequence[str]
    """Kinds of its entries of the layer sequence (models/layer_sequence.py)."""
    next_kind: str
    """Kind of the first entry of the stage behind it; empty: it is the last."""
    parameters: int
    """Its parameters; a tied matrix counts at every stage that uses it."""
    in_flight: int
    """Micro-batches whose activations it holds at once: min(m, p - number), since after its own warm-up a stage
    alternates forward and backward passes (1F1B)."""
    alternates: bool
    """Whether forward passes follow backward passes within an update: m is more than that."""
    work: float
    """Its work, as a part of what all of the model is on one rank."""
    trained: int | None = None
    """Those of its parameters that are trained; None: all."""

    @property
    def is_first(self) -> bool:
        """Whether the data come in here; its first rank is the main one, which writes the run's files."""
        return self.kinds[0] == "source"

    @property
    def is_last(self) -> bool:
        """Whether the loss is computed here."""
        return not self.next_kind

    def describe(self) -> str:
        """Describes the stage by its layers.

        Returns:
            Such as ``source embedding + 2 encoder``.
        """
        layers = [f"{self.kinds.count(kind)} {kind}" for kind in ("encoder", "decoder") if kind in self.kinds]
        ends = [name for kind, name in (("source", "source embedding"), ("head", "loss")) if kind in self.kinds]
        return " + ".join([*ends[:1], *layers, *ends[1:]] if "source" in self.kinds else [*layers, *ends])


def plan_stages(
    m: ModelSettings,
    rank_vocabulary: int,
    count: int = 1,
    costs: Sequence[float] = (),
    micro_batches: int = 1,
    vocabulary_shards: int = 1,
) -> list[StageContents]:
    """Cuts a model into stages as training cuts it.

    Args:
        m: the model.
        rank_vocabulary: words on each of the ranks that share the vocabulary.
        count: p stages.
        costs: cost of each entry of the layer sequence; empty: all cost the same.
        micro_batches: m micro-batches of an update.
        vocabulary_shards: ranks that share the vocabulary; the rest of a stage each of them computes.

    Returns:
        The stages in order.
    """
    entries = layer_entries(m, rank_vocabulary)
    bounds, costs = [0, len(entries)], costs or [1.0] * len(entries)
    if count > 1:
        from mnmt_ds.engine.parallel.pipeline_module import stage_bounds

        bounds = stage_bounds(entries, costs, count, trained_entries(m, entries))
    rank_costs = [
        cost / (vocabulary_shards if entry.kind in VOCABULARY_KINDS else 1)
        for cost, entry in zip(costs, entries, strict=True)
    ]
    stages = []
    for number, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        in_flight = min(micro_batches, count - number)
        parameters, trained = parameters_of_entries(m, rank_vocabulary, entries[begin:end]), None
        if m != m.plain():
            parameters, trained = trained_parameters(m, entries[begin:end])
        stages.append(
            StageContents(
                kinds=[entry.kind for entry in entries[begin:end]],
                next_kind=entries[end].kind if end < len(entries) else "",
                parameters=parameters,
                in_flight=in_flight,
                alternates=micro_batches > in_flight,
                work=sum(rank_costs[begin:end]) / sum(costs),
                trained=trained,
            )
        )
    return stages


def slowdown(stages: Sequence[StageContents], micro_batches: int, vocabulary_shards: int = 1) -> float:
    """Computes what p stages lose against so many ranks' full speed: the bubble (m + p - 1) / m, the dearest stage over
    the mean one, and the work that all ranks which share a vocabulary do alike.

    Args:
        stages: the p stages.
        micro_batches: m micro-batches of an update.
        vocabulary_shards: ranks of each stage, which share a vocabulary.

    Returns:
        A factor of the time, 1 where nothing is lost.
    """
    count = len(stages)
    return bubble(count, micro_batches) * count * vocabulary_shards * max(stage.work for stage in stages)


def bubble(count: int, micro_batches: int) -> float:
    """Computes by which factor a pipeline's step takes longer than its stages' own work: (m + p - 1) / m.

    Args:
        count: p stages.
        micro_batches: m micro-batches of an update.

    Returns:
        A factor of the time.
    """
    return (micro_batches + count - 1) / micro_batches
