"""Builds the teachers' side of a student.

Shape letters: N elements of a shard.
"""

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.data.loader import collate
from mnmt_ds.distributed import RankGroup, device
from mnmt_ds.engine.checkpointing import snapshots
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.parallel.engine import Engine
from mnmt_ds.engine.parallel.first_weights import without_draws
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.kernels import deepspeed_ops
from mnmt_ds.kernels.build import BuildError
from mnmt_ds.models.layer_sequence import TIED
from mnmt_ds.models.lora import is_adapter
from mnmt_ds.models.settings import FreezeSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.vocab_parallel import shard_state
from mnmt_ds.models.weights import read_elements, read_plain_weights, read_weights
from mnmt_ds.teachers.async_reader import AsynchronousReader
from mnmt_ds.teachers.cache_blocks import CachePlan, Ints, plan_cache
from mnmt_ds.teachers.layer_streaming import FROZEN, FrozenShards, LayerStreamedTeachers
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.teachers.shard_layout import assemble_shard, extract_shard, own_ranges, shard_layout
from mnmt_ds.teachers.shard_storage import ShardStorage, Version
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
from mnmt_ds.teachers.state_cache import StateCache
from mnmt_ds.teachers.state_storage import StateStorage
from mnmt_ds.teachers.teacher_pool import TeacherPool
from mnmt_ds.teachers.teacher_server import TeacherServer

LOG = logging.getLogger(__name__)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""torch's types of ``train.precision``."""
Model = TypeVar("Model", bound=nn.Module)


def blank_model(recipe: Recipe, vocabulary_size: int, layers: int = 0) -> Transformer:
    """Makes a frozen model of the student's architecture on this rank's device; the caller fills its weights.

    Args:
        recipe: of the student.
        vocabulary_size: V.
        layers: so many in encoder and decoder; 0: the student's.

    Returns:
        In the precision of training.
    """
    depth = {"encoder_layers": layers, "decoder_layers": layers, "freeze": FreezeSettings()} if layers else {}
    return frozen(Transformer(recipe.model.model_copy(update=depth), vocabulary_size), recipe)


def frozen(model: Model, recipe: Recipe) -> Model:
    """Puts a new model, or a stage of one, on this rank's device as a teacher.

    Args:
        model: new.
        recipe: of the student; its precision is the teacher's.

    Returns:
        The same model.
    """
    return model.to(device(), DTYPES[recipe.train.precision]).eval().requires_grad_(False)


def projection_of(model: nn.Module) -> nn.Parameter:
    """Returns a model's output projection; of a pipeline stage that has none, its first weights.

    Args:
        model: a rank's layers.

    Returns:
        (V, D), or any weights.
    """
    weights = dict(model.named_parameters())
    projection = weights.get("head.weight", weights.get(f"{TIED}.weight"))
    return projection if projection is not None else next(model.parameters())


