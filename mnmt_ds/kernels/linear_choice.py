"""Which products linear layers use: measured once on a machine, and kept beside the compiled kernels."""

import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mnmt_ds.files import lock, write_json
from mnmt_ds.json_files import read_json
from mnmt_ds.kernels import build
from mnmt_ds.kernels.linear import NAMES, Linear, chosen, use

SHAPES = ((512, 128, 512), (512, 512, 512))
"""Rows, inputs and outputs of the layers that are measured: a small model's and a base model's."""
ROUNDS = 5


class Choice(NamedTuple):
    """Whose products are used, and why."""

    name: str
    """torch or cpu, as in ``linear.NAMES``."""
    reason: str
    """In a few words."""


def measured_choice() -> Choice:
    """Chooses the faster products of this machine; measured (a tenth of a second) where that was not done before.

    Returns:
        The choice; torch's where the kernels cannot be built.
    """
    try:
        directory = build.extensions_directory()
        library = build.build(build.cpu_recipe(), directory)
        path = library.with_name(f"linear-{library.stem}-{torch.get_num_threads()}.json")
        with lock(directory / "linear.lock", wait=True):  # two measurements at once would disturb each other
            try:
                measured: dict[str, float] = read_json(path, dict[str, float])
                ratio = measured["torch"] / measured["cpu"]
            except (OSError, ValueError, KeyError, ZeroDivisionError):
                measured = measure()
                with contextlib.suppress(OSError):
                    write_json(path, measured)
                ratio = measured["torch"] / measured["cpu"]
    except (build.BuildError, OSError) as error:
        return Choice("torch", f"no kernels: {error}")
    return Choice("cpu" if ratio > 1 else "torch", f"the kernels' are {ratio:.2f} times as fast as torch's here")


def measure() -> dict[str, float]:
    """Measures both kinds of products in turns; this process uses afterwards what it used before.

    Returns:
        Seconds that forward and backward of ``SHAPES`` take, by name, the best of some rounds; of processor time where
        there is one thread, so that other processes do not count.
    """
    before = chosen()
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(NAMES, float("inf"))
    with torch.random.fork_rng(devices=()), torch.enable_grad():
        passes = [_passes(*shape) for shape in SHAPES]
    try:
        for round_number in range(ROUNDS + 1):
            for name in NAMES:
                use(name)
                began = clock()
                with torch.enable_grad():
                    for run in passes:
                        run()
                if round_number:  # the first one warms up
                    best[name] = min(best[name], clock() - began)
    finally:
        use(before)
    return best


def _passes(rows: int, inputs: int, outputs: int) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward pass of a layer."""
    layer, x, dy = Linear(inputs, outputs), torch.randn(rows, inputs, requires_grad=True), torch.randn(rows, outputs)
    return lambda: torch.autograd.grad(layer(x), (x, *layer.parameters()), dy)
