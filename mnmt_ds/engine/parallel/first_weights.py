"""First weights of a rank's layers: drawn, or read from a pretrained model's files one tensor at a time.

A rank never holds more than its share of the model and one tensor: untouched memory is not counted by the system, each
layer is cast and filled on its own, and at ZeRO-3 partitioned before the next one is filled.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.models.layer_sequence import ModelChunk
from mnmt_ds.models.pretrained import WeightSource, fill_parameter
from mnmt_ds.models.transformer import Transformer, initialise_parameter
from mnmt_ds.models.vocab_parallel import VocabShard, is_vocab_sharded
from mnmt_ds.parallel_layout import ParallelLayout


@contextmanager
def without_draws() -> Iterator[None]:
    """Skips the initialisation of linear maps in the block, which leaves their memory untouched.

    Yields:
        Nothing; it holds within the block.
    """
    original_reset = nn.Linear.reset_parameters
    nn.Linear.reset_parameters = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Linear.reset_parameters = original_reset  # type: ignore[method-assign]


def read_first_weights(
    model: Transformer | ModelChunk, source: WeightSource, dtype: torch.dtype, vocab_shard: VocabShard | None = None,
    partition: Callable[[nn.Module], None] | None = None,
) -> None:  # fmt: skip
    """Fills layers from a pretrained model; what it lacks is drawn from torch's present random state.

    Args:
        model: the layers, without values.
        source: the pretrained model.
        dtype: type that the weights are to have.
        vocab_shard: this rank's words; None: all.
        partition: called with each module once its own weights are filled; None: they stay whole.
    """
    filled = set[nn.Parameter]()
    for module_name, module in list(model.named_modules()):
        own = dict(module.named_parameters(module_name, recurse=False))
        if not set(own.values()) - filled:
            continue
        module.to(dtype)
        for name, parameter in own.items():
            if name in source.parts:
                fill_parameter(parameter, source, name, vocab_shard)
            else:
                _draw_rows(name, parameter, model.settings.d_model, model.vocabulary_size, vocab_shard)
        filled.update(own.values())
        if partition is not None:
            partition(module)


def partition_at_zero_3(config: ds_config.Json, layout: ParallelLayout) -> Callable[[nn.Module], None]:
    """Makes the function that leaves a rank its part of a module's weights, as DeepSpeed does it for a whole model.

    Args:
        config: DeepSpeed's configuration, without "auto".
        layout: the ranks.

    Returns:
        It is given one module after another, on all ranks in the same order.
    """
    import deepspeed

    unit = layout.model_parallel_unit
    group = unit.get_data_parallel_group() if unit is not None else None

    def partition(module: nn.Module) -> None:
        deepspeed.zero.Init(module=module, data_parallel_group=group, config_dict_or_path=config)

    return partition


@torch.no_grad()
def _draw_rows(
    name: str, parameter: nn.Parameter, width: int, vocabulary_size: int, vocab_shard: VocabShard | None
) -> None:
    """Draws a weight as it is drawn whole, and keeps this rank's rows."""
    if vocab_shard is None or not is_vocab_sharded(parameter):
        initialise_parameter(name, parameter.data, width)
        return
    whole = torch.empty(vocabulary_size, *parameter.shape[1:])
    initialise_parameter(name, whole, width)
    parameter.copy_(whole[vocab_shard.start : vocab_shard.stop])
