"""A teacher's forward pass of whole sentences: at once where a rank has all its layers, else from stage to stage.

Letters: B sentences, T target tokens, L tokens of what is sent between stages, E width, V vocabulary.
"""

from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.distributed import RankGroup
from mnmt_ds.models.layer_sequence import ModelChunk, StageActivations
from mnmt_ds.teachers.sharded_teachers import teacher_states


class TeacherForward(Protocol):
    """Interface of a forward pass through a teacher, which computes the states that are cached."""

    @property
    def is_last_stage(self) -> bool:
        """Whether the states come out at this rank, which then caches them."""
        ...

    @property
    def num_stages(self) -> int:
        """Pipeline stages of a teacher; 1 without a pipeline."""
        ...

    @property
    def all_ranks(self) -> RankGroup:
        """All ranks that must know what is cached: stage by stage, then by data-parallel rank, then by vocabulary
        shard. Ranks that differ in the vocabulary shard alone cache the same states."""
        ...

    def states(self, teacher: nn.Module, batch: Batch) -> Tensor | None:
        """Computes decoder states; all stages call this in the same order.

        Args:
            teacher: this rank's model, or its stage of it, on the device.
            batch: the sentences, on the device.

        Returns:
            Decoder states (B, T, E); None on all stages but the last.
        """
        ...

    def projection_VE(self, teacher: nn.Module) -> Tensor:
        """Returns a teacher's output projection; called on the last stage.

        Args:
            teacher: this rank's model, or its stage of it, on the device.

        Returns:
            The projection (V, E), or this rank's rows of it where the vocabulary is split.
        """
        ...


class LocalForward:
    """Forward pass through a teacher that each rank has whole on its device."""

    is_last_stage, num_stages = True, 1

    def __init__(self, all_ranks: RankGroup) -> None:
        """Needs the ranks that cache.

        Args:
            all_ranks: all ranks that must know what is cached, with a group that nothing else uses.
        """
        self.all_ranks = all_ranks

    def states(self, teacher: nn.Module, batch: Batch) -> Tensor | None:
        """Runs a whole teacher.

        Args:
            teacher: a model on the device.
            batch: the sentences, on the device.

        Returns:
            Decoder states (B, T, E).
        """
        return teacher_states(teacher, batch)[0]

    def projection_VE(self, teacher: Any) -> Tensor:
        """Returns a teacher's output projection.

        Args:
            teacher: a model on the device.

        Returns:
            The projection (V, E).
        """
        weight: Tensor = teacher.head.weight
        return weight


class PipelineForward:
    """Forward pass through a teacher along a pipeline's stages, each with its own layers.

    While a stage works on one batch, the stage before it works on the next.
    """

    def __init__(self, all_ranks: RankGroup, num_stages: int) -> None:
        """Finds this rank's stage and neighbours.

        Args:
            all_ranks: all ranks of the job, those of the first stage first, with a group that nothing else uses.
            num_stages: pipeline stages.
        """
        self.all_ranks, self.num_stages = all_ranks, num_stages
        self._ranks_per_stage = all_ranks.size // num_stages
        stage = all_ranks.rank // self._ranks_per_stage
        self.is_first_stage, self.is_last_stage = stage == 0, stage == num_stages - 1
        self._sent: tuple[dist.Work | None, Tensor] | None = None

    def states(self, teacher: nn.Module, batch: Batch) -> Tensor | None:
        """Receives the activations of the stage before, runs this stage's layers, and sends what comes out.

        Args:
            teacher: this stage's ``ModelChunk`` of the teacher, on the device.
            batch: the sentences, on the device.

        Returns:
            Decoder states (B, T, E); None on all stages but the last.
        """
        model_chunk: ModelChunk = teacher  # type: ignore[assignment]
        activations = StageActivations(batch.source_BS, batch.decoder_BT)
        if not self.is_first_stage:
            received_BLE = next(model_chunk.parameters()).new_empty(model_chunk.input_shape(activations))
            dist.recv(received_BLE, self._neighbour(-1), group=self.all_ranks.group)
            model_chunk.unpack(received_BLE, activations)
        model_chunk(activations)
        if self.is_last_stage:
            return activations.x_BLD
        self._send(model_chunk.pack(activations).contiguous())
        return None

    def projection_VE(self, teacher: Any) -> Tensor:
        """Returns a teacher's output projection; called on the last stage.

        Args:
            teacher: this stage's ``ModelChunk`` of the teacher.

        Returns:
            The projection (V, E), or this rank's rows of it where the vocabulary is split.
        """
        weight: Tensor = teacher.projection_VD
        return weight

    def _send(self, states_BLE: Tensor) -> None:
        """Sends to the next stage without waiting; the tensor is kept until it has been sent."""
        if self._sent is not None and self._sent[0] is not None:
            self._sent[0].wait()
        self._sent = dist.isend(states_BLE, self._neighbour(1), group=self.all_ranks.group), states_BLE

    def _neighbour(self, offset: int) -> int:
        """Gives the rank at the same place of the stage before (-1) or after (1)."""
        return self.all_ranks.rank + offset * self._ranks_per_stage
