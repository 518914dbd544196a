"""The random generator that dropout draws from on this rank's device, and torch's deterministic algorithms."""

import os

import torch
from torch import Tensor

from mnmt_ds.distributed import device


def seed_random_state(seed: int) -> None:
    """Seeds torch's random generators of the CPU and of CUDA, from which dropout is drawn.

    torch 2.13's own formats the stack of calls for each kind of device that is not initialised: about a millisecond a
    call at the depth of a training step.

    Args:
        seed: 64 bits.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def random_state() -> Tensor:
    """Reads the random generator's state, as bytes on this rank's device.

    Returns:
        uint8, (bytes,).
    """
    rank_device = device()
    return torch.get_rng_state() if rank_device.type == "cpu" else torch.cuda.get_rng_state(rank_device).to(rank_device)


def set_random_state(state: Tensor) -> None:
    """Sets the random generator's state, such as another stage's.

    Args:
        state: of ``random_state`` there.
    """
    rank_device = device()
    if rank_device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state.cpu(), rank_device)


def use_deterministic_algorithms() -> None:
    """Makes torch choose only algorithms that give the same bits each time, from now on in this process.

    An operation that has none ends the run with torch's error, which names it.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True)  # with warn_only attention's backward would stay as it is
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # we read none
