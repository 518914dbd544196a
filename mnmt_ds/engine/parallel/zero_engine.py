"""The engine of a rank that has all layers: DeepSpeed with ZeRO 0 to 3; the vocabulary may be split over ranks.

Shape letters: B sentences, T target positions, D model width, V words, N elements of a shard.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnmt_ds import private_apis
from mnmt_ds.batch import Batch, to_device
from mnmt_ds.checkpoint_writer import WrittenFiles
from mnmt_ds.distributed import RankGroup
from mnmt_ds.engine.parallel import ds_config, gradients, state_snapshot
from mnmt_ds.engine.parallel.engine import DecoderStates, LossFunction, MethodEvalStates, Metrics, Update
from mnmt_ds.engine.parallel.loading import load_deepspeed_checkpoint, model_with
from mnmt_ds.engine.parallel.method_eval_states import DirectEvalStates
from mnmt_ds.engine.parallel.random_state import seed_random_state
from mnmt_ds.engine.parallel.state_snapshot import TrainingState
from mnmt_ds.engine.parallel.student_module import StudentModule
from mnmt_ds.engine.parallel.weight_average import WeightAverage
from mnmt_ds.methods.method import ModelStates
from mnmt_ds.models.row_gradients import RowGradients
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.vocab_parallel import VocabShard, gather_vocabulary, is_vocab_sharded, shard_vocabulary
from mnmt_ds.parallel_layout import ModelParallelUnit, ParallelLayout
from mnmt_ds.private_block_step import step_in_blocks
from mnmt_ds.private_late_checks import late_checks
from mnmt_ds.teachers.shard_layout import ShardLayout, assemble_shard, extract_shard
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
from mnmt_ds.teachers.state_cache import StateCache
from mnmt_ds.teachers.teacher_forward import LocalForward, TeacherForward
from mnmt_ds.teachers.teacher_server import TeacherServer, WholeTeachers
from mnmt_ds.training_position import moved

LEAST_TIED = 1 << 22
"""Elements of a tied embedding from which on its lookups' gradients are added by rows."""


def make_zero_engine(
    model: Transformer, config: ds_config.Json, layout: ParallelLayout, vocab_shard: VocabShard | None = None
) -> "ZeroEngine":
    """Puts a model on DeepSpeed's engine, on this rank's device.

    Args:
        model: with its first weights (of a split vocabulary this rank's rows of them).
        config: DeepSpeed's configuration, without "auto".
        layout: the ranks.
        vocab_shard: this rank's words; None: all.

    Returns:
        The engine.
    """
    if layout.teams > 1:  # each student saves under a tag of its own
        config = {**config, "checkpoint": {**config.get("checkpoint", {}), "tag_validation": "Ignore"}}
    clip_norm = float(config.get("gradient_clipping", 0.0))
    if ds_config.zero_stage(config) == 0 and not config.get("bf16", {}).get("enabled"):
        config = {**config, "gradient_clipping": 0.0}  # ours: see ``gradients.clip``
    if layout.data_parallel_size == 1:
        config = ds_config.without_large_buckets(config)
    if ds_config.zero_stage(config) < 3 and vocab_shard is None and layout.device.type == "cpu":
        gather_row_gradients(model)
    deepspeed_engine = initialize(StudentModule(model), config, layout.model_parallel_unit)
    return ZeroEngine(deepspeed_engine, layout, vocab_shard, clip_norm)


def gather_row_gradients(model: Transformer) -> None:
    """Makes a large trained embedding that is tied to the output projection add its lookups' gradients by rows.

    Args:
        model: each weight whole on this rank, on the CPU.
    """
    weight = model.embedding.weight
    if weight.requires_grad and model.head.weight is weight and weight.numel() >= LEAST_TIED:
        model.embedding.row_gradients = model.head.row_gradients = RowGradients(weight)


