"""The model as DeepSpeed's PipelineModule: a rank builds the layers of its own stage alone, under the plain names.

What is sent from stage to stage is a tuple of tensors: the states as one float tensor (DeepSpeed wants a gradient of
every float that is sent), source and decoder tokens, a ``MicroBatchNote``, the state of the random generator, so that
dropout draws what the plain model draws, and teachers' states as int32, since they have no gradient.

Shape letters: B sentences, S source positions, T target positions, L positions of the states that are sent, D model
width, E teacher's width, V words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from deepspeed.runtime.utils import partition_balanced
from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.engine.parallel.random_state import random_state, seed_random_state, set_random_state
from mnmt_ds.models.frozen import freeze, is_frozen
from mnmt_ds.models.layer_sequence import (
    TIED,
    LayerEntry,
    ModelChunk,
    StageActivations,
    layer_entries,
    possible_cuts,
    trained_entries,
)
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.vocab_parallel import VocabShard, shard_vocabulary
from mnmt_ds.parallel_layout import ParallelLayout
from mnmt_ds.private_apis import OwnStageLayers
from mnmt_ds.teachers.pipeline_teachers import CachedPipelineTeachers, PipelineTeachers
from mnmt_ds.training_position import moved

StageLossFunction = Callable[["PipelineStates", Tensor, Batch], Tensor]
"""From the last stage's states, its projection (V, D) and the batch to what DeepSpeed takes for the loss."""


class MicroBatchNote(NamedTuple):
    """The integers that every stage must know of a micro-batch; sent along the stages as int64."""

    seed: int
    """Seed of dropout; set by the first stage, then the generator's state is sent along."""
    passes: int
    """``Batch.passes``."""
    shared_memory: int
    """``Batch.shared_memory``."""


class PipelineStates(NamedTuple):
    """The states that a pipeline's last layer hands to the loss."""

    decoder_BTD: Tensor
    """Decoder states."""
    encoder_BSD: Tensor
    """Encoder states."""
    encoder_projection_VD: Tensor | None = None
    """The encoder's own projection, where it has one."""
    teachers_BTE: tuple[Tensor | None, ...] = ()
    """Decoder states of a teacher of each of ``StudentPipelineModule.pipeline_teachers``; None where it has none for
    this micro-batch."""


@dataclass
class Labels:
    """Wraps a micro-batch as DeepSpeed's labels; DeepSpeed would take a bare NamedTuple for a tuple of tensors."""

    batch: Batch


