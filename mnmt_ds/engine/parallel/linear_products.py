"""Whose products a run's linear layers use: settled once for all ranks, and kept for as long as the run lasts."""

from collections.abc import Mapping
from typing import Any

import torch

from mnmt_ds.distributed import RankGroup
from mnmt_ds.engine.settings import TrainSettings
from mnmt_ds.errors import UserError
from mnmt_ds.kernels import linear
from mnmt_ds.kernels.linear_choice import Choice, measured_choice

STATE = "linear_implementation"
"""Name in a checkpoint's state."""


def settle(
    train: TrainSettings, device: torch.device, state: Mapping[str, Any] | None, job: RankGroup
) -> tuple[str, str]:
    """Chooses for all ranks of the job, which call this together, and tells this process.

    Args:
        train: settings of the run.
        device: of the model.
        state: of the checkpoint that a run goes on from, which may be older than this choice; None: a new run.
        job: all ranks.

    Returns:
        torch or cpu, and a line for the log; an empty one where there was nothing to choose.

    Raises:
        UserError: when the kernels are asked for by name and cannot be used.
    """
    asked, kept = train.linear_implementation, None if state is None else state.get(STATE, "torch")
    if device.type != "cpu" or train.precision != "fp32" or train.torch_compile:
        if asked == "cpu":
            raise UserError(
                "train.linear_implementation: cpu computes in float32 on a CPU; this run is"
                f" {'compiled' if train.torch_compile else train.precision} on {device.type}; leave it at auto"
            )
        linear.use("torch")
        return "torch", ""
    choice = Choice(asked, "as train.linear_implementation says")
    if asked == "auto":
        choice = Choice(kept, "as the run began") if kept is not None else job.on_main_first(measured_choice)
    faults = [fault for fault in job.gather(linear.use(choice.name)) if fault]
    if faults and asked == "cpu":
        raise UserError(f"train.linear_implementation: cpu cannot run here: {faults[0]}")
    if faults:
        linear.use("torch")
        before = ", which the run has used so far; its sums are rounded otherwise from here on" if kept == "cpu" else ""
        return "torch", f"linear layers: torch's products; not the kernels'{before}: {faults[0]}"
    whose = "the C++ kernels' products" if choice.name == "cpu" else "torch's products"
    return choice.name, f"linear layers: {whose} ({choice.reason})"
