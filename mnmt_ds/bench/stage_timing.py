"""A pipeline step's passes, timed on each stage, and how long the step takes where every stage has a device."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class StagePass(NamedTuple):
    """Times of one micro-batch's pass through one stage."""

    kind: str
    """forward or backward."""
    seconds: float


def record_passes(deepspeed_engine: Any, cpu_clock: Callable[[], float]) -> list[StagePass]:
    """Times this stage's passes from now on.

    Args:
        deepspeed_engine: DeepSpeed's PipelineEngine of this stage.
        cpu_clock: gives seconds where there is no GPU, such as ``time.process_time``.

    Returns:
        A list to which the passes are added, in their order, as they are done.
    """
    import torch
    from deepspeed.runtime.pipe import schedule

    from mnmt_ds.distributed import uses_gpu
    from mnmt_ds.private_apis import wrap_pipeline_instructions

    passes: list[StagePass] = []

    def clock() -> float:
        if not uses_gpu():
            return cpu_clock()
        torch.cuda.synchronize()
        return time.perf_counter()

    def timed(kind: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def wrap(instruction: Callable[..., None]) -> Callable[..., None]:
            def run(engine: Any, **arguments: Any) -> None:
                began = clock()
                instruction(engine, **arguments)
                passes.append(StagePass(kind, clock() - began))

            return run

        return wrap

    wrap_pipeline_instructions(
        deepspeed_engine, {schedule.ForwardPass: timed("forward"), schedule.BackwardPass: timed("backward")}
    )
    return passes


def median_passes(rounds: Sequence[Sequence[StagePass]]) -> list[StagePass]:
    """Computes the median of each pass over rounds.

    Args:
        rounds: a stage's passes, in the same order in every round.

    Returns:
        The passes.
    """
    return [
        StagePass(same[0].kind, statistics.median(stage_pass.seconds for stage_pass in same))
        for same in zip(*rounds, strict=True)
    ]


def simulated_step(stages: Sequence[Sequence[StagePass]]) -> float:
    """Computes the time of a step in which every stage has a device and sending takes no time.

    Every pass starts when its stage is free and its neighbour has sent what it needs.

    Args:
        stages: the passes of each stage, in their order.

    Returns:
        Seconds.
    """
    ends: dict[tuple[int, str, int], float] = {}  # of (stage, kind, number of the micro-batch)
    free_at, next_pass = [0.0] * len(stages), [0] * len(stages)
    passes_done = [{"forward": 0, "backward": 0} for _ in stages]
    while any(index < len(passes) for index, passes in zip(next_pass, stages, strict=True)):
        for stage, passes in enumerate(stages):
            while next_pass[stage] < len(passes):
                kind, seconds = passes[next_pass[stage]]
                number = passes_done[stage][kind]
                sender = stage - 1 if kind == "forward" else stage + 1
                needed_at = ends.get((sender, kind, number)) if 0 <= sender < len(stages) else 0.0
                if needed_at is None:
                    break  # not sent yet
                free_at[stage] = ends[stage, kind, number] = max(free_at[stage], needed_at) + seconds
                passes_done[stage][kind] += 1
                next_pass[stage] += 1
    return max(free_at)
