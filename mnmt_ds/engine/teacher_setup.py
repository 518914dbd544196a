"""Builds the teachers' side of a student, and tells its method one micro-batch ahead what is to come."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mnmt_ds.batch import Batch, Slot
from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.data.loader import collate
from mnmt_ds.distributed import (
    data_parallel_size,
    device,
    new_data_parallel_group,
    new_vocab_parallel_group,
    new_world_group,
    on_main_first,
    pipeline_parallel_size,
    rank,
)
from mnmt_ds.engine.checkpointing import snapshots
from mnmt_ds.engine.dataloading.data_iterator import DataIterator
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.students import student
from mnmt_ds.kernels import deepspeed_ops
from mnmt_ds.kernels.build import BuildError
from mnmt_ds.methods.method import Method
from mnmt_ds.models.layer_sequence import TIED
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.vocab_parallel import VocabShard, shard_state, shard_vocabulary
from mnmt_ds.teachers.async_reader import AsynchronousReader
from mnmt_ds.teachers.cache_blocks import CachePlan, Ints, plan_cache
from mnmt_ds.teachers.layer_streaming import LayerStreamedTeachers
from mnmt_ds.teachers.pipeline_teachers import CachedPipelineTeachers, PipelineTeachers
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.teachers.shard_layout import extract_shard, shard_layout
from mnmt_ds.teachers.shard_storage import ShardStorage, Version
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
from mnmt_ds.teachers.state_cache import StateCache
from mnmt_ds.teachers.state_storage import StateStorage
from mnmt_ds.teachers.teacher_forward import LocalForward, PipelineForward
from mnmt_ds.teachers.teacher_pool import TeacherPool

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Model = TypeVar("Model", bound=nn.Module)


def blank_model(recipe: Recipe, vocabulary_size: int, layers: int = 0, words: VocabShard | None = None) -> Transformer:
    """A frozen model of the student's architecture on this rank's device, its weights to be filled.

    ``layers``: so many in encoder and decoder; 0: the student's. ``words``: this rank's; None: all.
    """
    depth = {"encoder_layers": layers, "decoder_layers": layers} if layers else {}
    model = Transformer(recipe.model.model_copy(update=depth), vocabulary_size)
    if words is not None:
        shard_vocabulary(model, words)
    return frozen(model, recipe)


def frozen(model: Model, recipe: Recipe) -> Model:
    """A new model, or a stage of one, for a teacher."""
    return model.to(device(), DTYPES[recipe.train.precision]).eval().requires_grad_(False)


def projection_of(model: Any) -> nn.Parameter:
    """The output projection; of a pipeline stage that has none, its first weights."""
    found = dict(model.named_parameters()).get(f"{TIED}.weight")
    return found if found is not None else next(model.parameters())


def build_teacher_pool(
    recipe: Recipe, settings: TeacherSettings, run: Path, stream: TrainingData, engine: Any, say: Callable[[str], None]
) -> TeacherPool:
    """Room for frozen models of an engine's shape; called by all ranks together."""
    tokenizer_hash = stream.corpus.tokenizer.hash
    ranks, dtype = new_data_parallel_group(), getattr(torch, settings.dtype)
    model = engine.module.model
    layout = shard_layout(model, projection_of(model), ranks.count)
    names, words = [piece.name for piece in layout.pieces], student.vocab_shard_of_engine(engine)

    def load(version: Version) -> Tensor:
        if isinstance(version, int):
            state = snapshots.read(run, version, names)
        else:
            state = snapshots.read_expert(Path(version), model.settings, tokenizer_hash, names)
        return extract_shard(layout, state if words is None else shard_state(words, state, model), ranks, dtype)

    def warn(text: str) -> None:
        print(f"rank {ranks.rank}: {text}", file=sys.stderr, flush=True)

    own = (settings.disk or run / "teachers") / f"rank{rank()}"
    budget = int(settings.weights_gib * 2**30)
    outgrow = layout.length * dtype.itemsize * len(recipe.data.pairs) > budget
    reader = asynchronous_reader(warn) if outgrow and settings.read == "auto" else None
    storage = ShardStorage(dtype, budget, own, load, warn, reader)
    own_shard = partial(student.own_shard, engine, layout, ranks, dtype)
    piped = student.is_pipeline_engine(engine)

    plan = cache_plan(recipe, settings, stream, ranks.count) if settings.on_device == "whole" else None
    if plan is not None and words is not None:
        words = words._replace(group=new_vocab_parallel_group())  # its teachers run in the background

    def blank() -> nn.Module:
        if piped:
            return frozen(engine.module.segment(words), recipe)
        return blank_model(recipe, model.vocabulary_size, words=words)

    teachers = ShardedTeachers(storage, layout, ranks, blank, device())
    cache = None
    if plan is not None:
        state_storage = StateStorage(plan.memory, plan.disk, plan.bytes_a_row, settings.disk, warn)
        everyone = new_world_group() if piped or words is not None else ranks
        way = PipelineForward(everyone, pipeline_parallel_size()) if piped else LocalForward(everyone)
        cache = StateCache(teachers, plan, state_storage, collator(stream), settings.cache_dtype == "fp8", way)
    on_main_first(say, "teacher states: computed for each micro-batch" if plan is None else plan.describe())
    holder: ShardedTeachers | PipelineTeachers = teachers
    by_sentence: LayerStreamedTeachers | CachedPipelineTeachers | None = None
    if piped and cache is None:
        holder = PipelineTeachers(teachers)
        engine.module.pipeline_teachers.append(holder)
    elif piped and cache is not None:
        by_sentence = CachedPipelineTeachers(cache)
        engine.module.pipeline_teachers.append(by_sentence)
    elif settings.on_device == "layers":
        by_sentence = LayerStreamedTeachers(
            teachers, lambda: blank_model(recipe, model.vocabulary_size, layers=1), collator(stream)
        )
    return TeacherPool(recipe.data.pairs, holder, cache, own_shard, load, by_sentence)


