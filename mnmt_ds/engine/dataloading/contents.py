"""What every rank's micro-batches will hold, from an epoch's plan alone: known before any rank reads them."""

from collections.abc import Sequence

from mnmt_ds.batch import MicroBatchContent
from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.parallel_layout import ParallelLayout

RankContents = Sequence[MicroBatchContent | None]
"""Of one micro-batch: what every data-parallel rank holds; None for a rank that has nothing left."""


def micro_batches_of(plan: EpochPlan, layout: ParallelLayout) -> int:
    """Computes how many micro-batches of an update each rank has.

    Args:
        plan: of an epoch.
        layout: the ranks.

    Returns:
        How many.
    """
    return plan.batches_per_update // layout.data_parallel_size


def update_contents(plan: EpochPlan, update: int, layout: ParallelLayout) -> list[RankContents]:
    """Lists what each rank holds in every micro-batch of one update.

    Args:
        plan: of an epoch.
        update: its number in the plan, from 0.
        layout: the ranks.

    Returns:
        One entry a micro-batch.
    """
    count = micro_batches_of(plan, layout)
    return [micro_batch_contents(plan, update * count + index, layout) for index in range(count)]


def micro_batch_contents(plan: EpochPlan, number: int, layout: ParallelLayout) -> RankContents:
    """Lists what each rank holds in one micro-batch.

    Args:
        plan: of an epoch.
        number: of the rank's micro-batch in the epoch, from 0.
        layout: the ranks.

    Returns:
        One entry a data-parallel rank.
    """
    update, index = divmod(number, micro_batches_of(plan, layout))
    first = update * plan.batches_per_update + index * layout.data_parallel_size
    return [
        MicroBatchContent(int(plan.pair[k]), plan.sentences_of(k)) if k < len(plan.pair) else None
        for k in range(first, first + layout.data_parallel_size)
    ]
