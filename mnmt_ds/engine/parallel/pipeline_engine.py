"""Training along a pipeline of stages: DeepSpeed's PipelineEngine in the place of forward, backward and step."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from mnmt_ds.batch import Batch, Slot, to_device
from mnmt_ds.distributed import (
    data_parallel_rank,
    data_parallel_size,
    device,
    seed_of,
    vocab_parallel_rank,
    vocab_parallel_size,
    world_size,
)
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.engine.students.student import Scorer, Student, update_number
from mnmt_ds.errors import UserError
from mnmt_ds.methods.registry import teacher_settings
from mnmt_ds.models.layer_sequence import LayerSegment, layer_entries
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise_parameter
from mnmt_ds.models.vocab_parallel import VocabShard, is_vocab_sharded

if TYPE_CHECKING:
    from mnmt_ds.engine.parallel.pipeline_module import StudentPipelineModule

Metrics = dict[str, Tensor]


def check(recipe: Recipe, config: ds_config.Json) -> None:
    """UserError where the recipe asks for what a pipeline does not do."""
    if recipe.pipeline is None:
        return
    count, zero = recipe.pipeline.stages, config.get("zero_optimization", {})
    row, samplers = layer_entries(recipe.model, 1), [own.sampler for _, own in students_of(recipe)]
    most = recipe.model.encoder_layers + recipe.model.decoder_layers + 2
    refusals = {
        f"{count} stages; the model has {len(row)} places, give 1 to {most} stages": not 1 <= count <= most,
        f"{world_size()} rank(s) cannot form {count} stages; start a multiple of {count}": (
            world_size() > 1 and world_size() % count != 0
        ),
        f"DeepSpeed's pipelines go with ZeRO 0 and 1, not {zero.get('stage')}; set 'deepspeed' to zero1.json": (
            zero.get("stage", 0) > 1
        ),
        "bf16 needs ZeRO 1 for its fp32 masters; set 'deepspeed' to zero1.json": (
            recipe.train.precision == "bf16" and zero.get("stage", 0) == 0
        ),
        "fp16 is not done along stages; set train.precision: bf16": recipe.train.precision == "fp16",
        "offload is not done along stages; leave offload_optimizer out": bool(zero.get("offload_optimizer")),
        "placement: split is not done along stages; set placement: together": recipe.placement == "split",
        "teachers.on_device: layers is not for stages, which hold their own layers; set it to whole": any(
            one.on_device == "layers" for one in teacher_settings(recipe.method)
        ),
        "simultaneous steps are not done along stages; set simultaneous: false": recipe.simultaneous,
    }
    for sampler in samplers:
        refusals[f"sampler {sampler.name} measures the student, which is not done along stages; take another"] = (
            hasattr(sampler, "every")
        )
    for text, wrong in refusals.items():
        if wrong:
            raise UserError(f"pipeline: {text}")


def initialise_engine(
    recipe: Recipe,
    config: ds_config.Json,
    vocabulary_size: int,
    costs: Sequence[float],
    words: VocabShard | None = None,
) -> Any:
    """The recipe's model along its stages, which are cut by the ``costs`` of its places; ``words``: this rank's."""
    assert recipe.pipeline is not None
    return make_engine(recipe.model, vocabulary_size, recipe.pipeline.stages, costs, config, recipe.train.seed, words)


def make_engine(
    model: ModelSettings, vocabulary_size: int, count: int, costs: Sequence[float], config: ds_config.Json, seed: int,
    words: VocabShard | None = None,
) -> Any:  # fmt: skip
    """This rank's stage with the plain model's first weights, on DeepSpeed's PipelineEngine."""
    import deepspeed
    from deepspeed.runtime.pipe import schedule

    from mnmt_ds.engine.parallel.pipeline_module import StudentPipelineModule

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        module = StudentPipelineModule(model, vocabulary_size, count, costs, words)
    torch.manual_seed(seed_of(seed, "weights"))
    initialise_stage(module.model, words)
    if words is not None:
        # the states that travel are whole on each rank: DeepSpeed would cut them up between those of a vocabulary
        config = {**config, "pipeline": {"pipe_partitioned": False, "grad_partitioned": False}}
    if ds_config.zero_stage(config) == 0:
        config = {**config, "gradient_clipping": 0.0}  # ours: see ``clipped``
    engine, *_ = deepspeed.initialize(model=module, model_parameters=list(module.parameters()), config=config)
    known = engine._INSTRUCTION_MAP

    def step(engine: Any, lr_kwargs: Any = None) -> None:
        engine.module.before_step()
        known[schedule.OptimizerStep](engine, lr_kwargs)

    engine._INSTRUCTION_MAP = {**known, schedule.OptimizerStep: step}
    return engine


def initialise_stage(stage: LayerSegment, words: VocabShard | None = None) -> None:
    """The plain model's first weights in a segment of it, from the same draws, without ever holding the whole model;
    of a split matrix the rows of ``words``."""
    for part in stage.entries:
        part.make()  # which draws values, too, as the plain model does when it is made
    with torch.device("meta"):
        plain = dict(Transformer(stage.settings, stage.vocabulary_size).named_parameters())
    own = dict(stage.named_parameters())
    for name, shaped in plain.items():
        mine = own[name].data if name in own else None
        rows = words if name in own and is_vocab_sharded(own[name]) else None
        whole = torch.empty(shaped.shape) if mine is None or rows is not None else mine
        initialise_parameter(name, whole, stage.settings.d_model)
        if mine is not None and rows is not None:
            mine.copy_(whole[rows.start : rows.stop])


