"""Sensitivity of every parameter for a language (paper 3, Equations 1 to 3).

S(theta_i, b) = |L(Theta) - L(Theta without theta_i)|, to first order |theta_i * dL/dtheta_i|, averaged over batches.

Shape letters: N parameters.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.batch import Batch, to_device
from mnmt_ds.distributed import rank, world_size
from mnmt_ds.methods.method import LossAndMetrics
from mnmt_ds.models.transformer import Transformer

Sensitivity = dict[str, Tensor]
"""By parameter name, in the parameter's shape, float32."""
LossFunction = Callable[..., LossAndMetrics]


def sensitivity(
    model: Transformer,
    batches: Sequence[Batch],
    compute_loss: LossFunction,
    progress: Callable[[int], None] = lambda n: None,
) -> Sensitivity:
    """Measures every parameter's sensitivity: the mean over batches of |theta * dL/dtheta| (paper 3, Equation 3).

    L is the loss a token, without dropout. The batches are dealt out over the ranks. A tied matrix counts once.

    Args:
        model: the model; it is put into eval mode.
        batches: batches of one language (or pair).
        compute_loss: the loss of a batch.
        progress: called with the number of batches done.

    Returns:
        float32 by parameter name, in the parameter's shape, equal on all ranks.
    """
    model.eval()
    device = model.embedding.weight.device
    total = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in model.named_parameters()}
    for batch in batches[rank() :: world_size()]:
        model.zero_grad(set_to_none=True)
        moved = to_device(batch, device)
        states = model(moved.source_BS, moved.decoder_BT)
        if model.encoder_projection is not None:
            states = states._replace(encoder_projection_VD=model.encoder_projection.weight)
        loss = compute_loss(states, model.head.weight, moved).loss / max(1, batch.tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        for name, value in model.named_parameters():
            if value.grad is not None:
                total[name] += (value.detach() * value.grad).abs().float()
        progress(1)
    model.zero_grad(set_to_none=True)
    for name in total if world_size() > 1 else ():
        dist.all_reduce(total[name])
    return {name: value.div_(max(1, len(batches))).cpu() for name, value in total.items()}


def flatten(values: Sensitivity) -> Tensor:
    """Puts all parameters' values into one list, in order of their names.

    Args:
        values: by parameter name.

    Returns:
        (N,).
    """
    return torch.cat([values[name].reshape(-1) for name in sorted(values)])


def unflatten(list_N: Tensor, like: Sensitivity) -> Sensitivity:
    """Splits a flat list of values into parameters again, the inverse of ``flatten``.

    Args:
        list_N: all values.
        like: tensors in the parameters' shapes, by name.

    Returns:
        The values by parameter name, in the parameters' shapes.
    """
    sizes = [like[name].numel() for name in sorted(like)]
    return {name: part.view_as(like[name]) for name, part in zip(sorted(like), list_N.split(sizes), strict=True)}
