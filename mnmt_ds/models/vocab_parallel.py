"""A vocabulary split over ranks by words, as torch.chunk would split it: embeddings and output projections in parts.

The sums over ranks are those of Megatron-LM's VocabParallelEmbedding (Shoeybi et al. 2019): each rank looks up its own
words, and the vectors are added; a gradient comes back to each rank whole.

Letters: B sentences, T positions, D width, V this rank's words of the vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist

from mnmt_ds.kernels.vocab_shard import VocabShard

__all__ = [
    "VocabParallelModule",
    "VocabShard",
    "gather_vocabulary",
    "is_vocab_sharded",
    "shard_state",
    "shard_vocabulary",
    "vocab_parallel_embedding",
    "vocab_shard_of",
]


class VocabParallelModule(nn.Module):
    """Base of the modules whose weight has one row a word, so that ``shard_vocabulary`` can split it over ranks."""

    weight: nn.Parameter
    """(V, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.vocab_shard: VocabShard | None = None
        """Which words the weight's rows are; None: all."""


def vocab_shard_of(group: dist.ProcessGroup, vocabulary_size: int, rank: int | None = None) -> VocabShard:
    """Computes a rank's part of a vocabulary: ceil(V / ranks) words, of the last rank what is left.

    Args:
        group: the ranks that share the vocabulary.
        vocabulary_size: words of all ranks together.
        rank: number of a rank in the group; None: this process.

    Returns:
        The rank's shard.
    """
    index = dist.get_rank(group) if rank is None else rank
    size = -(-vocabulary_size // dist.get_world_size(group))
    return VocabShard(group, min(index * size, vocabulary_size), min((index + 1) * size, vocabulary_size))


def is_vocab_sharded(parameter: Tensor) -> bool:
    """Returns whether a parameter is one rank's part of a matrix over the vocabulary.

    DeepSpeed goes by the same mark (``tensor_model_parallel``): in the gradient's norm such parts are added, and what
    all ranks have is counted once.

    Args:
        parameter: a parameter of a model.

    Returns:
        Whether ``shard_vocabulary`` made it.
    """
    return getattr(parameter, "tensor_model_parallel", False)


def shard_vocabulary(model: nn.Module, vocab_shard: VocabShard) -> None:
    """Cuts every embedding and output projection of a model to this rank's rows; tied ones stay tied.

    Args:
        model: a whole model; its parameters over the vocabulary are replaced.
        vocab_shard: the words to leave.
    """
    shards: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        if not isinstance(module, VocabParallelModule):
            continue
        full_weight = module.weight
        if full_weight not in shards:
            rows = full_weight.detach()[vocab_shard.start : vocab_shard.stop].clone()
            shards[full_weight] = nn.Parameter(rows, requires_grad=full_weight.requires_grad)
            shards[full_weight].tensor_model_parallel = True  # type: ignore[attr-defined]
        module.weight, module.vocab_shard = shards[full_weight], vocab_shard


def shard_state(vocab_shard: VocabShard, state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Cuts a whole model's state to one rank's part of it.

    Args:
        vocab_shard: the rank's words.
        state: weights of a whole model by name.
        model: a split model; its parameters say which weights are split.

    Returns:
        The state, shaped as the split model's.
    """
    split = {name for name, parameter in model.named_parameters() if is_vocab_sharded(parameter)}
    return {
        name: value[vocab_shard.start : vocab_shard.stop] if name in split else value for name, value in state.items()
    }


def vocab_parallel_embedding(token_BT: Tensor, weight_VD: Tensor, vocab_shard: VocabShard) -> Tensor:
    """Looks up tokens whose rows lie on several ranks.

    Args:
        token_BT: int64, the same on all ranks of the shard's group.
        weight_VD: this rank's rows.
        vocab_shard: which words they are.

    Returns:
        Vectors (B, T, D), equal on all ranks.
    """
    is_local_BT = (token_BT >= vocab_shard.start) & (token_BT < vocab_shard.stop)
    local_BTD = F.embedding((token_BT - vocab_shard.start).where(is_local_BT, 0), weight_VD)
    return _AllReduceSum.apply(local_BTD * is_local_BT.unsqueeze(-1), vocab_shard.group)  # type: ignore[no-any-return, no-untyped-call]


def gather_vocabulary(shard_VX: Tensor, vocab_shard: VocabShard, vocabulary_size: int) -> Tensor:
    """Collects all ranks' rows of a matrix over the vocabulary.

    Args:
        shard_VX: this rank's rows; X any further axes.
        vocab_shard: which words they are, split as by ``vocab_shard_of``.
        vocabulary_size: words of all ranks together.

    Returns:
        All rows in order, (vocabulary_size, X), on every rank of the shard's group.
    """
    rows = []
    for rank in range(dist.get_world_size(vocab_shard.group)):
        source = vocab_shard_of(vocab_shard.group, vocabulary_size, rank)
        is_local = rank == dist.get_rank(vocab_shard.group)
        rows.append(
            shard_VX.detach().clone()
            if is_local
            else shard_VX.new_empty(source.stop - source.start, *shard_VX.shape[1:])
        )
        dist.broadcast(rows[-1], dist.get_global_rank(vocab_shard.group, rank), group=vocab_shard.group)
    return torch.cat(rows)


class _AllReduceSum(torch.autograd.Function):
    """Adds up over ranks; the gradient, the same on all, goes back as it is."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        dist.all_reduce(values, group=group)
        ctx.mark_dirty(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