def build_teacher_pool(
    recipe: Recipe, settings: TeacherSettings, training_data: TrainingData, engine: Engine, log: Callable[[str], None],
    of_other_runs: bool = False,
) -> TeacherPool:  # fmt: skip
    """Makes room for frozen models of an engine's shape; called by all of its ranks together.

    A teacher that the student itself was holds what the student trains; the rest of it is the student's own.

    Args:
        recipe: of the student.
        settings: of the teachers.
        training_data: of the student.
        engine: of the student.
        log: hears on the main rank what of the teachers' states is cached.
        of_other_runs: teachers are other runs' plain models.

    Returns:
        Without teachers yet.
    """
    run, layout, model = recipe.directory, engine.layout, engine.model
    tokenizer_hash = training_data.corpus.tokenizer.hash
    ranks, dtype = layout.new_data_parallel_group(), getattr(torch, settings.dtype)
    names = {name for name, weight in model.named_parameters() if of_other_runs or weight.requires_grad}
    shape = model.settings.plain() if of_other_runs else model.settings
    names -= {name for name in names if of_other_runs and is_adapter(name)}
    shards = shard_layout(model, projection_of(model), ranks.size, names)
    vocab_shard = engine.vocab_shard

    def load(version: Version) -> Tensor:
        if isinstance(version, int):
            directory, is_plain = snapshots.directory_of(run, version), True
        else:
            directory = Path(version)
            is_plain = snapshots.check_expert(directory, model.settings, tokenizer_hash)
        if is_plain and vocab_shard is None:
            return assemble_shard(shards, read_elements(directory, own_ranges(shards, ranks)), dtype)
        state = read_weights(directory, sorted(names)) if is_plain else read_plain_weights(directory)
        if vocab_shard is not None:
            state = shard_state(vocab_shard, {name: state[name] for name in names}, model)
        return extract_shard(shards, state, ranks, dtype)

    directory = (settings.disk or run / "teachers") / f"rank{layout.ranks.rank}"
    budget = int(settings.weights_gib * 2**30)
    outgrow = shards.length * dtype.itemsize * len(recipe.data.pairs) > budget
    reader = asynchronous_reader() if outgrow and settings.read == "auto" else None
    storage = ShardStorage(dtype, budget, directory, load, reader=reader)

    plan = cache_plan(recipe, settings, training_data, ranks.size) if settings.on_device == "whole" else None
    teacher_shard = vocab_shard
    if plan is not None and vocab_shard is not None:  # its teachers run in the background
        teacher_shard = vocab_shard._replace(group=layout.new_vocab_parallel_group())
    is_streamed = settings.on_device == "layers"
    shared = {} if of_other_runs or is_streamed else engine.frozen_weights()

    def teacher_model() -> nn.Module:
        with without_draws():
            teacher = engine.blank_model(teacher_shard, shape)
        for name, value in shared.items():
            teacher.get_parameter(name).data = value
        return frozen(teacher, recipe)

    teachers = ShardedTeachers(storage, shards, ranks, teacher_model, layout.device)
    cache = None
    if plan is not None:
        state_storage = StateStorage(plan.memory_bytes, plan.disk_bytes, plan.bytes_per_row, settings.disk)
        forward = engine.teacher_forward(ranks)
        cache = StateCache(
            teachers, plan, state_storage, collator(training_data), settings.cache_dtype == "fp8", forward
        )  # fmt: skip
    layout.ranks.on_main_first(
        log, "teacher states: computed for each micro-batch" if plan is None else plan.describe()
    )  # fmt: skip
    server: TeacherServer
    if is_streamed:
        plain = recipe.model_copy(update={"model": shape})
        one_layer_model = partial(blank_model, plain, model.vocabulary_size, layers=1)
        others = None if of_other_runs else frozen_shards(engine, ranks, directory)
        server = LayerStreamedTeachers(teachers, one_layer_model, collator(training_data), others)
    else:
        server = engine.connect_teachers(teachers, cache)
    own_shard = partial(engine.own_shard, shards, ranks, dtype)
    return TeacherPool(recipe.data.pairs, teachers, server, own_shard, load)


def frozen_shards(engine: Engine, ranks: RankGroup, directory: Path) -> FrozenShards | None:
    """Cuts this rank's shard of the weights that the student does not train, which all teachers share.

    Args:
        engine: of the student.
        ranks: the ranks that hold the shards.
        directory: where teachers' files are written.

    Returns:
        The shard; None where the student trains all weights.
    """
    model = engine.model
    held = {name: weight.dtype for name, weight in model.named_parameters() if not weight.requires_grad}
    if not held:
        return None
    shards, dtype = shard_layout(model, projection_of(model), ranks.size, held), next(iter(held.values()))
    own_shard = partial(engine.own_shard, shards, ranks, dtype)
    storage = ShardStorage(dtype, sys.maxsize, directory, lambda version: own_shard())
    storage.put(FROZEN, own_shard())
    return FrozenShards(storage, shards)


def asynchronous_reader() -> AsynchronousReader | None:
    """Opens DeepSpeed's asynchronous I/O for teachers beyond the memory budget, and builds it if need be.

    Returns:
        The reader; None where it cannot be built here.
    """
    try:
        return AsynchronousReader(deepspeed_ops.load("AsyncIOBuilder"))
    except BuildError as error:
        LOG.warning(
            "teachers: no asynchronous I/O (%s); those beyond the budget will be read from mapped files", error
        )  # fmt: skip
        return None


def cache_plan(recipe: Recipe, settings: TeacherSettings, training_data: TrainingData, ranks: int) -> CachePlan | None:
    """Plans what of the teachers' states will be cached, from sizes alone.

    Args:
        recipe: of the student.
        settings: of the teachers.
        training_data: of the student.
        ranks: data-parallel ranks.

    Returns:
        None where nothing is cached.
    """
    every = recipe.validation.every
    epochs = every / training_data.plan(0).updates if every else 1.0
    passes = [epochs * count / size for count, size in zip(training_data.counts, training_data.sizes, strict=True)]
    return plan_cache(settings, training_data.lengths, passes, recipe.train.max_tokens, recipe.model.d_model, ranks)


def collator(training_data: TrainingData) -> Callable[[int, Ints], Batch]:
    """Returns a function that makes a batch of a pair's sentences, outside the order of training.

    Args:
        training_data: of the student.

    Returns:
        A function of the pair's index and its sentences' numbers.
    """

    def make(pair: int, sentence: Ints) -> Batch:
        return collate(training_data.splits[pair], sentence, training_data.frames[pair], pair, 1)

    return make
