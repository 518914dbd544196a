"""Peak bytes of a rank: the sum of what it holds all the time and of the largest phase of an update.

N parameters of e bytes on R ranks; ZeRO's parts as in Rajbhandari et al. (2020), table 1, with the buffers that
DeepSpeed adds to them. On a GPU freed memory serves the next phase, so phases do not add up. On a CPU the C library
keeps what it was given for most tensors, and DeepSpeed's flat buffers come from elsewhere: there they do. The numbers
of those buffers, and what offload adds, were counted from measured runs, not derived.

A rank of a pipeline holds its stage's parameters, and activations of as many micro-batches as are under way there. Of
a vocabulary split over ranks each holds its own words' rows. Of students split over ranks each rank holds one, whose
states are sharded over its team alone, and beside it what the others tell it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.planning import activations
from mnmt_ds.planning.activations import WIDE, Shape
from mnmt_ds.planning.parameters import parameters
from mnmt_ds.planning.pipeline_stages import StageContents, stages_of
from mnmt_ds.teachers.shard_exchange import BUCKET as FETCH
from mnmt_ds.teachers.sharded_teachers import ON_DEVICE

HALF = 2
BUCKET = 500_000_000
"""DeepSpeed's reduce_bucket_size where none is given."""


class PlannedLayout(NamedTuple):
    """How a student is laid out over ranks."""

    ranks: int
    stage: int
    """Of ZeRO, 0 to 3."""
    offload_optimizer: bool = False
    offload_parameters: bool = False
    precision: str = "fp32"
    on_cpu: bool = True
    """The ranks compute on CPUs: device and host are one memory."""
    bucket: int = BUCKET
    """Elements of the buffer that gradients are gathered in."""
    pipeline: int = 1
    """Stages that the layers are shared out to; 1: every rank holds all."""
    vocabulary: int = 1
    """Ranks that share every matrix over the vocabulary; 1: every rank holds all words."""
    teams: int = 1
    """Teams of ranks with a student each; 1: every rank holds all students."""

    @property
    def parts(self) -> int:
        """Ranks that hold each student once."""
        return self.pipeline * self.vocabulary

    @property
    def data_ranks(self) -> int:
        """A student's ranks with data of their own, between which a stage's states are sharded."""
        return max(1, self.ranks // (self.teams * self.parts))

    def words(self, vocabulary: int) -> int:
        """Of a vocabulary on the rank that has most: ceil(V / ranks)."""
        return -(-vocabulary // self.vocabulary)

    @property
    def element(self) -> int:
        """Bytes of a weight or an activation."""
        return WIDE if self.precision == "fp32" else HALF

    def describe(self) -> str:
        """As people say it."""
        offloads = [name for name, on in zip(("optimizer", "parameters"), self[2:4], strict=True) if on]
        parts = f"each student on {self.ranks // self.teams}, " if self.teams > 1 else ""
        parts += f"{self.pipeline} pipeline stages, " if self.pipeline > 1 else ""
        parts += f"vocabulary over {self.vocabulary}, " if self.vocabulary > 1 else ""
        return f"{parts}ZeRO-{self.stage}" + (f", {' and '.join(offloads)} on the CPU" if offloads else "")


class FrozenTeachers(NamedTuple):
    """What frozen teachers add."""

    versions: int = 0
    """Distinct teachers at most: one a pair."""
    dtype_bytes: int = HALF
    """In which shards are kept on the CPU."""
    shard_cap: int = 0
    """Bytes of CPU memory that a rank may spend on shards."""
    remembered: int = 0
    """Bytes of remembered decoder states a rank; of a pipeline, a rank of its last stage."""
    at_once: int = 0
    """Teachers in a batch's loss."""
    foreseen: int = 0
    """Bytes of the student's own quiet states that a rank of a pipeline's last stage holds during an update."""
    by_layers: bool = False
    """Their layers pass through the device one by one, instead of whole teachers."""


class PlannedStudents(NamedTuple):
    """How many there are, and what they tell one another."""

    number: int = 1
    peers: int = 0
    """Others that teach each of them."""
    states: int = 0
    """Bytes of the peers' decoder states that are held at once, on the rank that takes the loss."""
    remembered: int = 0
    """Bytes of their states on a search's trial set, on that rank's CPU."""
    searching: bool = False
    """A search copies a student's training state aside."""
    simultaneous: bool = False
    """All have their gradients before any takes its step; else those of one make room for the next one's."""


ALONE = PlannedStudents()


class RankMemory(NamedTuple):
    """Bytes a rank. Those of the device add up to its peak; those of the host stand beside them."""

    base: int
    """Of the process itself, without a model (on a GPU: not counted here, some 0.5 GB of CUDA's own)."""
    weights: int
    gradients: int
    """With the buffers that they are gathered and reduced in."""
    optimizer: int
    """Moments and fp32 masters."""
    activations: int
    loss: int
    teachers: int
    """Whole models that stand ready, and what is on its way to them; what other students say, and their projections;
    what was foreseen."""
    aside: int
    """A search's copy of the training state."""
    host_optimizer: int
    host_weights: int
    host_teachers: int
    """Shards of teachers and remembered states."""
    snapshot: int
    """A copy of all weights on the CPU, when best checkpoints are kept."""
    on_cpu: bool

    @property
    def device(self) -> int:
        """Peak on the device."""
        held = self.base + self.weights + self.optimizer + self.teachers
        if self.on_cpu:
            step = self.activations + self.loss + self.aside
            return held + self.gradients + max(step, self.snapshot) + self._beside
        return held + self.aside + max(self.activations + self.loss, self.gradients)

    @property
    def host(self) -> int:
        """Beside the device; all in one on a CPU."""
        return 0 if self.on_cpu else self._beside + self.snapshot

    @property
    def _beside(self) -> int:
        return self.host_optimizer + self.host_weights + self.host_teachers


def memory(
    m: ModelSettings, vocabulary: int, shapes: Sequence[Shape], layout: PlannedLayout, lessons: FrozenTeachers,
    passes: int = 1,
    base: int = 0, students: PlannedStudents = ALONE, stage: StageContents | None = None,
) -> RankMemory:  # fmt: skip
    """Bytes a rank (of a pipeline's stage), at the largest of these micro-batches; of several students on a rank one
    computes at a time."""
    words = layout.words(vocabulary)
    held = stage or stages_of(m, words)[0]
    n, r, here = held.parameters, layout.data_ranks, students.number // layout.teams
    weights, gradients, optimizer = states(n, layout)
    aside, host_aside = copied(n, layout) if students.searching else (0, 0)
    host_weights, host_optimizer = 0, 0
    if layout.offload_optimizer:  # with fp32 gradients and a buffer for the weights' way back
        host_optimizer, optimizer = optimizer + (WIDE + layout.element) * n // r, 0
        gradients -= layout.element * n // r if layout.stage > 1 else 0
    if layout.offload_parameters:
        host_weights = layout.element * n // r
        weights -= host_weights
    kept = max(step_activations(m, shape, layout, passes, held, lessons) for shape in shapes)
    loss = max(step_loss(m, x, words, lessons.at_once + students.peers, passes, layout) for x in shapes)
    if layout.on_cpu and layout.pipeline > 1 and held.refills:
        loss *= 2  # behind a backward pass a stage takes it anew, as it does activations
    ready = ready_teachers(m, words, layout, lessons, n) if lessons.versions else 0
    shards = min(lessons.versions * lessons.dtype_bytes * n // r, lessons.shard_cap)
    told = students.states + lessons.foreseen + students.peers * projection(m, words, layout)
    return RankMemory(
        base=base,
        weights=here * weights,
        gradients=(here if students.simultaneous else 1) * gradients,
        optimizer=here * optimizer,
        activations=kept,
        loss=0 if held.following else loss,
        teachers=here * ready + (0 if held.following else told),
        aside=aside,
        host_optimizer=here * host_optimizer + host_aside,
        host_weights=here * host_weights,
        host_teachers=here * shards + (0 if held.following else here * lessons.remembered + students.remembered),
        snapshot=layout.element * parameters(m, vocabulary).total if held.first else 0,
        on_cpu=layout.on_cpu,
    )


def copied(n: int, layout: PlannedLayout) -> tuple[int, int]:
    """What a search copies aside of N parameters (engine/parallel/state_snapshot.py): device and host bytes."""
    weights = layout.element * n // (layout.data_ranks if layout.stage == 3 else 1)
    optimizer = states(n, layout)[2]
    host = layout.offload_optimizer * optimizer + layout.offload_parameters * weights
    return weights + optimizer - host, host


def projection(m: ModelSettings, words: int, layout: PlannedLayout) -> int:
    """A copy of another student's output projection: where it lives on other ranks, or is whole only for a moment."""
    return words * m.d_model * layout.element if layout.teams > 1 or layout.stage == 3 else 0


def step_loss(m: ModelSettings, x: Shape, words: int, teachers: int, passes: int, layout: PlannedLayout) -> int:
    """Workspace of the loss over this rank's words."""
    if layout.vocabulary > 1:
        return activations.loss_over_shards(m, x, words, teachers, passes, layout.element, layout.on_cpu)
    return activations.loss(m, x, words, teachers, passes, layout.on_cpu)


def ready_teachers(m: ModelSettings, vocabulary: int, layout: PlannedLayout, lessons: FrozenTeachers, n: int) -> int:
    """Two models of the student's N parameters (of one layer on each side, where layers pass through), and a fetch's
    bucket, which several ranks hold twice: what comes and what goes."""
    if lessons.by_layers:
        shape = m.model_copy(update={"encoder_layers": 1, "decoder_layers": 1})
        n = parameters(shape, vocabulary).total
    return ON_DEVICE * layout.element * n + (1 + (layout.data_ranks > 1)) * min(FETCH, n) * lessons.dtype_bytes


def step_activations(
    m: ModelSettings, x: Shape, layout: PlannedLayout, passes: int, stage: StageContents, lessons: FrozenTeachers
) -> int:
    """What backward passes need of every micro-batch under way, and one's first gradients: 2 F + 3 D of every position
    at once (of the ReLU's input and output, and of the residual stream on both sides of a feed-forward layer and its
    mask). On a CPU a forward pass that follows a backward pass finds what that freed broken up by gradients, and takes
    as much again (measured: 0.9 to 1.2 times, of one and two stages at two to four micro-batches an update)."""
    tokens = passes * max(x.source_tokens, x.target_tokens)
    flight = tokens * (2 * m.ffn + 3 * m.d_model) * layout.element
    each = activations.forward(m, x, layout.element, layout.on_cpu, passes, stage.kinds)
    many = stage.under_way + (layout.on_cpu and stage.refills)
    return many * (each + travelling(m, x, layout, passes, stage, lessons)) + flight


def travelling(
    m: ModelSettings, x: Shape, layout: PlannedLayout, passes: int, stage: StageContents, lessons: FrozenTeachers
) -> int:
    """Of a micro-batch under way: what came in and what goes out, of the student's K copies and each teacher's one, S
    positions within the encoder, S + T behind it; and what autograd keeps of the part that came in: the encoder's
    states, twice where they came with the decoder's (DeepSpeed clones all, and the segment takes them out). What the
    encoder's norm gives is among its own where a decoder layer here looks at it, else it has left."""
    s, t = x.source_tokens, x.target_tokens
    positions = {"": 0, "encoder": s, "encoder_norm": s, "target": s}
    arriving, following = "" if stage.first else stage.kinds[0], stage.following
    passing = positions.get(arriving, s + t) + positions.get(following, s + t)
    kept = {"": 0, "encoder": 0, "encoder_norm": 0, "target": s}.get(arriving, 2 * s)
    kept -= s if "encoder_norm" in stage.kinds and "decoder" not in stage.kinds else 0
    return (passing * (passes + lessons.at_once) + kept * passes) * m.d_model * layout.element


def states(n: int, layout: PlannedLayout) -> tuple[int, int, int]:
    """Weights, gradients (with buffers) and optimizer of N parameters: bytes a rank."""
    e, r = layout.element, layout.data_ranks
    whole, share = e * n, e * n // r
    copy = e * min(n, layout.bucket)
    buffer = copy if layout.on_cpu else e * layout.bucket  # a CPU gives memory to what is written alone
    masters_and_moments = 3 * WIDE * n // r
    if layout.stage == 0:  # fp32: no masters, gradients flattened to be reduced
        return whole, whole + copy + (0 if e == WIDE else WIDE * n), (2 if e == WIDE else 3) * WIDE * n
    if layout.stage == 1:
        return whole, whole + buffer + copy, masters_and_moments
    if layout.stage == 2:
        return whole, share + buffer + copy, masters_and_moments
    # below a thousand million parameters DeepSpeed keeps gathered ones until the next use, so that all stand whole
    return share + whole, share + whole + buffer + 2 * copy, masters_and_moments
