"""A student: a model on a DeepSpeed engine, with its method, its data stream and its best checkpoints."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnmt_ds.batch import Batch, to_device
from mnmt_ds.distributed import RankGroup, data_parallel_size, device, from_main, model_parallel_unit, seed_of
from mnmt_ds.engine.checkpointing.best_checkpoints import BestCheckpoints
from mnmt_ds.engine.dataloading.data_iterator import DataIterator
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.methods.method import Method
from mnmt_ds.models import vocab_parallel
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.vocab_parallel import VocabShard, is_vocab_sharded
from mnmt_ds.teachers.shard_layout import ShardLayout, assemble_shard, extract_shard
from mnmt_ds.tracking import Tracker

Scorer = Callable[[Any, Tensor, Batch], Any]


class StudentModule(nn.Module):
    """The module that DeepSpeed wraps: from a batch to its score, the loss taken where the projection is whole."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, score: Scorer) -> Any:
        states = self.model(batch.source_BS, batch.decoder_BT, batch.passes if batch.shared_memory else 1)

        def scored(hidden_BTD: Tensor, projection_VD: Tensor, encoder_VD: Tensor | None = None) -> Any:
            whole = states._replace(decoder_BTD=hidden_BTD, encoder_projection_VD=encoder_VD)
            return tuple(score(whole, projection_VD, batch))

        own = self.model.encoder_projection
        if own is None:
            return self.model.head(states.decoder_BTD, scored)
        return own(lambda encoder_VD: self.model.head(states.decoder_BTD, lambda h, p: scored(h, p, encoder_VD)))


@dataclass
class Student:
    """One model in training. ``engine`` is a deepspeed engine around ``StudentModule``."""

    name: str
    engine: Any
    method: Method
    best: BestCheckpoints
    recipe: Recipe
    """As this student follows it: with its own sampler, seed and directory."""
    walk: DataIterator
    tracker: Tracker
    bring: Callable[["Student", Sequence[Batch], int | str], None] = lambda one, group, number: None
    """Fetches what other students say of an update's micro-batches, and along a pipeline its own quiet passes, before
    it."""
    last: int | None = None
    """The update whose weights are kept as ``last``."""

    @property
    def directory(self) -> Path:
        """Where its weights and records are: the run's own where it is alone."""
        return self.recipe.directory

    @property
    def model(self) -> Transformer:
        return self.engine.module.model


def initialise_engine(model: Transformer, config: ds_config.Json, grid: Any = None) -> Any:
    """The model under deepspeed.initialize, on this rank's device. ``grid``: DeepSpeed's mpu, where the model is
    split over ranks."""
    import deepspeed

    scored = StudentModule(model)
    scored.universal_checkpoint_info = {}  # type: ignore[assignment]  # lets DeepSpeed's checkpoints be read by another layout
    grid = grid or model_parallel_unit()
    if model_parallel_unit() is not None:  # each student saves under a tag of its own
        _compare_within_teams()
        config = {**config, "checkpoint": {**config.get("checkpoint", {}), "tag_validation": "Ignore"}}
    parameters = list(model.parameters())
    engine, *_ = deepspeed.initialize(model=scored, model_parameters=parameters, config=config, mpu=grid)
    return engine


def _compare_within_teams() -> None:
    """DeepSpeed's ZeRO-3 compares orders of modules over all ranks of the job, also where an engine has some alone."""
    from deepspeed.runtime.zero import partition_parameters, partitioned_param_coordinator

    def same(ints: list[int]) -> None:
        if from_main(ints) != ints:
            raise RuntimeError("ZeRO-3: the ranks of a student run its modules in different orders")

    for module in (partition_parameters, partitioned_param_coordinator):
        module.assert_ints_same_as_other_ranks = same


