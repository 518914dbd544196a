"""One-shot pruning from the least language-specific parameters upward (paper 3, Section 3.3)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from mnmt_ds.models.transformer import Transformer


def order_of_pruning(specificity_N: Tensor, kept_N: Tensor) -> Tensor:
    """Places of the parameters that may be pruned, the least language-specific first; ties by place."""
    free_N = (~kept_N).nonzero().squeeze(1)
    return free_N[specificity_N[free_N].sort(stable=True).indices]


def masks(order_M: Tensor, ratio: float, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By parameter, 1 where it stays and 0 where it goes; ``ratio`` is a share of ALL parameters."""
    total = sum(value.numel() for value in like.values())
    stays_N = torch.ones(total)
    stays_N[order_M[: min(len(order_M), round(ratio * total))]] = 0
    sizes = [like[name].numel() for name in sorted(like)]
    return {name: part.view(like[name].shape) for name, part in zip(sorted(like), stays_N.split(sizes), strict=True)}


@contextmanager
def pruned(model: Transformer, stays: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with parameters set to zero, for as long as the block runs."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    try:
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.mul_(stays[name].to(value))
        yield
    finally:
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(before[name])
