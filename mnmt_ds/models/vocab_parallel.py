"""A vocabulary split over ranks by words, as torch.chunk would split it: embeddings and output projections in parts.

The sums over ranks are those of Megatron-LM's VocabParallelEmbedding (Shoeybi et al. 2019): each rank looks up its own
words, and the vectors are added; a gradient comes back to each rank whole.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist


class VocabShard(NamedTuple):
    """This rank's part of a vocabulary: words ``first`` to before ``last``."""

    group: dist.ProcessGroup
    """The ranks that share the vocabulary."""
    first: int
    last: int


def vocab_shard_of(group: dist.ProcessGroup, vocabulary_size: int, rank: int | None = None) -> VocabShard:
    """The part of a rank of the group (this one): ceil(V / ranks) words, of the last rank what is left."""
    number = dist.get_rank(group) if rank is None else rank
    each = -(-vocabulary_size // dist.get_world_size(group))
    return VocabShard(group, min(number * each, vocabulary_size), min((number + 1) * each, vocabulary_size))


def is_vocab_sharded(parameter: Tensor) -> bool:
    """Whether a parameter is one rank's part of a matrix over the vocabulary. DeepSpeed goes by the same mark: in the
    gradient's norm such parts are added, and what all ranks have is counted once."""
    return getattr(parameter, "tensor_model_parallel", False)


def shard_vocabulary(model: nn.Module, words: VocabShard) -> None:
    """Leaves a model its own words' rows of every embedding and output projection."""
    tied: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        if hasattr(module, "words"):  # Embedding, Head and Projection
            whole: Any = module.weight
            if whole not in tied:
                rows = whole.detach()[words.first : words.last].clone()
                tied[whole] = nn.Parameter(rows, requires_grad=whole.requires_grad)
                tied[whole].tensor_model_parallel = True  # type: ignore[attr-defined]
            module.weight, module.words = tied[whole], words  # type: ignore[assignment]


def shard_state(words: VocabShard, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A whole model's state as this rank's part of it, shaped as a split model."""
    parts = {name for name, parameter in model.named_parameters() if is_vocab_sharded(parameter)}
    return {name: value[words.first : words.last] if name in parts else value for name, value in state.items()}


def vocab_parallel_embedding(token_BT: Tensor, weight_VD: Tensor, words: VocabShard) -> Tensor:
    """The vectors (B, T, D) of tokens whose rows lie on several ranks; equal on all of them."""
    here_BT = (token_BT >= words.first) & (token_BT < words.last)
    mine_BTD = F.embedding((token_BT - words.first).where(here_BT, 0), weight_VD)
    return _Sum.apply(mine_BTD * here_BT.unsqueeze(-1), words.group)  # type: ignore[no-any-return, no-untyped-call]


def gather_vocabulary(part: Tensor, words: VocabShard, vocabulary_size: int) -> Tensor:
    """All ranks' rows of a matrix, in order, on every rank."""
    rows = []
    for rank in range(dist.get_world_size(words.group)):
        own = vocab_shard_of(words.group, vocabulary_size, rank)
        mine = rank == dist.get_rank(words.group)
        rows.append(part.detach().clone() if mine else part.new_empty(own.last - own.first, *part.shape[1:]))
        dist.broadcast(rows[-1], dist.get_global_rank(words.group, rank), group=words.group)
    return torch.cat(rows)


class _Sum(torch.autograd.Function):
    """Adds up over ranks; the gradient, the same on all, goes back as it is."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, group: dist.ProcessGroup) -> Tensor:
        dist.all_reduce(mine, group=group)
        ctx.mark_dirty(mine)
        return mine

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