def backward(student: Student, batch: Batch, update: int | str, slot: int) -> dict[str, Tensor]:
    """Forward and backward of one micro-batch; returns its metric sums.

    Dropout is seeded by (seed, update, slot): the same masks on any number of ranks, and nothing to save for a resume.
    """
    moved = to_device(batch, device())._replace(update=update_number(update), place=slot // data_parallel_size())
    torch.manual_seed(seed_of(student.recipe.train.seed, "teach", update, slot))  # for teachers with dropout
    batch = student.method.teach(student.method.prepare(moved))
    torch.manual_seed(seed_of(student.recipe.train.seed, "dropout", update, slot))
    loss, metrics = student.engine(batch, student.method.score)
    # DeepSpeed averages gradients over ranks; with this factor the update's loss is sum over tokens / token count.
    student.engine.backward(loss * (data_parallel_size() / batch.divisor), scale_wrt_gas=False)
    return metrics


def update_number(update: int | str) -> int:
    """The number of an update; of one within trials ("12+3": their fourth) that of the last before them."""
    return update if isinstance(update, int) else int(update.partition("+")[0])


def step(student: Student, rate: float) -> float | None:
    """The optimizer's step at a learning rate; returns the gradient's norm where DeepSpeed computes it."""
    for group in student.engine.optimizer.param_groups:
        group["lr"] = rate
    student.engine.step()
    norm = student.engine.get_global_grad_norm()
    return None if norm is None else float(norm)


@contextmanager
def eval_mode(engine: Any) -> Iterator[None]:
    """No dropout, no gradient."""
    engine.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        engine.train()


def eval_states(engine: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Decoder states (B, T, D) and projection (V, D) of a pass without dropout or gradient."""
    with eval_mode(engine):
        return train_states(engine, batch)


def train_states(engine: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same with dropout, where the engine trains."""
    stage = engine.zero_optimization_stage()

    def hand_out(states: Any, projection_VD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return states.decoder_BTD, projection_VD.clone() if stage == 3 else projection_VD.detach()

    with torch.no_grad():
        hidden_BTD, projection_VD = engine(batch, hand_out)
    return hidden_BTD, projection_VD


def own_shard(engine: Any, layout: ShardLayout, ranks: RankGroup, dtype: torch.dtype) -> Tensor:
    """This rank's shard of the student's present weights on the CPU; at ZeRO-3 a copy of its own partition."""
    named = dict(engine.module.model.named_parameters())
    if engine.zero_optimization_stage() < 3:
        return extract_shard(layout, named, ranks, dtype)
    for piece in layout.pieces:
        held = named[piece.name].ds_tensor
        if held.ds_numel != piece.length:
            raise RuntimeError(f"{piece.name}: ZeRO-3 holds {held.ds_numel} elements a rank, {piece.length} expected")
    return assemble_shard(layout, {piece.name: named[piece.name].ds_tensor for piece in layout.pieces}, dtype)


def is_pipeline_engine(engine: Any) -> bool:
    """Whether the engine trains along pipeline stages."""
    return hasattr(engine, "train_batch")


def vocab_shard_of_engine(engine: Any) -> VocabShard | None:
    """Which words an engine's vocabulary matrices hold on this rank; None: all."""
    return getattr(getattr(engine.module.model, "embedding", None), "words", None)


def gather_weights(engine: Any, dtype: torch.dtype | None = None, everywhere: bool = True) -> dict[str, Tensor]:
    """The student's whole weights, copied to the CPU; what is in parts is gathered, on all ranks, one by one.

    ``everywhere``: a pipeline's stages are brought together on all ranks, not on the main one alone.
    """
    import deepspeed

    if is_pipeline_engine(engine):
        from mnmt_ds.engine.parallel import pipeline_module

        return pipeline_module.weights(engine.module, everywhere)
    partitioned, words = engine.zero_optimization_stage() == 3, vocab_shard_of_engine(engine)
    whole = {}
    for name, parameter in engine.module.model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=partitioned):
            value = parameter.detach()
            if words is not None and is_vocab_sharded(parameter):
                value = vocab_parallel.gather_vocabulary(value, words, engine.module.model.vocabulary_size)
            whole[name] = value.to("cpu", dtype or parameter.dtype, copy=True)
    return whole
