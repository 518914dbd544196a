"""The engine of a rank that has a stage of the layers: DeepSpeed's PipelineEngine with forward-backward and step apart.

Shape letters: B sentences, T target positions, D model width, V words, N elements of a shard.
"""

import contextlib
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnmt_ds import private_apis
from mnmt_ds.batch import Batch, to_device
from mnmt_ds.checkpoint_writer import WrittenFiles
from mnmt_ds.distributed import RankGroup, seed_of
from mnmt_ds.engine.parallel import ds_config, gradients, state_snapshot
from mnmt_ds.engine.parallel.engine import DecoderStates, LossFunction, MethodEvalStates, Metrics, Update
from mnmt_ds.engine.parallel.first_weights import read_first_weights
from mnmt_ds.engine.parallel.loading import load_deepspeed_checkpoint, model_with
from mnmt_ds.engine.parallel.method_eval_states import PrecomputedEvalStates
from mnmt_ds.engine.parallel.pipeline_module import (
    PipelineStates,
    StageLossFunction,
    StudentPipelineModule,
    as_pipeline_input,
)
from mnmt_ds.engine.parallel.pipeline_weights import gather_stages, initialise_stage
from mnmt_ds.engine.parallel.state_snapshot import TrainingState
from mnmt_ds.engine.parallel.weight_average import WeightAverage
from mnmt_ds.errors import UserError
from mnmt_ds.models.layer_sequence import ModelChunk
from mnmt_ds.models.pretrained import WeightSource
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.vocab_parallel import VocabShard
from mnmt_ds.parallel_layout import ParallelLayout
from mnmt_ds.teachers.pipeline_teachers import CachedPipelineTeachers, PipelineTeachers
from mnmt_ds.teachers.shard_layout import ShardLayout, extract_shard
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
from mnmt_ds.teachers.state_cache import StateCache
from mnmt_ds.teachers.teacher_forward import PipelineForward, TeacherForward
from mnmt_ds.teachers.teacher_server import TeacherServer

PipelineInput = tuple[Any, Any]
"""The first stage's tensors and the last one's labels (``as_pipeline_input``)."""


def make_pipeline_engine(
    model: ModelSettings, vocabulary_size: int, costs: Sequence[float], config: ds_config.Json, seed: int,
    layout: ParallelLayout, vocab_shard: VocabShard | None = None, source: WeightSource | None = None,
) -> "PipelineEngine":  # fmt: skip
    """Puts this rank's stage, with the plain model's first weights, on DeepSpeed's PipelineEngine.

    Args:
        model: the whole model's settings.
        vocabulary_size: V.
        costs: of each layer, by which the stages are cut.
        config: DeepSpeed's configuration, without "auto".
        seed: of the first weights.
        layout: the ranks and their stages.
        vocab_shard: this rank's words; None: all.
        source: a pretrained model whose weights come first; None: they are drawn.

    Returns:
        The engine.
    """
    import deepspeed

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        module = StudentPipelineModule(model, vocabulary_size, layout, costs, vocab_shard)
    torch.manual_seed(seed_of(seed, "weights"))
    if source is not None:
        read_first_weights(module.model, source, ds_config.dtype(config), vocab_shard)
    else:
        initialise_stage(module.model, vocab_shard)
    clip_norm = float(config.get("gradient_clipping", 0.0))
    if vocab_shard is not None:
        # the states that are sent are whole on each rank: DeepSpeed would cut them up between those of a vocabulary
        config = {**config, "pipeline": {"pipe_partitioned": False, "grad_partitioned": False}}
    if ds_config.zero_stage(config) == 0:
        config = {**config, "gradient_clipping": 0.0}  # ours: see ``gradients.clip``
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    deepspeed_engine, *_ = deepspeed.initialize(
        model=module, model_parameters=parameters, config=ds_config.without_throughput_timer(config)
    )
    return PipelineEngine(deepspeed_engine, layout, clip_norm)


