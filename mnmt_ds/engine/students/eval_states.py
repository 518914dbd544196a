"""A student's own states without dropout along a pipeline, whose passes are all of its stages': made before the update.

Where a method asks for them as it scores a micro-batch, the stages before the last one have long gone on.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.engine.parallel import pipeline_engine


class PrecomputedEvalStates:
    """Such states of an update's micro-batches; on all stages but the last they are None."""

    def __init__(self, engine: Any, pairs: Sequence[str]) -> None:
        self._engine, self._pairs = engine, pairs
        self._wanted: list[Callable[[str], bool]] = []
        self._known: dict[int, Tensor | None] = {}

    def foresee(self, wanted: Callable[[str], bool]) -> None:
        """Told once: whether a batch of a pair (its name) will ask, as things then are; equal on all ranks."""
        self._wanted.append(wanted)

    def bring(self, group: Sequence[Batch]) -> None:
        """Makes what an update's micro-batches will ask for; all ranks call this together."""
        asking = [any(wanted(pair) for wanted in self._wanted) for pair in self._pairs]
        if not any(asking):
            return
        own = [k for k, batch in enumerate(group) if batch.tokens and batch.pair < len(asking) and asking[batch.pair]]
        found = pipeline_engine.states(self._engine, [group[k] for k in own], None)
        self._known = dict(zip(own, found, strict=True))

    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Decoder states (B, T, D) and projection (V, D), on the last stage."""
        hidden_BTD = self._known[batch.place]
        assert hidden_BTD is not None
        return hidden_BTD, self._engine.module.model.projection_VD.detach()