def update(
    one: Student, group: Sequence[Batch], coming: Sequence[Sequence[Slot | None]], number: int | str, rate: float,
    take: Callable[[Batch, Metrics], None], agree: Callable[[], None],
) -> float | None:  # fmt: skip
    """One optimizer step along the stages; returns the gradient's norm.

    ``coming`` tells what every rank's micro-batches are; ``take`` has each one's metric sums on the last stage;
    ``agree`` is called on all ranks before anything is updated.
    """
    module: StudentPipelineModule = one.engine.module
    announce(one, coming)
    one.bring(one, group, number)
    norms: list[Tensor] = []

    def score(states: Any, projection_VD: Tensor, batch: Batch) -> Tensor:
        loss, metrics = one.method.score(states, projection_VD, one.method.teach(batch))
        take(batch, metrics)
        # DeepSpeed averages over micro-batches and data ranks; so the update's loss is sum over tokens / token count.
        return loss * (len(group) * data_parallel_size() / batch.divisor)

    def before_step() -> None:
        agree()
        if one.engine.zero_optimization_stage() == 0:
            norms.append(clip_gradients(one.engine, one.recipe.train.clip_norm))

    module.score, module.before_step = score, before_step
    for parameters in one.engine.optimizer.param_groups:
        parameters["lr"] = rate
    one.engine.reset_activation_shape()
    one.engine.train_batch(iter(inputs(one, group, number)))
    norm = norms[0] if norms else one.engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def inputs(one: Student, group: Sequence[Batch], number: int | str) -> Iterator[tuple[Any, Any]]:
    """An update's micro-batches as the first and the last stage take them."""
    for index, batch in enumerate(group):
        ready = one.method.prepare(to_device(batch, device())._replace(update=update_number(number), place=index))
        yield as_input(ready, seed(one, "dropout", number, index))


def seed(one: Student, what: str, number: int | str, index: int) -> int:
    """Of what is drawn for a micro-batch, as without a pipeline: a function of its place in the update alone."""
    return seed_of(one.recipe.train.seed, what, number, index * data_parallel_size() + data_parallel_rank())


def as_input(batch: Batch, seed: int) -> tuple[Any, Any]:
    """What DeepSpeed reads: the first stage's tensors, and the last one's labels."""
    from mnmt_ds.engine.parallel.pipeline_module import Labels, MicroBatchNote

    note = MicroBatchNote(seed, batch.passes, int(batch.shared_memory))
    return (batch.source_BS, batch.decoder_BT, torch.tensor(note, device=batch.source_BS.device)), Labels(batch)


def announce(one: Student, coming: Sequence[Sequence[Slot | None]]) -> None:
    """Tells this stage's pipeline_teachers which teacher each micro-batch of the coming update has."""
    for slots in coming:
        one.method.prefetch(slots)
        for relay in one.engine.module.pipeline_teachers:
            relay.schedule()


def clip_gradients(engine: Any, most: float) -> Tensor:
    """Clips the gradient and returns its norm before; at ZeRO-0 DeepSpeed's own counts a tied matrix at every stage."""
    own = [p for p in engine.module.parameters() if p.grad is not None]
    mine = [p for p in own if not p.ds_pipe_replicated and (vocab_parallel_rank() == 0 or is_vocab_sharded(p))]
    square = sum((p.grad.float().square().sum() for p in mine), torch.zeros((), device=device()))
    if engine.num_stages * vocab_parallel_size() > 1:
        dist.all_reduce(square, group=engine.grid.get_model_parallel_group())
    norm = square.sqrt()
    if most > 0:
        for parameter in own:
            parameter.grad.mul_((most / (norm + 1e-6)).clamp(max=1.0))
    return norm


def eval_metrics(engine: Any, batches: Sequence[Batch], score: Scorer) -> list[Metrics]:
    """Metric sums of each batch, without dropout or gradient, on the last stage; an empty list on the others."""
    found: list[Metrics] = []

    def scored(states: Any, projection_VD: Tensor, batch: Batch) -> Tensor:
        loss, metrics = score(states, projection_VD, batch)
        found.append(metrics)
        return loss.float()

    _run(engine, batches, scored)
    return found


def states(engine: Any, batches: Sequence[Batch], seeds: Sequence[int] | None) -> list[Tensor | None]:
    """Decoder states (B, T, D) of each batch without gradient, on the last stage; None for each on the others.

    ``seeds``: dropout is on, and drawn from each batch's; None: it is off.
    """
    found: list[Tensor | None] = []

    def keep(states: Any, projection_VD: Tensor, batch: Batch) -> Tensor:
        found.append(states.decoder_BTD)
        return torch.zeros((), device=device())

    _run(engine, batches, keep, seeds)
    return found or [None] * len(batches)


def _run(
    engine: Any, batches: Sequence[Batch], score: Callable[..., Tensor], seeds: Sequence[int] | None = None
) -> None:
    """Forward passes alone, without gradient; ``score`` is called on the last stage, in order. All ranks of the job
    begin together, also one that has no batches."""
    module: StudentPipelineModule = engine.module
    module.score, module.loud = score, seeds is not None
    engine.reset_activation_shape()
    drawn = seeds or [0] * len(batches)
    ready = (as_input(to_device(batch, device()), own) for batch, own in zip(batches, drawn, strict=True))
    engine.eval_batch(ready, bcast_loss=False, reduce_output=None, num_micro_batches=len(batches))
    engine.reset_activation_shape()
    module.loud = False
    engine.train()
