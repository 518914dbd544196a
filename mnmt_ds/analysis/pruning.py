"""One-shot pruning from the least language-specific parameters upward (paper 3, Section 3.3).

Shape letters: N parameters, M those that may be pruned.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from mnmt_ds.models.transformer import Transformer


def pruning_order(specificity_N: Tensor, kept_N: Tensor) -> Tensor:
    """Orders the parameters that may be pruned, the least language-specific first; ties by position.

    Args:
        specificity_N: specificity of every parameter for a language.
        kept_N: bool, parameters that may not be pruned.

    Returns:
        int64 (M,), positions in the order in which they go.
    """
    free_N = (~kept_N).nonzero().squeeze(1)
    return free_N[specificity_N[free_N].sort(stable=True).indices]


def pruning_masks(order_M: Tensor, ratio: float, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Makes the masks that prune a share of a model.

    Args:
        order_M: from ``pruning_order``.
        ratio: share of ALL parameters that goes, 0 to 1.
        like: tensors in the parameters' shapes, by name.

    Returns:
        By parameter, 1 where it stays and 0 where it goes.
    """
    total = sum(value.numel() for value in like.values())
    stays_N = torch.ones(total)
    stays_N[order_M[: min(len(order_M), round(ratio * total))]] = 0
    sizes = [like[name].numel() for name in sorted(like)]
    return {name: part.view(like[name].shape) for name, part in zip(sorted(like), stays_N.split(sizes), strict=True)}


@contextmanager
def pruned_weights(model: Transformer, stays: Mapping[str, Tensor]) -> Iterator[None]:
    """Sets a model's pruned parameters to zero for as long as the block runs.

    Args:
        model: the model.
        stays: from ``pruning_masks``.

    Yields:
        Nothing.
    """
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
