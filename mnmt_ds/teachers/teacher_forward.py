"""Whole sentences on their way past a teacher: at once where a rank has all its layers, else from stage to stage."""

from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.distributed import RankGroup
from mnmt_ds.models.layer_sequence import LayerSegment, StageActivations
from mnmt_ds.teachers.sharded_teachers import teacher_states


class TeacherForward(Protocol):
    """How states come about that are to be remembered; what ``states`` does is done by all stages in the same order."""

    @property
    def last(self) -> bool:
        """Whether the states come out at this rank, which remembers them."""
        ...

    @property
    def everyone(self) -> RankGroup:
        """All ranks that must know what is remembered, stage by stage; side by side those that remember the same, since
        they share a vocabulary."""
        ...

    @property
    def stages(self) -> int:
        """Of a teacher; states come out at the last one's ranks."""
        ...

    def states(self, teacher: nn.Module, batch: Batch) -> Tensor | None:
        """Decoder states (B, T, E); None where they come out elsewhere."""
        ...

    def projection_VE(self, teacher: nn.Module) -> Tensor:
        """A teacher's output projection."""
        ...


class LocalForward:
    """Each of the ranks has whole teachers on its device."""

    last, stages = True, 1

    def __init__(self, ranks: RankGroup) -> None:
        self.everyone = ranks

    def states(self, teacher: nn.Module, batch: Batch) -> Tensor | None:
        return teacher_states(teacher, batch)[0]

    def projection_VE(self, teacher: Any) -> Tensor:
        weight: Tensor = teacher.head.weight
        return weight


class PipelineForward:
    """The stages of a pipeline, each with its own layers of a teacher. While one works on a batch, the stage before it
    is at work on the next."""

    def __init__(self, everyone: RankGroup, stages: int) -> None:
        """``everyone``: all ranks, those of the first stage first."""
        self.everyone, self.stages, self._step = everyone, stages, everyone.size // stages
        stage = everyone.rank // self._step
        self.first, self.last = stage == 0, stage == stages - 1
        self._sent: tuple[Any, Tensor] | None = None

    def states(self, teacher: nn.Module, batch: Batch) -> Tensor | None:
        segment: LayerSegment = teacher  # type: ignore[assignment]
        flow = StageActivations(batch.source_BS, batch.decoder_BT)
        if not self.first:
            arrived_BLE = next(segment.parameters()).new_empty(segment.input_shape(flow))
            dist.recv(arrived_BLE, self._neighbour(-1), group=self.everyone.group)
            segment.unpack(arrived_BLE, flow)
        segment(flow)
        if self.last:
            return flow.x_BLD
        self._send(segment.pack(flow).contiguous())
        return None

    def projection_VE(self, teacher: Any) -> Tensor:
        weight: Tensor = teacher.projection_VD
        return weight

    def _send(self, states_BLE: Tensor) -> None:
        if self._sent is not None:
            self._sent[0].wait()
        self._sent = dist.isend(states_BLE, self._neighbour(1), group=self.everyone.group), states_BLE

    def _neighbour(self, way: int) -> int:
        """The rank of the stage before (-1) or behind (1)."""
        return self.everyone.rank + way * self._step