class StudentPipelineModule(OwnStageLayers, PipelineModule):  # type: ignore[misc]
    """DeepSpeed PipelineModule of a student: this stage's layers, and beside them the present teachers' layers."""

    def __init__(
        self, settings: ModelSettings, vocabulary_size: int, layout: ParallelLayout, costs: Sequence[float],
        vocab_shard: VocabShard | None = None,
    ) -> None:  # fmt: skip
        """Builds this rank's stage, values not yet drawn.

        Args:
            settings: of the model.
            vocabulary_size: V.
            layout: the ranks; it says how many stages there are.
            costs: of each layer; stages are cut so that the dearest is as cheap as can be.
            vocab_shard: this rank's words; None: all.
        """
        self.settings, self.vocabulary_size, self.costs, self.vocab_shard = (
            settings, vocabulary_size, costs, vocab_shard,
        )  # fmt: skip
        self.entries = layer_entries(settings, vocabulary_size)
        count = layout.pipeline_parallel_size
        topology = (
            PipeModelDataParallelTopology(count, layout.vocab_parallel_size, layout.data_parallel_size)
            if vocab_shard is not None
            else None
        )
        super().__init__(
            [_spec(entry, self._is_tied) for entry in self.entries], num_stages=count, topology=topology,
            loss_fn=self._loss, dynamic_shape=True,
        )  # fmt: skip
        self.universal_checkpoint_info = {"pipeline_replicated_parameter_patterns": [rf"model\.{TIED}\..*"]}
        self.pipeline_teachers: list[PipelineTeachers | CachedPipelineTeachers] = []
        """Teachers whose layers run beside the student's in training."""
        self.compute_loss: StageLossFunction = _not_set
        """What the last stage does with a micro-batch's states."""
        self.dropout_in_eval = False
        """Dropout is on in passes without gradient, too."""

    def cut_stages(self) -> list[int]:
        """Computes the first layer of every stage.

        Returns:
            The stages' first layers in order, then the number of layers.
        """
        return stage_bounds(self.entries, self.costs, self.num_stages, trained_entries(self.settings, self.entries))

    def build_stage(self) -> tuple[list[Callable[..., Any]], dict[str, nn.Module]]:
        """Makes this stage's layers: those that are called in turn, and the tied ones by key.

        Returns:
            The layers, and the tied ones by key.
        """
        self.model = self.model_chunk(self.vocab_shard)
        for parameter in self.model.parameters():
            parameter.ds_pipe_replicated = False  # type: ignore[attr-defined]
        freeze(self.model, self.settings)
        tied = {TIED: self.model.get_submodule(TIED)} if hasattr(self.model, TIED) and self._is_tied else {}
        return list(self.model.layers()), tied

    @property
    def _is_tied(self) -> bool:
        """Whether stages add up their gradients of one matrix: not of one that is not trained."""
        return not is_frozen(self.settings, f"{TIED}.weight")

    def model_chunk(self, vocab_shard: VocabShard | None, settings: ModelSettings | None = None) -> ModelChunk:
        """Makes new layers like this rank's stage, such as a teacher's.

        Args:
            vocab_shard: this rank's words, with the group that the layers' collectives use; None: all words.
            settings: of the model; None: the student's.

        Returns:
            The layers, values not yet drawn.
        """
        entries = self.entries if settings is None else layer_entries(settings, self.vocabulary_size)
        model_chunk = ModelChunk(settings or self.settings, self.vocabulary_size, entries, *self.layer_range)
        if vocab_shard is not None:
            shard_vocabulary(model_chunk, vocab_shard)
        return model_chunk

    def forward(self, inputs: tuple[Tensor, ...]) -> Any:
        """Runs this stage's layers on one micro-batch, and the teachers' layers beside them.

        Args:
            inputs: of the first stage source (B, S) and decoder (B, T) tokens and a ``MicroBatchNote``; of the others
                the tuple that the stage before returned.

        Returns:
            From the last stage its ``PipelineStates``; from the others the tuple that is sent on.
        """
        moved()
        is_first, is_last = self.layer_range[0] == 0, self.layer_range[1] == len(self.entries)
        if is_first:
            source_BS, decoder_BT, numbers = inputs
        else:
            states_BLD, source_BS, decoder_BT, numbers, random, *teacher_states = inputs
        note = MicroBatchNote(*numbers.tolist())
        activations = StageActivations(source_BS, decoder_BT, note.passes, bool(note.shared_memory))
        if not is_first:
            self.model.unpack(states_BLD, activations)
        dropout = self.training or self.dropout_in_eval
        self.model.train(dropout)
        if dropout:
            if is_first:
                seed_random_state(note.seed)
            else:
                set_random_state(random)
        self.model(activations)
        random = random_state() if dropout else numbers.new_zeros(1, dtype=torch.uint8)
        taught = self._teacher_passes(source_BS, decoder_BT, note, () if is_first else teacher_states)
        if is_last:
            assert activations.x_BLD is not None and activations.memory_BSD is not None
            teachers_BTE = tuple(None if teacher is None else teacher.x_BLD for teacher in taught)
            return PipelineStates(activations.x_BLD, activations.memory_BSD, teachers_BTE=teachers_BTE)
        teacher_states = [as_integers(self.model.pack(teacher)) for teacher in taught if teacher is not None]
        return (self.model.pack(activations), source_BS, decoder_BT, numbers, random, *teacher_states)

    @torch.no_grad()
    def _teacher_passes(
        self, source_BS: Tensor, decoder_BT: Tensor, note: MicroBatchNote, arrived: Sequence[Tensor]
    ) -> list[StageActivations | None]:
        """The micro-batch's way along the same stage of each teacher; teachers see one copy of the rows."""
        rows, waiting = len(source_BS) // note.passes, iter(arrived)
        taught: list[StageActivations | None] = []
        for teachers in self.pipeline_teachers if self.training else ():
            teacher = teachers.advance()
            if teacher is None:
                taught.append(None)
                continue
            activations = StageActivations(source_BS[:rows], decoder_BT[:rows])
            if self.layer_range[0]:
                teacher.unpack(as_floats(next(waiting), next(teacher.parameters()).dtype), activations)
            taught.append(teacher(activations))
        return taught

    def _loss(self, states: PipelineStates, labels: Labels) -> Tensor:
        """DeepSpeed's ``loss_fn``, on the last stage."""
        if self.settings.encoder_projection == "own":
            projection: Any = self.model.get_submodule("encoder_projection").weight
            states = states._replace(encoder_projection_VD=projection)
        for teachers, hidden_BTE in zip(self.pipeline_teachers, states.teachers_BTE, strict=False):
            teachers.received_BTE = hidden_BTE
        return self.compute_loss(states, self.model.projection_VD, labels.batch)


