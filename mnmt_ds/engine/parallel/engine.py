"""What the rest of the package asks of an engine: one model in training on its ranks, however it is spread over them.

There are two: ``ZeroEngine`` (whole layers on every rank, ZeRO 0 to 3; the vocabulary may be split) and
``PipelineEngine`` (a stage of the layers on every rank). Nothing outside this package asks which one it has.

Shape letters: B sentences, S source positions, T target positions, D model width, V words, N elements of a shard.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mnmt_ds.batch import Batch, MicroBatchContent, to_device
from mnmt_ds.checkpoint_writer import WrittenFiles
from mnmt_ds.distributed import RankGroup, seed_of
from mnmt_ds.engine.parallel.state_snapshot import TrainingState
from mnmt_ds.engine.parallel.weight_average import WeightAverage
from mnmt_ds.methods.method import Method, ModelStates
from mnmt_ds.models.layer_sequence import ModelChunk
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.vocab_parallel import VocabShard
from mnmt_ds.parallel_layout import ParallelLayout
from mnmt_ds.teachers.shard_layout import ShardLayout
from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
from mnmt_ds.teachers.state_cache import StateCache
from mnmt_ds.teachers.teacher_forward import TeacherForward
from mnmt_ds.teachers.teacher_server import TeacherServer

Metrics = Mapping[str, Tensor]
"""Metrics of a micro-batch by name: (2,), a sum and what it is to be divided by."""
DecoderStates = tuple[Tensor, Tensor]
"""Decoder states (B, T, D) and output projection (V, D)."""
LossFunction = Callable[[ModelStates, Tensor, Batch], Any]
"""Maps a model's states, its output projection (V, D) and the batch to a tuple such as a loss sum and its metrics."""


class Update(NamedTuple):
    """One update of a student: the micro-batches of an optimizer step, and what is done with each."""

    micro_batches: Sequence[Batch]
    """This rank's micro-batches; equally many on every rank."""
    contents: Callable[[], Sequence[Sequence[MicroBatchContent | None]]]
    """Returns for each micro-batch what every data-parallel rank holds; None for a rank that has nothing left."""
    method: Method
    """Prepares, teaches and scores each micro-batch."""
    prefetch: Callable[[int], None]
    """Called on all ranks before each micro-batch with its index: teachers are fetched ahead of their use."""
    seed: int
    """The student's seed, of dropout and of teachers' dropout."""
    number: int
    """The update's number in the run, from 1; of an update on a trial set that of the last one before it."""
    key: int | str
    """Part of the seed of all that the update draws: its number; "12+3" for the fourth of a trial after update 12."""

    def drawn_seed(self, purpose: str, update_index: int) -> int:
        """Computes the seed of a micro-batch's random numbers; it is the same on any number of ranks.

        Args:
            purpose: "teach" or "dropout".
            update_index: the micro-batch's in the whole update (``ParallelLayout.update_index``).

        Returns:
            63 bits, a function of (seed, purpose, key, update_index) alone.
        """
        return seed_of(self.seed, purpose, self.key, update_index)

    def on_device(self, index: int, device: torch.device) -> Batch:
        """Copies one of the micro-batches to a device and fills in its update and index.

        Args:
            index: which of this rank's.
            device: where its tensors go.

        Returns:
            The micro-batch.
        """
        return to_device(self.micro_batches[index], device)._replace(update=self.number, micro_batch=index)


class MethodEvalStates(Protocol):
    """Gives a method the student's own states in eval mode (no dropout, no gradient) during an update."""

    def request(self, needs_states: Callable[[str], bool]) -> None:
        """Declares, once when the method is built, which micro-batches will ask for eval states.

        Args:
            needs_states: of a language pair's name: whether a batch of it will ask, as things then are; equal on all
                ranks.
        """
        ...

    def prefetch(self, micro_batches: Sequence[Batch]) -> None:
        """Prepares the eval states of an update's micro-batches; all of the student's ranks call this together.

        Args:
            micro_batches: this rank's.
        """
        ...

    def states(self, batch: Batch) -> DecoderStates:
        """Returns the eval states of one of the update's micro-batches, while it is scored.

        Args:
            batch: on this rank's device.

        Returns:
            Decoder states (B, T, D) and projection (V, D), without gradient.
        """
        ...


