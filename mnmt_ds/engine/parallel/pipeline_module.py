"""The model as DeepSpeed's PipelineModule: a rank builds the layers of its own stage alone, under the plain names.

What travels from stage to stage is a tuple of tensors: the states as one float tensor (DeepSpeed wants a gradient of
every float that travels), source and decoder tokens, a ``MicroBatchNote``, the state of the random generator, so that
dropout draws what the plain model draws, and teachers' states as int32, since they have no gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from deepspeed.runtime.utils import partition_balanced
from torch import Tensor, nn

from mnmt_ds.batch import Batch
from mnmt_ds.distributed import data_parallel_size, device, vocab_parallel_size
from mnmt_ds.models.layer_sequence import TIED, LayerEntry, LayerSegment, StageActivations, layer_entries
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.vocab_parallel import VocabShard, shard_vocabulary, vocab_shard_of
from mnmt_ds.teachers.pipeline_teachers import CachedPipelineTeachers, PipelineTeachers

LAST = ("decoder_norm", "projection", "head")
"""What always stands together at the row's end, for the loss needs all of it."""
Scorer = Callable[["PipelineStates", Tensor, Batch], Any]


class MicroBatchNote(NamedTuple):
    """What every stage must know of a micro-batch; travels as int64."""

    seed: int
    """Of dropout; set by the first stage, then the generator's state travels."""
    passes: int
    shared_memory: int


class PipelineStates(NamedTuple):
    """What the row's end hands to the loss."""

    decoder_BTD: Tensor
    encoder_BSD: Tensor
    encoder_projection_VD: Tensor | None = None
    teachers_BTE: tuple[Tensor | None, ...] = ()
    """Decoder states of each relay's teacher; None where it has none for this micro-batch."""


@dataclass
class Labels:
    """A micro-batch on its way past DeepSpeed, which would take a NamedTuple for a tuple of tensors."""

    batch: Batch


class StudentPipelineModule(PipelineModule):
    """One stage of a student, and beside its layers the same layers of the present teachers."""

    def __init__(
        self, settings: ModelSettings, vocabulary_size: int, count: int, costs: Sequence[float],
        words: VocabShard | None = None,
    ) -> None:  # fmt: skip
        """``costs``: of each place of the row; stages are cut so that the dearest is as cheap as can be. ``words``:
        this rank's part of the vocabulary; None: all of it."""
        self.settings, self.vocabulary_size, self.costs, self.words = settings, vocabulary_size, costs, words
        self.row = layer_entries(settings, vocabulary_size)
        topology = (
            PipeModelDataParallelTopology(count, vocab_parallel_size(), data_parallel_size())
            if words is not None
            else None
        )
        super().__init__(
            [_spec(part) for part in self.row], num_stages=count, topology=topology, loss_fn=self._loss,
            dynamic_shape=True,
        )  # fmt: skip
        self.universal_checkpoint_info = {"pipeline_replicated_parameter_patterns": [rf"model\.{TIED}\..*"]}
        self.pipeline_teachers: list[PipelineTeachers | CachedPipelineTeachers] = []
        self.score: Scorer = _not_set
        self.before_step: Callable[[], None] = _not_set
        self.loud = False
        """Dropout is on in passes without gradient, too."""

    def _partition_layers(self, method: str = "") -> None:
        self.parts = bounds(self.row, self.costs, self.num_stages)
        self._set_bounds(self.parts[self.stage_id], self.parts[self.stage_id + 1])

    def _build(self) -> None:
        """As PipelineModule's, but the layers' names are the plain model's."""
        self.model = self.segment(self.words)
        self.forward_funcs = self.model.layers()
        tied = {TIED: self.model.get_submodule(TIED)} if hasattr(self.model, TIED) else {}
        del self._modules["tied_modules"]
        self.__dict__["tied_modules"] = tied  # no submodule, lest the layer has two names
        self.tied_weight_attrs = {key: ["weight"] for key in tied}
        for parameter in self.parameters():
            parameter.ds_pipe_replicated = False  # type: ignore[attr-defined]

    @torch.no_grad()
    def _synchronize_tied_weights(self) -> None:
        """As PipelineModule's, which would have autograd record the broadcast."""
        super()._synchronize_tied_weights()

    def segment(self, words: VocabShard | None) -> LayerSegment:
        """New layers of this rank's stage, such as a teacher's; ``words``: of the vocabulary, None: all."""
        made = LayerSegment(self.settings, self.vocabulary_size, self.row, self._local_start, self._local_stop)
        if words is not None:
            shard_vocabulary(made, words)
        return made

    def forward(self, inputs: tuple[Tensor, ...]) -> Any:
        """One micro-batch's way along this stage; from the last one, its ``PipelineStates``."""
        first, last = self._local_start == 0, self._local_stop == len(self.row)
        if first:
            source_BS, decoder_BT, numbers = inputs
        else:
            states_BLD, source_BS, decoder_BT, numbers, random, *taught = inputs
        note = MicroBatchNote(*numbers.tolist())
        flow = StageActivations(source_BS, decoder_BT, note.passes, bool(note.shared_memory))
        if not first:
            self.model.unpack(states_BLD, flow)
        dropout = self.training or self.loud
        self.model.train(dropout)
        if dropout:
            if first:
                torch.manual_seed(note.seed)
            else:
                set_random_state(random)
        self.model(flow)
        random = random_state() if dropout else numbers.new_zeros(1, dtype=torch.uint8)
        lessons = self._taught(source_BS, decoder_BT, note, () if first else taught)
        if last:
            assert flow.x_BLD is not None and flow.memory_BSD is not None
            taught_BTE = tuple(None if own is None else own.x_BLD for own in lessons)
            return PipelineStates(flow.x_BLD, flow.memory_BSD, teachers_BTE=taught_BTE)
        travel = [as_integers(self.model.pack(own)) for own in lessons if own is not None]
        return (self.model.pack(flow), source_BS, decoder_BT, numbers, random, *travel)

    @torch.no_grad()
    def _taught(
        self, source_BS: Tensor, decoder_BT: Tensor, note: MicroBatchNote, arrived: Sequence[Tensor]
    ) -> list[StageActivations | None]:
        """The micro-batch's way along the same stage of each relay's teacher; teachers see one copy of the rows."""
        rows, waiting = len(source_BS) // note.passes, iter(arrived)
        lessons: list[StageActivations | None] = []
        for relay in self.pipeline_teachers if self.training else ():
            teacher = relay.advance()
            if teacher is None:
                lessons.append(None)
                continue
            flow = StageActivations(source_BS[:rows], decoder_BT[:rows])
            if self._local_start:
                teacher.unpack(as_floats(next(waiting), next(teacher.parameters()).dtype), flow)
            lessons.append(teacher(flow))
        return lessons

    def _loss(self, states: PipelineStates, labels: Labels) -> Tensor:
        """DeepSpeed's ``loss_fn``, on the last stage."""
        if self.settings.encoder_projection == "own":
            own: Any = self.model.get_submodule("encoder_projection").weight
            states = states._replace(encoder_projection_VD=own)
        for relay, hidden_BTE in zip(self.pipeline_teachers, states.teachers_BTE, strict=False):
            relay.received_BTE = hidden_BTE
        return self.score(states, self.model.projection_VD, labels.batch)


