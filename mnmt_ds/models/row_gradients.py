"""The gradient of an embedding that is tied to an output projection: the lookup's part in the rows that it concerns.

The projection's part is a whole matrix; the lookups' rows are added to it before it is accumulated. Otherwise each
lookup makes a whole matrix of its own, nearly all 0. Letters: B sentences, T positions, N = B T, U distinct tokens,
D width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnmt_ds.private_apis import backward_pass


class RowGradients:
    """Collects the gradients of one tied weight's lookups as rows, and adds them to the projection's gradient.

    Args:
        weight: (V, D), a leaf.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        self.projected: int | None = None
        """The backward pass in which the projection has a gradient."""
        self.rows: list[tuple[Tensor, Tensor]] = []
        """Lookups in that pass: tokens (U,) and their rows' gradients (U, D) in float32."""
        weight.register_hook(self.add_rows)

    def __deepcopy__(self, memo: Any) -> None:
        """Nothing: a copied weight has no hook, so its lookups have gradients of their own."""

    def projection(self, weight_VD: Tensor) -> Tensor:
        """Returns the weight for the output projection, and notes the backward pass in which that has a gradient.

        Args:
            weight_VD: the weight, (V, D).

        Returns:
            The same numbers, (V, D); a loss may add its gradient to what ``accumulates_in`` has accumulated.
        """
        if not torch.is_grad_enabled():
            return weight_VD
        projection_VD: Any = _Projection.apply(weight_VD, self)  # type: ignore[no-untyped-call]
        projection_VD.accumulates_in = weight_VD
        return projection_VD  # type: ignore[no-any-return]

    def lookup(self, token_BT: Tensor, weight_VD: Tensor) -> Tensor:
        """Looks up the rows of tokens; their gradients are kept as rows.

        Args:
            token_BT: int64.
            weight_VD: the weight.

        Returns:
            (B, T, D).
        """
        if not torch.is_grad_enabled():
            return F.embedding(token_BT, weight_VD)
        return _Lookup.apply(token_BT, weight_VD, self)  # type: ignore[no-untyped-call, no-any-return]

    def add_rows(self, gradient_VD: Tensor) -> None:
        """Adds the pass's rows to the weight's gradient, in place.

        Args:
            gradient_VD: of the projection.
        """
        if self.projected == backward_pass():
            for token_U, sum_UD in self.rows:
                gradient_VD.index_copy_(0, token_U, (gradient_VD[token_U] + sum_UD).to(gradient_VD.dtype))
        self.projected, self.rows = None, []


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_VD: Tensor, of_weight: RowGradients) -> Tensor:
        ctx.of_weight = of_weight
        return weight_VD.view_as(weight_VD)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_VD: Tensor) -> tuple[Tensor, None]:
        """Marks the pass; what an interrupted one has left is forgotten."""
        if ctx.of_weight.projected != backward_pass():
            ctx.of_weight.projected, ctx.of_weight.rows = backward_pass(), []
        return gradient_VD, None


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token_BT: Tensor, weight_VD: Tensor, of_weight: RowGradients) -> Tensor:
        ctx.save_for_backward(token_BT)
        ctx.shape, ctx.of_weight = weight_VD.shape, of_weight
        return F.embedding(token_BT, weight_VD)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dx_BTD: Tensor) -> tuple[None, Tensor | None, None]:
        """Leaves rows where the projection's gradient is on its way; else a whole matrix."""
        [token_BT] = ctx.saved_tensors
        token_U, place_N = token_BT.reshape(-1).unique(return_inverse=True)
        dtype = torch.promote_types(dx_BTD.dtype, torch.float32)
        sum_UD = torch.zeros(len(token_U), dx_BTD.shape[-1], dtype=dtype)
        sum_UD.index_add_(0, place_N, dx_BTD.flatten(0, -2).to(dtype))
        if ctx.of_weight.projected == backward_pass():
            ctx.of_weight.rows.append((token_U, sum_UD))
            return None, None, None
        return None, dx_BTD.new_zeros(ctx.shape).index_copy_(0, token_U, sum_UD.to(dx_BTD.dtype)), None
