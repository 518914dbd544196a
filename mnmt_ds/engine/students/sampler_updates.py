"""When students' samplers are called, and what follows: the epoch's rest is drawn anew, the change is logged."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.engine.monitoring.validation import PairValues
from mnmt_ds.engine.parallel.engine import LossFunction
from mnmt_ds.engine.students.sampler_measurements import StudentMeasurements
from mnmt_ds.engine.students.student import Student


class SamplerUpdates:
    """Calls the dynamic samplers of this rank's students, and redraws the rest of an epoch where they change it."""

    def __init__(self, students: Sequence[Student], compute_loss: LossFunction) -> None:
        """Prepares the measurements of samplers that make some.

        Args:
            students: of this rank.
            compute_loss: the plain cross-entropy.
        """
        self._students = students
        self._logged_changes = {student.name: -1 for student in students}
        self.measurements = {
            student.name: StudentMeasurements(student, compute_loss) for student in students if student.sampler.every
        }
        """Measurements by name of the students whose samplers measure."""

    def resumed(self) -> None:
        """Marks the samplers' distributions as logged already; called after they are loaded from a checkpoint."""
        for student in self._students:
            self._logged_changes[student.name] = student.sampler.changes

    def is_measure_due(self, update: int) -> bool:
        """Returns whether any sampler measures at this update.

        Args:
            update: updates that every student has taken.

        Returns:
            Whether ``measure`` does anything.
        """
        return any(student.sampler.every and update % student.sampler.every == 0 for student in self._students)

    def measure(self, update: int) -> None:
        """Calls each sampler that measures at this update, and redraws the rest of its epoch.

        Args:
            update: updates that every student has taken.
        """
        for student in self._students:
            sampler = student.sampler
            if sampler.every and update % sampler.every == 0:
                began = time.monotonic()
                sampler.measure(self.measurements[student.name])
                self.measurements[student.name].seconds = time.monotonic() - began
                _adopt_distribution(student)

    def on_validation(self, student: Student, values: PairValues) -> None:
        """Hands a student's dev losses to its sampler, and redraws the rest of its epoch where that changes the shares.

        Args:
            student: who was validated.
            values: dev figures of every pair.
        """
        training_data, sampler = student.training_data, student.sampler
        student.data_iterator.losses = [[0.0, 0.0] for _ in training_data.pairs]
        changes, uniform = sampler.changes, math.log(training_data.corpus.tokenizer.size)
        sampler.on_validation([1 - values[pair]["nll"] / uniform for pair in training_data.pairs])
        if sampler.changes > changes:
            _adopt_distribution(student)

    def new_records(self, update: int) -> Iterator[tuple[Student, dict[str, Any], str]]:
        """Yields the records of dynamic samplers whose distribution has changed since the last call.

        Args:
            update: updates that every student has taken.

        Yields:
            The student, values by metric key, and one line.
        """
        for student in self._students:
            sampler = student.sampler
            if sampler.dynamic and sampler.changes > self._logged_changes[student.name]:
                self._logged_changes[student.name] = sampler.changes
                named = zip(student.training_data.pairs, sampler.probabilities, strict=True)
                shares = " ".join(f"{pair} {probability:.3f}" for pair, probability in named)
                seconds = self.measurements[student.name].seconds if sampler.every else 0.0
                values = {**sampler.report(), metric_keys.MEASURE_SECONDS: seconds}
                yield student, values, f"sampler {update} | {shares}"


def _adopt_distribution(student: Student) -> None:
    """All ranks go on with the main one's distribution, to the last bit, whatever machine each is."""
    sampler = student.sampler
    sampler.restore(student.engine.layout.ranks.broadcast_from_main(sampler.state()))
    student.data_iterator.replan()