def bounds(row: Sequence[LayerEntry], costs: Sequence[float], count: int) -> list[int]:
    """First places of all stages, and the row's end; the dearest stage is as cheap as can be."""
    rest = sum(part.kind not in LAST for part in row)
    units = [*costs[:rest], sum(costs[rest:])]
    scale = 1e6 / sum(units)  # DeepSpeed's cut counts in integers
    parts = partition_balanced([max(1, round(cost * scale)) for cost in units], count)
    return [*map(int, parts[:-1]), len(row)]


def random_state() -> Tensor:
    """The generator's state, as bytes on this rank's device."""
    here = device()
    return torch.get_rng_state() if here.type == "cpu" else torch.cuda.get_rng_state(here).to(here)


def set_random_state(state: Tensor) -> None:
    """Goes on where another stage's generator stopped."""
    here = device()
    if here.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state.cpu(), here)


def as_integers(states_BLD: Tensor) -> Tensor:
    """The same bytes as int32: what has no gradient must not be a float on its way."""
    return states_BLD.contiguous().view(torch.int32)


def as_floats(bytes_BLD: Tensor, dtype: torch.dtype) -> Tensor:
    """What ``as_integers`` made of them."""
    return bytes_BLD.view(dtype)


def _spec(part: LayerEntry) -> LayerSpec:
    if part.name == TIED:
        return TiedLayerSpec(TIED, nn.Module, tied_weight_attr="weight")
    return LayerSpec(nn.Module)


def _not_set(*arguments: Any) -> Any:
    raise RuntimeError("no loss is set")


def weights(stages: StudentPipelineModule, everywhere: bool) -> dict[str, Tensor]:
    """All stages' weights on the CPU of the main rank (or of all), by the plain model's names, one at a time."""
    from torch import distributed as dist

    from mnmt_ds.distributed import is_main, rank, world_size

    mine, whole = dict(stages.model.named_parameters()), {}
    dtype = next(stages.parameters()).dtype
    for place, part in enumerate(stages.row):
        with torch.device("meta"):
            shapes = {f"{part.name}.{name}": p.shape for name, p in part.make().named_parameters()}
        first = stages.stage_owner(place) * data_parallel_size() * vocab_parallel_size()
        for name, shape in shapes.items():
            if name in whole:
                continue
            rows = []
            for source, size in sources(part, first, shape, stages.words):
                value = mine[name].detach() if rank() == source else torch.empty(size, dtype=dtype, device=device())
                if world_size() > 1:
                    dist.broadcast(value, source)
                rows.append(value.to("cpu", copy=True) if everywhere or is_main() else value.new_empty(0))
            whole[name] = torch.cat(rows) if len(rows) > 1 else rows[0]
    return whole


def sources(part: LayerEntry, first: int, shape: torch.Size, words: VocabShard | None) -> list[tuple[int, torch.Size]]:
    """Who holds a place's parameter, whose first holder is rank ``first``, and how large a part: in order of rows."""
    if words is None or part.kind not in ("source", "target", "projection", "head"):
        return [(first, shape)]
    parts = [vocab_shard_of(words.group, shape[0], number) for number in range(vocab_parallel_size())]
    return [(first + k, torch.Size([own.stop - own.start, *shape[1:]])) for k, own in enumerate(parts)]
