"""Which implementation runs where."""

import functools
import logging

import torch

from mnmt_ds.errors import UserError
from mnmt_ds.kernels import chunked, cpu, cuda
from mnmt_ds.kernels.chunk_loop import Implementation
from mnmt_ds.kernels.loss_inputs import LossInputs

NAMES = ("auto", "reference", "chunked", "cpu", "cuda")
LOG = logging.getLogger("mnmt_ds")

CHUNKED = Implementation(chunked.most_tokens, chunked.statistics, chunked.gradients)
CUDA = Implementation(cuda.most_tokens, cuda.statistics, cuda.gradients)
CPU = Implementation(cpu.most_tokens, cpu.statistics, cpu.gradients)


@functools.cache
def resolve_implementation(implementation: str, device: torch.device) -> str:
    """The implementation that runs on a device when this one is asked for.

    UserError for an unknown name, or for a native one that is asked for by name and cannot run here.
    """
    if implementation not in NAMES:
        raise UserError(f"loss: unknown implementation '{implementation}'; know {', '.join(NAMES)}")
    if implementation in ("reference", "chunked"):
        return implementation
    native = device.type if implementation == "auto" else implementation
    if native == device.type == "cpu":
        why = cpu.available()
    elif native == device.type == "cuda":
        why = cuda.available()
    else:
        why = f"no native kernels for {device.type}"
    if not why:
        return native
    if implementation != "auto":
        raise UserError(f"loss: implementation '{implementation}' cannot run on {device.type}: {why}")
    LOG.warning("loss: running chunked PyTorch, the native kernels are missing: %s", why)
    return "chunked"


def select_implementation(name: str, problem: LossInputs) -> Implementation:
    """The implementation for one problem; a native one hands what it does not know (float64) to chunked PyTorch."""
    if name == "cpu" and cpu.fits(problem):
        return CPU
    if name == "cuda" and cuda.fits(problem):
        return CUDA
    return CHUNKED
