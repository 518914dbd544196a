"""Who teaches a pair: the interface of the three kinds of teacher sources.

They are its own best checkpoint (``teacher_bank``), the overall best one (``overall_best``), an expert (``experts``).
"""

from collections.abc import Mapping
from typing import Any, Protocol

from mnmt_ds.teachers.shard_storage import Version


class DevResults(Protocol):
    """What a teacher source reads of a validation; equal on every rank."""

    @property
    def update(self) -> int:
        """The update at which the student was validated."""
        ...

    @property
    def dev(self) -> Mapping[str, float]:
        """Dev loss of each pair, in nats a token."""
        ...

    @property
    def bleu(self) -> Mapping[str, float]:
        """Dev BLEU of each pair; empty at validations that do not measure it."""
        ...


class TeacherChoice(Protocol):
    """Says which teacher a pair has."""

    def teacher_of(self, pair: str) -> Version | None:
        """Gives the pair's present teacher.

        Args:
            pair: such as ``de-en``.

        Returns:
            Its version; None while the pair is not distilled.
        """
        ...


class TeacherSource(TeacherChoice, Protocol):
    """Chooses the teacher of each pair, from dev results; its state is in the checkpoint."""

    def update(self, report: DevResults) -> None:
        """Chooses anew after a validation; all ranks call this together.

        Args:
            report: the validation's results.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Gives the state for a checkpoint.

        Returns:
            Values that JSON can hold.
        """
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's state; all ranks call this together.

        Args:
            state: what ``state`` gave.
        """
        ...

    def snapshots(self) -> set[int]:
        """Lists the snapshots of this run that are in use.

        Returns:
            Their updates; a checkpoint keeps these files.
        """
        ...

    def report(self, update: int) -> dict[str, float]:
        """Gives metrics.

        Args:
            update: updates done so far.

        Returns:
            Values by metric key.
        """
        ...
