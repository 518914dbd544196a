"""Training with embedding, output projection and loss split over ranks by words (tensor parallelism).

Groups are megatron-core's: neighbouring ranks share a vocabulary and the same data, the rest of the model is whole on
each of them; data-parallel ranks, over which ZeRO shards, are those with the same words.
"""

from typing import Any

import torch
from torch import distributed as dist
from torch.distributed import distributed_c10d as c10d

from mnmt_ds.distributed import (
    ModelParallelUnit,
    pipeline_parallel_size,
    seed_of,
    split_into_stages,
    vocab_parallel_size,
    world_size,
)
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.students import student
from mnmt_ds.errors import UserError
from mnmt_ds.methods.registry import all_sections, teacher_settings
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.models.vocab_parallel import VocabShard, shard_vocabulary, vocab_shard_of


def arrange(recipe: Recipe) -> None:
    """Tells all of the process how the recipe spreads the model over ranks."""
    count = recipe.tensor.vocabulary if recipe.tensor is not None else 1
    split_into_stages(recipe.pipeline.stages if recipe.pipeline is not None else 1, count)


def check(recipe: Recipe, config: ds_config.Json, ranks: int | None = None) -> None:
    """UserError where the recipe asks for what a split vocabulary does not do on so many ranks (None: the job's)."""
    if recipe.tensor is None or recipe.tensor.vocabulary == 1:
        return
    count, zero, sampler = recipe.tensor.vocabulary, config.get("zero_optimization", {}), recipe.sampler
    ranks = world_size() if ranks is None else ranks
    parts = recipe.pipeline.stages if recipe.pipeline is not None else 1
    staged = f" in {parts} stages" if parts > 1 else ""
    by_layers = any(one.on_device == "layers" for one in teacher_settings(recipe.method))
    refusals = {
        "teachers.on_device: layers is not done with it; set it to whole": by_layers,
        f"{ranks} rank(s) cannot share a vocabulary by {count}{staged}; start a multiple of {count * parts}": (
            ranks % (count * parts) != 0
        ),
        f"it goes with ZeRO 0 and 1, not {zero.get('stage')}; set 'deepspeed' to zero1.json": zero.get("stage", 0) > 1,
        "it goes without offload; leave offload_optimizer out": bool(zero.get("offload_optimizer")),
        "it is not done in fp16; set train.precision: bf16": recipe.train.precision == "fp16",
        f"sampler {sampler.name} measures the student, which has to be whole; take one that does not": (
            hasattr(sampler, "every")
        ),
        "mutual distillation (students, method pareto) is not done with it; leave 'tensor' out": (
            bool(recipe.students) or "pareto" in {one.name for one in all_sections(recipe.method)}
        ),
        f"the loss over shards is its own; leave train.loss_implementation at auto, not"
        f" {recipe.train.loss_implementation}": recipe.train.loss_implementation not in ("auto", "chunked"),
    }
    for method in all_sections(recipe.method):
        top_k = getattr(method, "top_k", 0)
        refusals[f"top_k: {top_k} needs all words on each rank; set top_k: 0"] = top_k > 0
    for text, wrong in refusals.items():
        if wrong:
            raise UserError(f"tensor.vocabulary: {text}")


def form_groups() -> dist.ProcessGroup | None:
    """Forms the job's groups, all ranks together; the one that shares this rank's vocabulary, None: it is whole."""
    if vocab_parallel_size() == 1:
        return None
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():  # of a run before this one
        parallel_state.destroy_model_parallel()
    minutes = c10d.default_pg_timeout.total_seconds() / 60
    parallel_state.initialize_model_parallel(
        vocab_parallel_size(),
        pipeline_parallel_size(),
        create_gloo_process_groups=False,
        distributed_timeout_minutes=minutes,
    )
    return parallel_state.get_tensor_model_parallel_group()


def own_words(vocabulary_size: int) -> VocabShard | None:
    """This rank's words, once the groups are formed; None: all. UserError where there are not enough for all ranks."""
    if vocab_parallel_size() == 1:
        return None
    from megatron.core import parallel_state

    words = vocab_shard_of(parallel_state.get_tensor_model_parallel_group(), vocabulary_size)
    if (vocab_parallel_size() - 1) * -(-vocabulary_size // vocab_parallel_size()) >= vocabulary_size:
        raise UserError(
            f"tensor.vocabulary: {vocabulary_size} words cannot be split over {vocab_parallel_size()}; take fewer"
        )
    return words


def initialise_engine(recipe: Recipe, config: ds_config.Json, vocabulary_size: int) -> Any:
    """The recipe's model with the plain model's first weights, this rank's words of them, on an engine."""
    from megatron.core import parallel_state

    groups = ModelParallelUnit(
        parallel_state.get_data_parallel_group(), parallel_state.get_tensor_model_parallel_group()
    )
    words = own_words(vocabulary_size)
    assert words is not None
    torch.manual_seed(seed_of(recipe.train.seed, "weights"))
    model = initialise(Transformer(recipe.model, vocabulary_size))
    shard_vocabulary(model, words)
    return student.initialise_engine(model, config, groups)
