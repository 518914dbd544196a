"""Which implementation runs where. Letters: see types.py."""

import functools
import logging

import torch

from mnmt_ds.errors import UserError
from mnmt_ds.kernels import chunked, cpu, cuda, tiles, triton_loss
from mnmt_ds.kernels.chunk_loop import Implementation
from mnmt_ds.kernels.loss_inputs import LossInputs

NAMES = ("auto", "reference", "chunked", "cpu", "cuda", "triton")
"""What may be asked for."""
LOG = logging.getLogger(__name__)

CHUNKED = Implementation(chunked.max_chunk_tokens, chunked.statistics, chunked.gradients)
CUDA = Implementation(cuda.max_chunk_tokens, cuda.statistics, cuda.gradients)
TILES = Implementation(tiles.max_chunk_tokens, tiles.statistics, tiles.gradients)
TRITON = Implementation(triton_loss.max_chunk_tokens, triton_loss.statistics, triton_loss.gradients)
CPU = Implementation(cpu.max_chunk_tokens, cpu.statistics, cpu.gradients)


@functools.cache
def resolve_implementation(implementation: str, device: torch.device) -> str:
    """Chooses the implementation that runs on a device when one is asked for; native code is built if need be.

    Args:
        implementation: one of ``NAMES``.
        device: where the tensors are.

    Returns:
        reference, chunked, cpu, cuda or triton.

    Raises:
        UserError: when the name is unknown, or a native one that is asked for by name cannot run here.
    """
    if implementation not in NAMES:
        raise UserError(f"loss: unknown implementation '{implementation}'; know {', '.join(NAMES)}")
    if implementation in ("reference", "chunked"):
        return implementation
    native = device.type if implementation == "auto" else implementation
    if native == device.type == "cpu":
        reason = cpu.why_unavailable()
    elif native == device.type == "cuda":
        reason = cuda.why_unavailable()
    elif native == "triton" and (device.type == "cuda" or triton_loss.is_interpreted()):
        reason = triton_loss.why_unavailable()
    else:
        reason = f"no native kernels for {device.type}" if implementation == "auto" else "not its device; take auto"
    if not reason:
        return native
    if implementation != "auto":
        raise UserError(f"loss: implementation '{implementation}' cannot run on {device.type}: {reason}")
    LOG.warning("loss: running chunked PyTorch, the native kernels are missing: %s", reason)
    return "chunked"


def select_implementation(name: str, inputs: LossInputs) -> Implementation:
    """Selects the functions that compute one call; what native ones do not support goes to chunked PyTorch.

    What Triton's kernels do not support goes to those that ``auto`` takes.

    Args:
        name: as from ``resolve_implementation``.
        inputs: the loss's arguments as rows.

    Returns:
        The implementation's functions.
    """
    if name == "triton":
        if triton_loss.supports(inputs):
            return TRITON
        name = resolve_implementation("auto", inputs.hidden_KND.device)
    if name == "cpu" and tiles.supports(inputs):
        return TILES
    if name == "cpu" and cpu.supports(inputs):
        return CPU
    if name == "cuda" and cuda.supports(inputs):
        return CUDA
    return CHUNKED
