"""From a recipe to the engine that it asks for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mnmt_ds.distributed import seed_of
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.parallel.engine import Engine
from mnmt_ds.engine.parallel.first_weights import partition_at_zero_3, read_first_weights, without_draws
from mnmt_ds.engine.parallel.pipeline_engine import PipelineEngine, make_pipeline_engine
from mnmt_ds.engine.parallel.weight_average import WeightAverage
from mnmt_ds.engine.parallel.zero_engine import ZeroEngine, make_zero_engine
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import UserError
from mnmt_ds.models.compiled import compile_layers
from mnmt_ds.models.frozen import freeze
from mnmt_ds.models.layers import DecoderLayer, EncoderLayer
from mnmt_ds.models.pretrained import WeightSource
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.models.vocab_parallel import VocabShard, shard_vocabulary, vocab_shard_of
from mnmt_ds.parallel_layout import ParallelLayout


def build_engine(
    recipe: Recipe, config: ds_config.Json, vocabulary_size: int, costs: Sequence[float], layout: ParallelLayout,
    source: WeightSource | None = None,
) -> Engine:  # fmt: skip
    """Builds a student's model, sets its first weights, and puts it on an engine, with its average where one is kept.

    Args:
        recipe: of the student.
        config: DeepSpeed's configuration, without "auto".
        vocabulary_size: V.
        costs: of each layer, by which pipeline stages are cut; empty without a pipeline.
        layout: the ranks.
        source: a pretrained model whose weights come first; None: they are drawn.

    Returns:
        The engine.

    Raises:
        UserError: where there are not enough words for all ranks of a split vocabulary.
    """
    engine = _make_engine(recipe, config, vocabulary_size, costs, layout, source)
    if decay := recipe.train.ema_decay:
        engine.average = WeightAverage(engine.deepspeed_engine, engine.model, layout, decay, recipe.train.ema_start)
    return engine


def _make_engine(
    recipe: Recipe, config: ds_config.Json, vocabulary_size: int, costs: Sequence[float], layout: ParallelLayout,
    source: WeightSource | None,
) -> PipelineEngine | ZeroEngine:  # fmt: skip
    vocab_shard = own_vocab_shard(vocabulary_size, layout)
    if recipe.pipeline is not None:
        engine = make_pipeline_engine(
            recipe.model, vocabulary_size, costs, config, recipe.train.seed, layout, vocab_shard, source
        )  # fmt: skip
        if recipe.train.torch_compile:
            compile_layers(engine.module)
        return engine
    torch.manual_seed(seed_of(recipe.train.seed, "weights"))
    if source is not None:
        with without_draws():
            model = Transformer(recipe.model, vocabulary_size)
    else:
        model = initialise(Transformer(recipe.model, vocabulary_size))
    freeze(model, recipe.model)
    if vocab_shard is not None:
        shard_vocabulary(model, vocab_shard)
    if source is not None:
        partition = partition_at_zero_3(config, layout) if ds_config.zero_stage(config) == 3 else None
        read_first_weights(model, source, ds_config.dtype(config), vocab_shard, partition)
    if recipe.train.torch_compile:
        if ds_config.zero_stage(config) == 3:
            gather_layers_whole(model)
        compile_layers(model)
    return make_zero_engine(model, config, layout, vocab_shard)


def gather_layers_whole(model: Transformer) -> None:
    """Makes ZeRO-3 gather a layer's weights together, before its forward: hooks within it cannot be compiled.

    DeepSpeed takes such a layer's weights away before its backward pass where none of its inputs wants a gradient, so
    states of frozen embeddings want one, which nobody uses.

    Args:
        model: before DeepSpeed has it.
    """
    from deepspeed.utils import set_z3_leaf_modules

    set_z3_leaf_modules(model, [EncoderLayer, DecoderLayer])
    for embedding in {model.embedding, model.source_embedding}:
        embedding.register_forward_hook(_want_gradient)


def _want_gradient(module: nn.Module, inputs: Any, states: Tensor) -> Tensor:
    return states if states.requires_grad or not torch.is_grad_enabled() else states.requires_grad_()


def own_vocab_shard(vocabulary_size: int, layout: ParallelLayout) -> VocabShard | None:
    """Computes which words of the vocabulary this rank holds.

    Args:
        vocabulary_size: V.
        layout: the ranks, with their groups.

    Returns:
        The words; None: all.

    Raises:
        UserError: where there are not enough words for all ranks.
    """
    if layout.vocab_group is None:
        return None
    count = layout.vocab_parallel_size
    if (count - 1) * -(-vocabulary_size // count) >= vocabulary_size:
        raise UserError(f"tensor.vocabulary: {vocabulary_size} words cannot be split over {count}; take fewer")
    return vocab_shard_of(layout.vocab_group, vocabulary_size)