class Engine(Protocol):
    """Trains one model: forward, backward and step, eval passes, copies of weights and of training state.

    All of the student's ranks call every method together.
    """

    @property
    def layout(self) -> ParallelLayout:
        """The ranks and what each of them holds."""
        ...

    @property
    def zero_stage(self) -> int:
        """The stage of ZeRO, 0 to 3."""
        ...

    @property
    def stage_bounds(self) -> Sequence[int]:
        """The first layer of every pipeline stage, and the number of layers; empty without a pipeline."""
        ...

    @property
    def passes_are_collective(self) -> bool:
        """Whether a forward pass on one rank needs the student's other ranks to run one, too."""
        ...

    @property
    def eval_states_gather_weights(self) -> bool:
        """Whether ``MethodEvalStates.states`` must be called on all ranks alike, since weights are gathered in it."""
        ...

    @property
    def deepspeed_engine(self) -> Any:
        """DeepSpeed's own engine; for benchmarks and tests."""
        ...

    @property
    def model(self) -> Transformer | ModelChunk:
        """This rank's layers: a ``Transformer``, or a ``ModelChunk`` of it."""
        ...

    @property
    def vocab_shard(self) -> VocabShard | None:
        """This rank's words; None: all."""
        ...

    @property
    def average(self) -> WeightAverage | None:
        """The moving average of the weights, which ``step`` updates; None: there is none."""
        ...

    def forward_backward(self, update: Update) -> list[Metrics]:
        """Runs forward and backward of an update's micro-batches; the gradient is then ready for ``step``.

        Args:
            update: the micro-batches, their method and seeds.

        Returns:
            Each micro-batch's metric sums, in order, on the one rank that reports them (the last stage; the first of
            those that share a vocabulary); an empty list on the others.
        """
        ...

    def step(self, learning_rate: float) -> float:
        """Clips the gradient of the last ``forward_backward`` and takes the optimizer's step.

        Args:
            learning_rate: of this step.

        Returns:
            The gradient's L2 norm before clipping, equal on every rank; where it is not finite, nothing is updated.
        """
        ...

    @property
    def step_unread(self) -> Callable[[float, Tensor], Tensor] | None:
        """As ``step``, but the host waits for nothing; None: this engine's step waits for the device anyway.

        Called with the learning rate and a number (), equal on every rank, that is above 0 where a loss was not finite;
        returns the norm (). An update by a loss or gradient that is not finite changes nothing, nor do those after it.
        """
        ...

    def decoder_states(
        self, batches: Sequence[Batch], seeds: Sequence[int] | None = None
    ) -> Iterator[DecoderStates | None]:
        """Runs forward passes without gradient and yields the decoder states.

        Args:
            batches: one after another.
            seeds: dropout is on, drawn from each batch's seed; None: it is off (eval mode).

        Yields:
            Of each batch decoder states (B, T, D) and projection (V, D); None on pipeline stages but the last.
        """
        ...

    def eval_metrics(self, batches: Sequence[Batch], compute_loss: LossFunction) -> Iterator[Metrics]:
        """Computes metric sums of batches in eval mode, without gradient.

        Args:
            batches: one after another, equally many on every rank.
            compute_loss: the plain cross-entropy.

        Yields:
            Of each batch, in order, on the one rank that reports it; nothing on the others.
        """
        ...

    def method_eval_states(self, pairs: Sequence[str]) -> MethodEvalStates:
        """Builds the object through which a method gets the student's eval states during an update.

        Args:
            pairs: names of the run's language pairs.

        Returns:
            What a method is given of it.
        """
        ...

    def gather_weights(
        self, dtype: torch.dtype | None = None, everywhere: bool = True, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Copies the whole weights to the CPU; shards are gathered, one parameter at a time.

        Args:
            dtype: of the copies; None: as they are.
            everywhere: pipeline stages are brought together on all ranks, not on the main one alone.
            names: of those that are copied; None: all.

        Returns:
            Tensors by the plain model's names.
        """
        ...

    def whole_model(self) -> Transformer:
        """Returns the plain model with all its weights on this rank: the student's own where it is whole, else a copy.

        Returns:
            A model in the engine's type.
        """
        ...

    def own_shard(self, shard_layout: ShardLayout, ranks: RankGroup, dtype: torch.dtype) -> Tensor:
        """Copies this rank's shard of the present weights; nothing is gathered.

        Args:
            shard_layout: how weights are cut into the ranks' shards.
            ranks: the ranks that hold the same layers.
            dtype: of the shard.

        Returns:
            (N,) on the CPU.
        """
        ...

    def frozen_weights(self) -> dict[str, Tensor]:
        """Returns the weights of this rank's layers that are not trained, whole on its device.

        Returns:
            Tensors by the plain model's names: the student's own, where its parameters are partitioned copies.
        """
        ...

    def blank_model(self, vocab_shard: VocabShard | None = None, settings: ModelSettings | None = None) -> nn.Module:
        """Makes new layers like this rank's for a teacher, without values; the caller fills them.

        Args:
            vocab_shard: this rank's words, with the group that the layers' collectives use; None: all words.
            settings: of the model; None: the student's.

        Returns:
            Layers on the CPU, in fp32.
        """
        ...

    def teacher_forward(self, ranks: RankGroup) -> TeacherForward:
        """Builds the forward pass through a teacher that computes states for the cache, outside of training.

        Args:
            ranks: the ranks that hold the same layers.

        Returns:
            The way.
        """
        ...

    def connect_teachers(self, teachers: ShardedTeachers, cache: StateCache | None) -> TeacherServer:
        """Connects the teachers with the student's passes and returns the server of their states.

        Args:
            teachers: those of this rank's layers.
            cache: of their states; None: they are computed for each micro-batch.

        Returns:
            What serves their states to the method.
        """
        ...

    def without_side_effects(self) -> AbstractContextManager[None]:
        """Runs a block of passes between two updates, then restores counters, gradients and random state.

        Returns:
            A context manager.
        """
        ...

    def gradient_shard(self, batch: Batch, compute_loss: LossFunction) -> Tensor:
        """Computes this rank's shard of a batch's gradient, averaged over ranks; inside ``without_side_effects``.

        Args:
            batch: on this rank's device; the loss sum is divided by its divisor over all ranks.
            compute_loss: the loss; dropout is drawn from torch's present random state.

        Returns:
            float32 (N,); the shards of all ranks make up the gradient, in DeepSpeed's cut.
        """
        ...

    def train_mode_pass(self, batch: Batch, compute_loss: LossFunction) -> Any:
        """Runs a forward pass with dropout, without gradient; call it inside ``without_side_effects``.

        Args:
            batch: on this rank's device.
            compute_loss: what is made of the states; dropout is drawn from torch's present random state.

        Returns:
            What ``compute_loss`` returned, as a tuple.
        """
        ...

    def capture_state(self) -> TrainingState:
        """Copies the whole training state: weights, masters, their average, moments, counters, random state.

        Returns:
            The copy.

        Raises:
            UserError: where part of it lies on NVMe.
        """
        ...

    def restore_state(self, state: TrainingState) -> None:
        """Restores a captured training state, bit for bit.

        Args:
            state: of ``capture_state``.
        """
        ...

    def is_finite(self, whole_state: bool = False) -> bool:
        """Checks whether this rank's weights are finite.

        Args:
            whole_state: whether their fp32 masters and the optimizer's moments must be, too.

        Returns:
            False where one is not.
        """
        ...

    def save_checkpoint(self, directory: Path, tag: str) -> WrittenFiles:
        """Writes DeepSpeed's files of the training state, and the averaged weights'.

        Args:
            directory: of the checkpoint.
            tag: the folder in it, one for each student.

        Returns:
            This rank's files, and the first error of them, so that all ranks come out of here together.
        """
        ...

    def load_checkpoint(self, directory: Path, tag: str, universal: bool = False) -> bool:
        """Fills weights, optimizer, loss scale and counters from DeepSpeed's files; the average is loaded by itself.

        Args:
            directory: of the checkpoint.
            tag: the folder in it.
            universal: the files are DeepSpeed's universal ones, which any layout reads.

        Returns:
            Whether there was a checkpoint under that tag.
        """
        ...