class PipelineEngine:
    """Training engine over DeepSpeed's PipelineEngine: each rank holds one stage of the layers, at ZeRO 0 or 1.

    DeepSpeed's ``train_batch`` does forward, backward and step in one call. Here its last instruction, the optimizer's
    step, does nothing; ``step`` does what it would have done. So the loop reads alike on every engine.
    """

    passes_are_collective = True
    eval_states_gather_weights = False
    step_unread = None

    def __init__(self, deepspeed_engine: Any, layout: ParallelLayout, clip_norm: float) -> None:
        """Wraps DeepSpeed's engine.

        Args:
            deepspeed_engine: a PipelineEngine around a ``StudentPipelineModule``.
            layout: the ranks.
            clip_norm: largest norm of a gradient; 0: no clipping.
        """
        from deepspeed.runtime.pipe import schedule

        self.deepspeed_engine, self.layout, self._clip_norm = deepspeed_engine, layout, clip_norm
        self.module: StudentPipelineModule = deepspeed_engine.module
        self.zero_stage: int = deepspeed_engine.zero_optimization_stage()
        self.stage_bounds: Sequence[int] = tuple(self.module.parts)
        self.vocab_shard = self.module.vocab_shard
        self.average: WeightAverage | None = None
        private_apis.wrap_pipeline_instructions(deepspeed_engine, {schedule.OptimizerStep: _postponed_step})

    @property
    def model(self) -> ModelChunk:
        """This rank's layers."""
        return self.module.model

    def forward_backward(self, update: Update) -> list[Metrics]:
        """Runs forward and backward of an update's micro-batches along the stages.

        Args:
            update: the micro-batches, their method and seeds.

        Returns:
            Each micro-batch's metric sums, on the last stage; empty on the others.
        """
        method, metrics = update.method, list[Metrics]()
        for contents in update.contents():
            method.prefetch(contents)
            for teachers in self.module.pipeline_teachers:
                teachers.schedule()

        def compute_loss(states: PipelineStates, projection_VD: Tensor, batch: Batch) -> Tensor:
            loss, batch_metrics = method.compute_loss(states, projection_VD, method.teach(batch))
            metrics.append(batch_metrics)
            # DeepSpeed averages over micro-batches and data ranks; so the update's loss is sum over tokens / tokens.
            return loss * (len(update.micro_batches) * self.layout.data_parallel_size / batch.divisor)

        def inputs() -> Iterator[PipelineInput]:
            for index in range(len(update.micro_batches)):
                batch = method.prepare(update.on_device(index, self.layout.device))
                yield as_pipeline_input(batch, update.drawn_seed("dropout", self.layout.update_index(index)))

        self.run_train_schedule(inputs(), compute_loss)
        return metrics if self.layout.vocab_parallel_rank == 0 else []

    def run_train_schedule(self, inputs: Iterable[PipelineInput], compute_loss: StageLossFunction) -> None:
        """Runs DeepSpeed's training schedule up to, but without, the optimizer's step.

        Args:
            inputs: the micro-batches, as many as an update has.
            compute_loss: called on the last stage with each one's states; its mean over micro-batches and data ranks is
                the loss.
        """
        self.module.compute_loss = compute_loss
        self.deepspeed_engine.reset_activation_shape()
        self.deepspeed_engine.train_batch(iter(inputs))
        self.deepspeed_engine.global_steps -= 1  # ``_postponed_step`` counted it for train_batch's report

    def step(self, learning_rate: float) -> float:
        """Clips the gradient of the last ``forward_backward`` and takes the optimizer's step.

        Args:
            learning_rate: of this step.

        Returns:
            The gradient's norm before clipping; where it is not finite, nothing is updated.
        """
        for group in self.deepspeed_engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm, clips = 0.0, self.zero_stage == 0
        if clips:
            model_group = self.deepspeed_engine.grid.get_model_parallel_group()
            norm = gradients.clip(self.module, self.layout, self._clip_norm, model_group)
        if math.isfinite(norm):
            private_apis.pipeline_optimizer_step(self.deepspeed_engine)
            if self.average is not None:
                self.average.update()
        return norm if clips else float(self.deepspeed_engine.get_global_grad_norm())

    def decoder_states(
        self, batches: Sequence[Batch], seeds: Sequence[int] | None = None
    ) -> Iterator[DecoderStates | None]:
        """Runs forward passes along the stages, for all batches in one schedule.

        Args:
            batches: one after another; also none: all ranks of the job begin together.
            seeds: dropout is on, drawn from each batch's seed; None: it is off.

        Returns:
            Of each batch decoder states (B, T, D) and projection (V, D); None on all stages but the last.
        """
        states: list[DecoderStates | None] = []

        def keep(stage_states: PipelineStates, projection_VD: Tensor, batch: Batch) -> Tensor:
            states.append((stage_states.decoder_BTD, projection_VD.detach()))
            return torch.zeros((), device=self.layout.device)

        self._run_eval_schedule(batches, keep, seeds)
        return iter(states or [None] * len(batches))

    def eval_metrics(self, batches: Sequence[Batch], compute_loss: LossFunction) -> Iterator[Metrics]:
        """Computes metric sums of batches in eval mode, for all batches in one schedule.

        Args:
            batches: one after another, equally many on every rank.
            compute_loss: the plain cross-entropy.

        Returns:
            Of each batch, on the last stage; nothing on the others.
        """
        metrics: list[Metrics] = []

        def score_batch(states: PipelineStates, projection_VD: Tensor, batch: Batch) -> Tensor:
            loss, batch_metrics = compute_loss(states, projection_VD, batch)
            metrics.append(batch_metrics)
            return loss.float()

        self._run_eval_schedule(batches, score_batch)
        return iter(metrics if self.layout.vocab_parallel_rank == 0 else [])

    def _run_eval_schedule(
        self, batches: Sequence[Batch], compute_loss: StageLossFunction, seeds: Sequence[int] | None = None
    ) -> None:
        """Forward passes alone, without gradient; ``compute_loss`` is called on the last stage, in order."""
        self.module.compute_loss, self.module.dropout_in_eval = compute_loss, seeds is not None
        self.deepspeed_engine.reset_activation_shape()
        inputs = (
            as_pipeline_input(to_device(batch, self.layout.device), seed)
            for batch, seed in zip(batches, seeds or [0] * len(batches), strict=True)
        )
        self.deepspeed_engine.eval_batch(inputs, bcast_loss=False, reduce_output=None, num_micro_batches=len(batches))
        self.deepspeed_engine.reset_activation_shape()
        self.module.dropout_in_eval = False
        self.deepspeed_engine.train()

    def method_eval_states(self, pairs: Sequence[str]) -> MethodEvalStates:
        """Builds the eval states that a method may ask for; they are computed before the update.

        Args:
            pairs: names of the run's language pairs.

        Returns:
            ``PrecomputedEvalStates``.
        """
        return PrecomputedEvalStates(self, pairs)

    def gather_weights(
        self, dtype: torch.dtype | None = None, everywhere: bool = True, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Copies the whole weights to the CPU.

        Args:
            dtype: of the copies; None: as they are.
            everywhere: on all ranks, not on the main one alone.
            names: of those that are copied; None: all.

        Returns:
            Tensors by the plain model's names.
        """
        weights = gather_stages(self.module, self.layout, everywhere, names)
        return weights if dtype is None else {name: value.to(dtype) for name, value in weights.items()}

    def whole_model(self) -> Transformer:
        """Gathers all stages' weights into a copy of the model, adapters merged.

        Returns:
            A model in the engine's type.
        """
        return model_with(self.gather_weights(), self.model, self.layout.device)

    def own_shard(self, shard_layout: ShardLayout, ranks: RankGroup, dtype: torch.dtype) -> Tensor:
        """Copies this rank's shard of its stage's present weights to the CPU.

        Args:
            shard_layout: how the stage's weights are cut into shards.
            ranks: the ranks that hold the same stage.
            dtype: of the shard.

        Returns:
            (N,).
        """
        return extract_shard(shard_layout, dict(self.model.named_parameters()), ranks, dtype)

    def frozen_weights(self) -> dict[str, Tensor]:
        """Returns the weights of this rank's stage that are not trained.

        Returns:
            The student's own tensors by name.
        """
        return {name: value.detach() for name, value in self.model.named_parameters() if not value.requires_grad}

    def blank_model(self, vocab_shard: VocabShard | None = None, settings: ModelSettings | None = None) -> nn.Module:
        """Makes new layers like this rank's stage, without values; the caller fills them.

        Args:
            vocab_shard: this rank's words, with the group that the layers' collectives use; None: all words.
            settings: of the model; None: the student's.

        Returns:
            Layers on the CPU, in fp32.
        """
        return self.module.model_chunk(vocab_shard, settings)

    def teacher_forward(self, ranks: RankGroup) -> TeacherForward:
        """Builds the forward pass of batches through a teacher, from stage to stage.

        Args:
            ranks: the ranks that hold the same stage.

        Returns:
            A ``PipelineForward``.
        """
        return PipelineForward(self.layout.new_world_group(), self.layout.pipeline_parallel_size)

    def connect_teachers(self, teachers: ShardedTeachers, cache: StateCache | None) -> TeacherServer:
        """Wires teachers into the pipeline: each micro-batch runs through their stages, or reads from a cache.

        Args:
            teachers: those of this rank's stage.
            cache: of their states.

        Returns:
            What serves their states to the method, on the last stage.
        """
        server = PipelineTeachers(teachers) if cache is None else CachedPipelineTeachers(cache)
        self.module.pipeline_teachers.append(server)
        return server

    def without_side_effects(self) -> AbstractContextManager[None]:
        """Raises a UserError, as ``gradient_shard`` does.

        Returns:
            Never.
        """
        raise _no_measurements()

    def gradient_shard(self, batch: Batch, compute_loss: LossFunction) -> Tensor:
        """Raises a UserError: DeepSpeed's pipeline schedules have no backward pass without an update.

        Args:
            batch: on this rank's device.
            compute_loss: the loss.

        Returns:
            Never.

        Raises:
            UserError: always; recipes that would need it are refused before.
        """
        raise _no_measurements()

    def train_mode_pass(self, batch: Batch, compute_loss: LossFunction) -> Any:
        """Raises a UserError, as ``gradient_shard`` does.

        Args:
            batch: on this rank's device.
            compute_loss: what would be made of the states.

        Returns:
            Never.

        Raises:
            UserError: always.
        """
        raise _no_measurements()

    def capture_state(self) -> TrainingState:
        """Copies this stage's training state.

        Returns:
            The copy.
        """
        return state_snapshot.capture_state(self.deepspeed_engine, self.average)

    def restore_state(self, state: TrainingState) -> None:
        """Restores a captured training state, bit for bit.

        Args:
            state: of ``capture_state``.
        """
        state_snapshot.restore_state(self.deepspeed_engine, state, self.average)

    def is_finite(self, whole_state: bool = False) -> bool:
        """Checks whether this stage's weights are finite.

        Args:
            whole_state: whether their fp32 masters and the optimizer's moments must be, too.

        Returns:
            False where one is not.
        """
        return state_snapshot.is_finite(self.deepspeed_engine, whole_state)

    def save_checkpoint(self, directory: Path, tag: str) -> WrittenFiles:
        """Writes DeepSpeed's files of the training state, and the averaged weights'.

        Args:
            directory: of the checkpoint.
            tag: the folder in it.

        Returns:
            This rank's files, and the first error of them.
        """
        files = self.average.files() if self.average is not None else {}
        return private_apis.save_checkpoint(self.deepspeed_engine, directory, tag, files)

    def load_checkpoint(self, directory: Path, tag: str, universal: bool = False) -> bool:
        """Fills the training state from DeepSpeed's files.

        Args:
            directory: of the checkpoint.
            tag: the folder in it.
            universal: the files are DeepSpeed's universal ones.

        Returns:
            Whether there was a checkpoint under that tag.
        """
        return load_deepspeed_checkpoint(self.deepspeed_engine, directory, tag, universal)


def _postponed_step(optimizer_step: Callable[..., None]) -> Callable[..., None]:
    """The instruction OptimizerStep, which only counts, so that train_batch reports the step as it always does."""

    def count(deepspeed_engine: Any, lr_kwargs: Any = None) -> None:
        deepspeed_engine.global_steps += 1

    return count


def _no_measurements() -> UserError:
    return UserError("pipeline: samplers that measure the student are not done along stages; take another sampler")
