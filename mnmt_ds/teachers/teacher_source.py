"""Who teaches a pair: the interface of the three kinds of teacher sources.

They are its own best checkpoint (``teacher_bank``), the overall best one (``overall_best``), an expert (``experts``).
"""

from collections.abc import Mapping
from typing import Any, Protocol

from mnmt_ds.teachers.shard_storage import Version


class DevResults(Protocol):
    """Dev results of a validation that a teacher source reads; equal on every rank."""

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
    """Interface that tells which teacher a pair has."""

    def teacher_of(self, pair: str) -> Version | None:
        """Returns the pair's present teacher.

        Args:
            pair: such as ``de-en``.

        Returns:
            Its version; None while the pair is not distilled.
        """
        ...


class TeacherSource(TeacherChoice, Protocol):
    """Interface that chooses each pair's teacher from dev results; its state is in the checkpoint."""

    def update(self, report: DevResults) -> None:
        """Chooses anew after a validation; all ranks call this together.

        Args:
            report: the validation's results.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint.

        Returns:
            Values that JSON can hold.
        """
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a checkpoint's state; all ranks call this together.

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
        """Returns metrics.

        Args:
            update: updates done so far.

        Returns:
            Values by metric key.
        """
        ...