def asynchronous_reader(warn: Callable[[str], None]) -> AsynchronousReader | None:
    """DeepSpeed's asynchronous I/O for teachers beyond the budget, built now if need be; None where it cannot be."""
    try:
        return AsynchronousReader(deepspeed_ops.load("AsyncIOBuilder"))
    except BuildError as error:
        warn(f"teachers: no asynchronous I/O ({error}); those beyond the budget will be read from mapped files")
        return None


def cache_plan(recipe: Recipe, settings: TeacherSettings, stream: TrainingData, ranks: int) -> CachePlan | None:
    """What of the teachers' states will be remembered, from sizes alone."""
    every = recipe.validation.every
    epochs = every / stream.plan(0).updates if every else 1.0
    passes = [epochs * count / size for count, size in zip(stream.counts, stream.sizes, strict=True)]
    return plan_cache(settings, stream.lengths, passes, recipe.train.max_tokens, recipe.model.d_model, ranks)


def collator(stream: TrainingData) -> Callable[[int, Ints], Batch]:
    """Sentences of a pair as a batch, outside the order of training."""

    def make(pair: int, sentence: Ints) -> Batch:
        return collate(stream.splits[pair], sentence, stream.frames[pair], pair, 1)

    return make


class TeacherPrefetcher:
    """Announces an epoch's micro-batches to a method, one before it is needed; none beyond a validation or a change of
    the sampling distribution."""

    def __init__(self, method: Method, walk: DataIterator, validation: Callable[[], int]) -> None:
        """``validation``: the updates that will be done in the whole run when the next of these comes."""
        self._method, self._walk, self._validation = method, walk, validation
        self._plan: EpochPlan | None = None
        self._next = 0

    def before(self, step: int) -> None:
        """To be called on all ranks before each micro-batch, ``step`` of the walk's coming update."""
        plan, position = self._walk.plan, self._walk.position
        steps = plan.batches_per_update // data_parallel_size()
        if plan is not self._plan:
            self._plan, self._next = plan, position.inside * steps
        last = min(plan.updates, position.inside + self._validation() - position.update) * steps - 1
        while self._next <= min(position.inside * steps + step + 1, last):
            self._method.prefetch(slots(plan, self._next, steps))
            self._next += 1


def slots_of(plan: EpochPlan, update: int, steps: int) -> list[Sequence[Slot | None]]:
    """What each rank holds in every micro-step of one of an epoch's updates."""
    return [slots(plan, update * steps + step, steps) for step in range(steps)]


def slots(plan: EpochPlan, number: int, steps: int) -> Sequence[Slot | None]:
    """What each rank holds in an epoch's micro-step; None for a rank that has nothing left."""
    update, step = divmod(number, steps)
    first = update * plan.batches_per_update + step * data_parallel_size()
    return [
        Slot(int(plan.pair[k]), plan.sentence[plan.start[k] : plan.start[k + 1]]) if k < len(plan.pair) else None
        for k in range(first, first + data_parallel_size())
    ]