def initialize(module: nn.Module, config: ds_config.Json, model_parallel_unit: ModelParallelUnit | None = None) -> Any:
    """Makes a DeepSpeedEngine before its first update.

    Args:
        module: what it runs.
        config: DeepSpeed's configuration, without "auto".
        model_parallel_unit: the groups of ranks; None: DeepSpeed's own defaults.

    Returns:
        The engine.
    """
    import deepspeed

    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    deepspeed_engine, *_ = deepspeed.initialize(
        model=module, model_parameters=parameters, config=ds_config.without_throughput_timer(config),
        mpu=model_parallel_unit,
    )  # fmt: skip
    private_apis.undo_initial_step(deepspeed_engine)
    step_in_blocks(deepspeed_engine)
    return deepspeed_engine


class ZeroEngine:
    """Engine over DeepSpeedEngine: each rank runs all layers; ZeRO shards optimizer, gradients or parameters."""

    stage_bounds: Sequence[int] = ()

    def __init__(
        self, deepspeed_engine: Any, layout: ParallelLayout, vocab_shard: VocabShard | None, clip_norm: float
    ) -> None:
        """Wraps DeepSpeed's engine.

        Args:
            deepspeed_engine: a DeepSpeedEngine around a ``StudentModule``.
            layout: the ranks.
            vocab_shard: this rank's words; None: all.
            clip_norm: largest norm of a gradient; 0: no clipping.
        """
        self.deepspeed_engine, self.layout, self.vocab_shard = deepspeed_engine, layout, vocab_shard
        self.zero_stage: int = deepspeed_engine.zero_optimization_stage()
        self._clips = self.zero_stage == 0 and not deepspeed_engine.bfloat16_enabled()
        """In fp32 at ZeRO 0; elsewhere DeepSpeed clips, and updates nothing by a gradient that is not finite."""
        self._clip_norm = clip_norm
        self.average: WeightAverage | None = None
        self._late_checks = late_checks(deepspeed_engine)
        self.step_unread = None if self._late_checks is None else self._step_unread
        self.passes_are_collective = self.eval_states_gather_weights = self.zero_stage == 3

    @property
    def model(self) -> Transformer:
        """The model; at ZeRO-3 its parameters are partitioned."""
        model: Transformer = self.deepspeed_engine.module.model
        return model

    def forward_backward(self, update: Update) -> list[Metrics]:
        """Runs forward and backward of an update's micro-batches.

        Args:
            update: the micro-batches, their method and seeds.

        Returns:
            Each micro-batch's metric sums; empty on ranks that share their vocabulary with the one that reports.
        """
        metrics = []
        for index in range(len(update.micro_batches)):
            if index:
                self.deepspeed_engine.step()  # within an update this only counts the micro-batch
            update.prefetch(index)
            metrics.append(self._forward_backward_micro_batch(update, index))
        return metrics if self.layout.vocab_parallel_rank == 0 else []

    def _forward_backward_micro_batch(self, update: Update, index: int) -> Metrics:
        """Forward and backward of one micro-batch; returns its metric sums."""
        moved(index)
        method, update_index = update.method, self.layout.update_index(index)
        batch = update.on_device(index, self.layout.device)
        seed_random_state(update.drawn_seed("teach", update_index))  # for teachers with dropout
        batch = method.teach(method.prepare(batch))
        seed_random_state(update.drawn_seed("dropout", update_index))
        loss, metrics = self.deepspeed_engine(batch, method.compute_loss)
        self._backward(loss, batch)
        return metrics  # type: ignore[no-any-return]

    def _backward(self, loss: Tensor, batch: Batch) -> None:
        """Backward of a loss sum. DeepSpeed averages gradients over ranks; with this factor the update's loss is the
        sum over all tokens divided by their count."""
        factor = self.layout.data_parallel_size / batch.divisor
        self.deepspeed_engine.backward(loss * factor, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clips the gradient of the last ``forward_backward`` and takes the optimizer's step.

        Args:
            learning_rate: of this step.

        Returns:
            The gradient's norm before clipping; where it is not finite, nothing is updated.
        """
        if self.step_unread is not None:
            return float(self.step_unread(learning_rate, torch.zeros((), device=self.layout.device)))
        for group in self.deepspeed_engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = gradients.clip(self.model, self.layout, self._clip_norm, self.layout.vocab_group) if self._clips else 0.0
        if math.isfinite(norm):
            self.deepspeed_engine.step()
            if self.average is not None:
                self.average.update()
        return norm if self._clips else float(self.deepspeed_engine.get_global_grad_norm())

    def _step_unread(self, learning_rate: float, broken: Tensor) -> Tensor:
        """See ``Engine.step_unread``."""
        assert self._late_checks is not None
        for group in self.deepspeed_engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._late_checks.note(broken)
        self.deepspeed_engine.step()
        if self.average is not None:
            self.average.update()
        return self._late_checks.norm

    def decoder_states(
        self, batches: Sequence[Batch], seeds: Sequence[int] | None = None
    ) -> Iterator[DecoderStates | None]:
        """Runs forward passes without gradient and yields the decoder states.

        Args:
            batches: one after another.
            seeds: dropout is on, drawn from each batch's seed; None: it is off.

        Yields:
            Of each batch decoder states (B, T, D) and projection (V, D).
        """
        for index, batch in enumerate(batches):
            moved()
            batch = to_device(batch, self.layout.device)
            if seeds is not None:
                seed_random_state(seeds[index])
            with self._eval_mode() if seeds is None else nullcontext():
                states = self._states(batch)
            yield states

    @torch.no_grad()
    def _states(self, batch: Batch) -> DecoderStates:
        """Decoder states and projection of a pass in the present mode."""

        def return_states(states: ModelStates, projection_VD: Tensor, batch: Batch) -> DecoderStates:
            whole_VD = projection_VD.clone() if self.zero_stage == 3 else projection_VD.detach()
            return states.decoder_BTD, whole_VD

        hidden_BTD, projection_VD = self.deepspeed_engine(batch, return_states)
        return hidden_BTD, projection_VD

    @contextmanager
    def _eval_mode(self) -> Iterator[None]:
        """No dropout, no gradient."""
        self.deepspeed_engine.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.deepspeed_engine.train()

    def eval_metrics(self, batches: Sequence[Batch], compute_loss: LossFunction) -> Iterator[Metrics]:
        """Computes metric sums of batches in eval mode, without gradient.

        Args:
            batches: one after another, equally many on every rank.
            compute_loss: the plain cross-entropy.

        Yields:
            Of each batch, in order; nothing on ranks that share their vocabulary with the one that reports.
        """
        for batch in batches:
            moved()
            with self._eval_mode():
                _, metrics = self.deepspeed_engine(to_device(batch, self.layout.device), compute_loss)
            if self.layout.vocab_parallel_rank == 0:
                yield metrics

    def method_eval_states(self, pairs: Sequence[str]) -> MethodEvalStates:
        """Builds the eval states that a method may ask for; they are computed when it asks.

        Args:
            pairs: names of the run's language pairs.

        Returns:
            ``DirectEvalStates``.
        """
        return DirectEvalStates(self)

    def gather_weights(
        self, dtype: torch.dtype | None = None, everywhere: bool = True, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Copies the whole weights to the CPU, on every rank.

        Args:
            dtype: of the copies; None: as they are.
            everywhere: ignored; all ranks have them.
            names: of those that are copied; None: all.

        Returns:
            Tensors by name.
        """
        import deepspeed

        weights = {}
        for name, parameter in self.model.named_parameters():
            if names is not None and name not in names:
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.zero_stage == 3):
                value = parameter.detach()
                if self.vocab_shard is not None and is_vocab_sharded(parameter):
                    value = gather_vocabulary(value, self.vocab_shard, self.model.vocabulary_size)
                weights[name] = value.to("cpu", dtype or parameter.dtype, copy=True)
        return weights

    def whole_model(self) -> Transformer:
        """Returns the student's own model where it is whole on this rank, else a gathered copy, adapters merged.

        Returns:
            A model in the engine's type.
        """
        if self.zero_stage < 3 and self.vocab_shard is None and self.model.settings.lora is None:
            return self.model
        return model_with(self.gather_weights(), self.model, self.layout.device)

    def own_shard(self, shard_layout: ShardLayout, ranks: RankGroup, dtype: torch.dtype) -> Tensor:
        """Copies this rank's shard of the present weights to the CPU; at ZeRO-3 from its own partition.

        Args:
            shard_layout: how weights are cut into the ranks' shards.
            ranks: the ranks that hold the same layers.
            dtype: of the shard.

        Returns:
            (N,).
        """
        named = dict(self.model.named_parameters())
        if self.zero_stage < 3:
            return extract_shard(shard_layout, named, ranks, dtype)
        partitions = {}
        for piece in shard_layout.pieces:
            partitions[piece.name], length = private_apis.zero3_partition(named[piece.name])
            if length != piece.length:
                raise RuntimeError(f"{piece.name}: ZeRO-3 holds {length} elements a rank, {piece.length} expected")
        return assemble_shard(shard_layout, partitions, dtype)

    def frozen_weights(self) -> dict[str, Tensor]:
        """Returns the weights that are not trained, whole on this rank's device.

        Returns:
            Tensors by name: the student's own, at ZeRO-3 copies.
        """
        import deepspeed

        frozen = {name: value for name, value in self.model.named_parameters() if not value.requires_grad}
        if self.zero_stage < 3:
            return {name: value.detach() for name, value in frozen.items()}
        copies = {}
        for name, parameter in frozen.items():
            with deepspeed.zero.GatheredParameters([parameter]):
                copies[name] = parameter.detach().clone()
        return copies

    def blank_model(self, vocab_shard: VocabShard | None = None, settings: ModelSettings | None = None) -> nn.Module:
        """Makes a new model of the student's shape, without values; the caller fills them.

        Args:
            vocab_shard: this rank's words, with the group that the model's collectives use; None: all words.
            settings: of the model; None: the student's.

        Returns:
            A model on the CPU, in fp32.
        """
        model = Transformer(settings or self.model.settings, self.model.vocabulary_size)
        if vocab_shard is not None:
            shard_vocabulary(model, vocab_shard)
        return model

    def teacher_forward(self, ranks: RankGroup) -> TeacherForward:
        """Builds the forward pass of batches through a teacher, on this rank alone.

        Args:
            ranks: the ranks that hold the same layers.

        Returns:
            A ``LocalForward``.
        """
        return LocalForward(ranks if self.vocab_shard is None else self.layout.new_world_group())

    def connect_teachers(self, teachers: ShardedTeachers, cache: StateCache | None) -> TeacherServer:
        """Builds the server of teacher states; the method asks it itself, so nothing is wired into the engine.

        Args:
            teachers: the teachers.
            cache: of their states.

        Returns:
            The cache, or where there is none, whole teachers on the device.
        """
        return WholeTeachers(teachers) if cache is None else cache

    def without_side_effects(self) -> AbstractContextManager[None]:
        """Runs a block of passes between two updates, then restores counters, gradients and random state.

        Returns:
            A context manager.
        """
        return gradients.without_side_effects(self.deepspeed_engine)

    def gradient_shard(self, batch: Batch, compute_loss: LossFunction) -> Tensor:
        """Computes this rank's shard of a batch's gradient, averaged over the ranks.

        Args:
            batch: on this rank's device.
            compute_loss: the loss.

        Returns:
            float32 (N,).
        """

        def backward() -> None:
            loss, _ = self.deepspeed_engine(batch, compute_loss)
            self._backward(loss, batch)

        return gradients.gradient_shard(self.deepspeed_engine, backward, self.layout.ranks)

    @torch.no_grad()
    def train_mode_pass(self, batch: Batch, compute_loss: LossFunction) -> Any:
        """Runs a forward pass with dropout, without gradient.

        Args:
            batch: on this rank's device.
            compute_loss: what is made of the states.

        Returns:
            What ``compute_loss`` returned, as a tuple.
        """
        return self.deepspeed_engine(batch, compute_loss)

    def capture_state(self) -> TrainingState:
        """Copies the whole training state: weights, masters, moments, counters, random state.

        Returns:
            The copy.

        Raises:
            UserError: where part of it lies on NVMe.
        """
        return state_snapshot.capture_state(self.deepspeed_engine, self.average)

    def restore_state(self, state: TrainingState) -> None:
        """Restores a captured training state, bit for bit.

        Args:
            state: of ``capture_state``.
        """
        state_snapshot.restore_state(self.deepspeed_engine, state, self.average)

    def is_finite(self, whole_state: bool = False) -> bool:
        """Checks whether this rank's weights are finite.

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