def as_pipeline_input(batch: Batch, seed: int) -> tuple[Any, Any]:
    """Converts a micro-batch to the inputs and labels that DeepSpeed's pipeline takes.

    Args:
        batch: on this rank's device.
        seed: of its dropout.

    Returns:
        The first stage's tensors, and the last one's labels.
    """
    note = MicroBatchNote(seed, batch.passes, int(batch.shared_memory))
    return (batch.source_BS, batch.decoder_BT, torch.tensor(note, device=batch.source_BS.device)), Labels(batch)


def stage_bounds(
    entries: Sequence[LayerEntry], costs: Sequence[float], count: int, trained: Sequence[bool] = ()
) -> list[int]:
    """Cuts the layers into stages of which the dearest is as cheap as can be, and each has something to train.

    Args:
        entries: the model's layers in order.
        costs: of each layer.
        count: stages.
        trained: of each layer whether a weight of it is trained; empty: all are.

    Returns:
        The first layer of every stage, and the number of layers.
    """
    cuts = possible_cuts(entries, trained)
    units = [sum(costs[start:stop]) for start, stop in pairwise(cuts)]
    scale = 1e6 / sum(units)  # DeepSpeed's cut counts in integers
    bounds = partition_balanced([max(1, round(cost * scale)) for cost in units], count)
    return [cuts[int(bound)] for bound in bounds]


def as_integers(states_BLD: Tensor) -> Tensor:
    """Views floating-point states as int32, byte for byte, for DeepSpeed wants a gradient of a float tensor.

    Args:
        states_BLD: of a float type.

    Returns:
        int32 (B, L, D), of fp16 and bf16 (B, L, D / 2): two numbers in one.
    """
    return states_BLD.contiguous().view(torch.int32)


def as_floats(bytes_BLD: Tensor, dtype: torch.dtype) -> Tensor:
    """Views the int32 tensors of ``as_integers`` as their former dtype again.

    Args:
        bytes_BLD: int32.
        dtype: the type.

    Returns:
        (B, L, D).
    """
    return bytes_BLD.view(dtype)


def _spec(entry: LayerEntry, is_tied: bool) -> LayerSpec:
    if entry.name == TIED and is_tied:
        return TiedLayerSpec(TIED, nn.Module, tied_weight_attr="weight")
    return LayerSpec(nn.Module)


def _not_set(*arguments: Any) -> Any:
    raise RuntimeError("no loss is set")
