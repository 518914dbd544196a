"""The student's own states without dropout for a method that asks for them in the middle of an update.

Where a rank has all layers they are computed when they are asked for. Along a pipeline the stages before the last one
have long gone on then, and a pass is all stages' work: there they are computed before the update.

Shape letters: B sentences, T target positions, D model width, V words.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from mnmt_ds.batch import Batch
from mnmt_ds.engine.parallel.engine import DecoderStates


class EvalPasses(Protocol):
    """The one method of an engine that eval states are computed with."""

    def decoder_states(
        self, batches: Sequence[Batch], seeds: Sequence[int] | None = None
    ) -> Iterator[DecoderStates | None]:
        """Runs forward passes without gradient, as ``Engine.decoder_states`` does.

        Args:
            batches: one after another.
            seeds: of dropout; None: it is off.

        Returns:
            Decoder states (B, T, D) and projection (V, D) of each batch; None on pipeline stages but the last.
        """
        ...


class DirectEvalStates:
    """Computes a micro-batch's eval states when the method asks for them; for engines without a pipeline."""

    def __init__(self, engine: EvalPasses) -> None:
        """Answers for one engine.

        Args:
            engine: of the student.
        """
        self._engine = engine

    def request(self, needs_states: Callable[[str], bool]) -> None:
        """Does nothing: states are computed when they are asked for.

        Args:
            needs_states: ignored.
        """

    def prefetch(self, micro_batches: Sequence[Batch]) -> None:
        """Does nothing: states are computed when they are asked for.

        Args:
            micro_batches: ignored.
        """

    def states(self, batch: Batch) -> DecoderStates:
        """Computes the states of a batch.

        Args:
            batch: on this rank's device.

        Returns:
            Decoder states (B, T, D) and projection (V, D).
        """
        (states,) = self._engine.decoder_states([batch])
        assert states is not None
        return states


class PrecomputedEvalStates:
    """Computes the eval states of all of an update's micro-batches before the update; for pipelines."""

    def __init__(self, engine: EvalPasses, pairs: Sequence[str]) -> None:
        """Answers for one engine.

        Args:
            engine: of the student.
            pairs: names of the run's language pairs.
        """
        self._engine, self._pairs = engine, pairs
        self._needs_states: list[Callable[[str], bool]] = []
        self._states: dict[int, DecoderStates | None] = {}
        """By the micro-batch's index; None on all stages but the last."""

    def request(self, needs_states: Callable[[str], bool]) -> None:
        """Declares which micro-batches will ask for eval states.

        Args:
            needs_states: of a language pair's name: whether a batch of it will ask, as things then are; equal on all
                ranks.
        """
        self._needs_states.append(needs_states)

    def prefetch(self, micro_batches: Sequence[Batch]) -> None:
        """Computes what an update's micro-batches will ask for; all ranks call this together.

        Args:
            micro_batches: this rank's.
        """
        asking = [any(needs_states(pair) for needs_states in self._needs_states) for pair in self._pairs]
        if not any(asking):
            return
        indices = [
            index
            for index, batch in enumerate(micro_batches)
            if batch.tokens and batch.pair < len(asking) and asking[batch.pair]
        ]
        states = self._engine.decoder_states([micro_batches[index] for index in indices])
        self._states = dict(zip(indices, states, strict=True))

    def states(self, batch: Batch) -> DecoderStates:
        """Returns the precomputed states of a micro-batch, on the last stage.

        Args:
            batch: a micro-batch of the update at hand.

        Returns:
            Decoder states (B, T, D) and projection (V, D).
        """
        states = self._states[batch.micro_batch]
        assert states is not None
        return states
