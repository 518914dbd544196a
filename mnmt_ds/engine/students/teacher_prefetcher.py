"""Tells a student's method one micro-batch ahead what is to come, so that its teachers are fetched meanwhile."""

from collections.abc import Callable

from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.engine.dataloading.contents import micro_batch_contents, micro_batches_of
from mnmt_ds.engine.dataloading.data_iterator import DataIterator
from mnmt_ds.methods.method import Method


class TeacherPrefetcher:
    """Announces an epoch's micro-batches to a method, one before it is needed; none beyond a validation or a change of
    the sampling distribution."""

    def __init__(self, method: Method, data_iterator: DataIterator, next_evaluation: Callable[[], int]) -> None:
        """Starts with the coming update.

        Args:
            method: of the student.
            data_iterator: its iterator over its updates.
            next_evaluation: the updates that will be done when the next validation or change comes.
        """
        self._method, self._data_iterator, self._next_evaluation = method, data_iterator, next_evaluation
        self._plan: EpochPlan | None = None
        self._next = 0

    def before(self, index: int) -> None:
        """Prefetches the teachers of the next micro-batch; call it on all ranks before each micro-batch.

        Args:
            index: the micro-batch's, within the iterator's coming update.
        """
        data_iterator = self._data_iterator
        plan, layout = data_iterator.plan, data_iterator.training_data.layout
        updates_done = data_iterator.update_in_plan
        count = micro_batches_of(plan, layout)
        if plan is not self._plan:
            self._plan, self._next = plan, updates_done * count
        last = min(plan.updates, updates_done + self._next_evaluation() - data_iterator.update) * count - 1
        while self._next <= min(updates_done * count + index + 1, last):
            self._method.prefetch(micro_batch_contents(plan, self._next, layout))
            self._next += 1
