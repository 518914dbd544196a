"""Peak bytes of a rank: the sum of what it holds all the time and of the largest phase of an update.

N parameters of e bytes on R ranks; ZeRO's parts as in Rajbhandari et al. (2020), table 1, with the buffers that
DeepSpeed adds to them. On a GPU freed memory serves the next phase, so phases do not add up. On a CPU the C library
keeps what it was given for most tensors, and DeepSpeed's flat buffers come from elsewhere: there they do. The numbers
of those buffers, and what offload adds, were counted from measured runs, not derived.

A rank of a pipeline holds its stage's parameters, and activations of as many micro-batches as are in flight there. Of
a vocabulary split over ranks each holds its words' rows. Of students split over ranks each rank holds one, whose
states are sharded over its team alone, and beside it what it receives from the others.

Letters: S source and T target positions, D width, F feed-forward width, K passes.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mnmt_ds.models.layer_sequence import layer_entries
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.planning import activations
from mnmt_ds.planning.activations import FP32_BYTES, BatchShape
from mnmt_ds.planning.parameters import count_parameters, trained_parameters
from mnmt_ds.planning.pipeline_stages import StageContents, plan_stages
from mnmt_ds.teachers.shard_exchange import MAX_ELEMENTS_PER_EXCHANGE as FETCH
from mnmt_ds.teachers.sharded_teachers import ON_DEVICE

HALF_BYTES = 2
"""Bytes of an element in 16 bits."""
BUCKET = 500_000_000
"""DeepSpeed's reduce_bucket_size (elements) where none is given."""
LIVE = 1_000_000_000
"""DeepSpeed's stage3_max_live_parameters where none is given."""
SUB_GROUP = 1_000_000_000
"""DeepSpeed's sub_group_size: elements of a rank's part that ZeRO-3 updates at a time."""


class PlannedLayout(NamedTuple):
    """Layout of students over ranks, with everything that memory depends on."""

    ranks: int
    """Ranks of the whole job."""
    zero_stage: int
    """0 to 3."""
    offload_optimizer: bool = False
    """The optimizer's states wait on the CPU."""
    offload_parameters: bool = False
    """The parameters wait on the CPU."""
    precision: str = "fp32"
    """fp32, bf16 or fp16."""
    on_cpu: bool = True
    """The ranks compute on CPUs: device and host are one memory."""
    bucket: int = BUCKET
    """Elements of the buffer that gradients are gathered in."""
    max_live: int = LIVE
    """Gathered parameters that may stand whole at once at ZeRO-3."""
    stages: int = 1
    """Pipeline stages; 1: every rank holds all layers."""
    vocabulary_shards: int = 1
    """Ranks that share every matrix over the vocabulary; 1: every rank holds all words."""
    teams: int = 1
    """Teams of ranks with a student each; 1: every rank holds all students."""
    weight_average: bool = False
    """A moving average of the weights is kept beside the optimizer's states."""

    @property
    def model_parallel_size(self) -> int:
        """Ranks that hold each student once."""
        return self.stages * self.vocabulary_shards

    @property
    def data_parallel_size(self) -> int:
        """Number of a student's ranks with data of their own, over which a stage's states are sharded."""
        return max(1, self.ranks // (self.teams * self.model_parallel_size))

    @property
    def element_bytes(self) -> int:
        """Bytes of a weight or an activation."""
        return FP32_BYTES if self.precision == "fp32" else HALF_BYTES

    def rank_vocabulary(self, vocabulary: int) -> int:
        """Counts the words on the rank that has most.

        Args:
            vocabulary: V words in all.

        Returns:
            ceil(V / ranks that share them).
        """
        return -(-vocabulary // self.vocabulary_shards)

    def describe(self) -> str:
        """Describes the layout by what is not the default.

        Returns:
            Such as ``2 pipeline stages, ZeRO-1``.
        """
        on_cpu = zip(("optimizer", "parameters"), (self.offload_optimizer, self.offload_parameters), strict=True)
        offloaded = [name for name, is_offloaded in on_cpu if is_offloaded]
        text = f"each student on {self.ranks // self.teams}, " if self.teams > 1 else ""
        text += f"{self.stages} pipeline stages, " if self.stages > 1 else ""
        text += f"vocabulary over {self.vocabulary_shards}, " if self.vocabulary_shards > 1 else ""
        return f"{text}ZeRO-{self.zero_stage}" + (f", {' and '.join(offloaded)} on the CPU" if offloaded else "")


class FrozenTeachers(NamedTuple):
    """Sizes of frozen teachers and of their cached states, for the memory plan."""

    versions: int = 0
    """Distinct teachers at most: one a pair."""
    dtype_bytes: int = HALF_BYTES
    """Bytes of an element of the shards that are kept on the CPU."""
    max_shard_bytes: int = 0
    """Bytes of CPU memory that a rank may spend on shards."""
    cached_states: int = 0
    """Bytes of cached decoder states a rank; of a pipeline, a rank of its last stage."""
    per_batch: int = 0
    """Teachers in a batch's loss."""
    eval_states: int = 0
    """Bytes of the student's states in eval mode that a rank of a pipeline's last stage holds during an update."""
    layer_streaming: bool = False
    """Their layers pass through the device one by one, instead of whole teachers."""


class PlannedStudents(NamedTuple):
    """Number of students, and the states that they exchange, for the memory plan."""

    number: int = 1
    """Students of the run."""
    peers: int = 0
    """Others that teach each of them."""
    peer_states: int = 0
    """Bytes of the peers' decoder states that are held at once, on the rank that takes the loss."""
    cached_states: int = 0
    """Bytes of their states on a search's trial set, on that rank's CPU."""
    weight_search: bool = False
    """A search copies a student's training state."""
    simultaneous: bool = False
    """All have their gradients before any takes its step; else those of one make room for the next one's."""


ONE_STUDENT = PlannedStudents()


class RankMemory(NamedTuple):
    """Memory of a rank in bytes. Those of the device add up to its peak; those of the host stand beside them."""

    base: int
    """The process itself, without a model (on a GPU: not counted here, some 0.5 GB of CUDA's own)."""
    weights: int
    """Weights of all students on the rank."""
    gradients: int
    """With the buffers that they are gathered and reduced in."""
    live_gradients: int
    """Those of them that stand beside a micro-batch's activations, where an update has several."""
    optimizer: int
    """Moments and fp32 masters, and the weights' moving average."""
    activations: int
    """What backward passes need of all micro-batches in flight."""
    loss: int
    """Workspace of the fused loss."""
    teachers: int
    """Whole models that stand ready, and what is on its way to them; other students' states and projections; the
    student's own states in eval mode."""
    search_copy: int
    """A search's copy of the training state."""
    host_optimizer: int
    """Offloaded optimizer states, and a search's copy of them."""
    host_weights: int
    """Offloaded parameters."""
    host_teachers: int
    """Shards of teachers and cached states."""
    snapshot: int
    """A copy of all weights on the CPU, when best checkpoints are kept."""
    on_cpu: bool
    """Device and host are one memory."""

    @property
    def device(self) -> int:
        """Peak bytes on the device."""
        always_held = self.base + self.weights + self.optimizer + self.teachers
        if self.on_cpu:
            step = self.activations + self.loss + self.search_copy
            return always_held + self.gradients + max(step, self.snapshot) + self._host_states
        live, rest = self.live_gradients, self.gradients - self.live_gradients
        return always_held + self.search_copy + live + max(self.activations + self.loss, rest)

    @property
    def host(self) -> int:
        """Bytes on the host beside the device; 0 on a CPU, where all is in one."""
        return 0 if self.on_cpu else self._host_states + self.snapshot

    @property
    def _host_states(self) -> int:
        return self.host_optimizer + self.host_weights + self.host_teachers


def rank_memory(
    m: ModelSettings,
    vocabulary: int,
    shapes: Sequence[BatchShape],
    layout: PlannedLayout,
    teachers: FrozenTeachers,
    passes: int = 1,
    base: int = 0,
    students: PlannedStudents = ONE_STUDENT,
    stage: StageContents | None = None,
    micro_batches: int = 1,
) -> RankMemory:
    """Counts a rank's memory at the largest micro-batch; of several students on a rank one computes at a time.

    Args:
        m: the model.
        vocabulary: words in all.
        shapes: micro-batches.
        layout: how students are laid out over ranks.
        teachers: frozen teachers.
        passes: K passes over each micro-batch.
        base: bytes of the process itself.
        students: the run's students.
        stage: the pipeline stage whose rank it is; None: the rank holds all of the model.
        micro_batches: of an update on this rank.

    Returns:
        Bytes by part.
    """
    rank_vocabulary = layout.rank_vocabulary(vocabulary)
    stage = stage or plan_stages(m, rank_vocabulary)[0]
    n, r, element = stage.parameters, layout.data_parallel_size, layout.element_bytes
    students_here = students.number // layout.teams
    trained = n if stage.trained is None else stage.trained
    weights, gradients, optimizer = state_bytes(n, layout, trained)
    search_copy, host_search_copy = search_copy_bytes(trained, layout) if students.weight_search else (0, 0)
    host_weights, host_optimizer = 0, 0
    if layout.offload_optimizer:  # with fp32 gradients and a buffer for the weights' way back
        host_optimizer, optimizer = optimizer + (FP32_BYTES + element) * trained // r, 0
        gradients -= element * trained // r if layout.zero_stage > 1 else 0
    if layout.offload_parameters:
        host_weights = element * n // r
        weights -= host_weights
    live_gradients = live_gradient_bytes(trained, layout) if micro_batches > 1 else 0
    per_batch = teachers.per_batch + students.peers
    loss = max(step_loss_bytes(m, shape, rank_vocabulary, per_batch, passes, layout) for shape in shapes)
    if layout.on_cpu and layout.stages > 1 and stage.alternates:
        loss *= 2  # behind a backward pass a stage takes it anew, as it does activations
    device_teachers = device_teacher_bytes(m, rank_vocabulary, layout, teachers, trained) if teachers.versions else 0
    device_teachers += element * (n - trained) if teachers.versions and layout.zero_stage == 3 else 0  # once for all
    shards = min(teachers.versions * teachers.dtype_bytes * trained // r, teachers.max_shard_bytes)
    peers = students.peer_states + students.peers * projection_bytes(m, rank_vocabulary, layout)
    return RankMemory(
        base=base,
        weights=students_here * weights,
        gradients=(students_here if students.simultaneous else 1) * gradients,
        live_gradients=(students_here if students.simultaneous else 1) * min(live_gradients, gradients),
        optimizer=students_here * optimizer,
        activations=max(step_activation_bytes(m, shape, layout, passes, stage, teachers) for shape in shapes),
        loss=loss if stage.is_last else 0,
        teachers=students_here * device_teachers + (peers + teachers.eval_states if stage.is_last else 0),
        search_copy=search_copy,
        host_optimizer=students_here * host_optimizer + host_search_copy,
        host_weights=students_here * host_weights,
        host_teachers=students_here * shards
        + (students_here * teachers.cached_states + students.cached_states if stage.is_last else 0),
        snapshot=element * snapshot_parameters(m, vocabulary) if stage.is_first else 0,
        on_cpu=layout.on_cpu,
    )


def snapshot_parameters(m: ModelSettings, vocabulary: int) -> int:
    """Counts the parameters in a best model or a checkpoint of the whole model: those that are trained.

    Args:
        m: the model.
        vocabulary: words in all.

    Returns:
        Parameters.
    """
    total = count_parameters(m, vocabulary).total
    return total if m == m.plain() else trained_parameters(m, layer_entries(m, vocabulary))[1]


def search_copy_bytes(n: int, layout: PlannedLayout) -> tuple[int, int]:
    """Counts the bytes of a search's copy of a training state (engine/parallel/state_snapshot.py).

    Args:
        n: trained parameters of the student on this rank.
        layout: how it is laid out.

    Returns:
        Bytes on the device and bytes on the host.
    """
    weights = layout.element_bytes * n // (layout.data_parallel_size if layout.zero_stage == 3 else 1)
    optimizer = state_bytes(n, layout)[2]
    host = layout.offload_optimizer * optimizer + layout.offload_parameters * weights
    return weights + optimizer - host, host


def projection_bytes(m: ModelSettings, rank_vocabulary: int, layout: PlannedLayout) -> int:
    """Counts a copy of a peer's output projection: needed where it lives on other ranks, or is whole only for a moment.

    Args:
        m: the model.
        rank_vocabulary: words of this rank.
        layout: how students are laid out.

    Returns:
        Bytes; 0 where the peer's own is used.
    """
    is_copied = layout.teams > 1 or layout.zero_stage == 3
    return rank_vocabulary * m.d_model * layout.element_bytes if is_copied else 0


def step_loss_bytes(
    m: ModelSettings, x: BatchShape, rank_vocabulary: int, teachers: int, passes: int, layout: PlannedLayout
) -> int:
    """Counts the bytes of the loss's workspace over this rank's words.

    Args:
        m: the model.
        x: the micro-batch.
        rank_vocabulary: words of this rank.
        teachers: teachers and peers of a batch.
        passes: K.
        layout: how the student is laid out.

    Returns:
        Bytes.
    """
    if layout.vocabulary_shards > 1:
        return activations.vocab_parallel_loss_bytes(
            m, x, rank_vocabulary, teachers, passes, layout.element_bytes, layout.on_cpu
        )
    return activations.loss_bytes(m, x, rank_vocabulary, teachers, passes, layout.on_cpu)


def device_teacher_bytes(
    m: ModelSettings, rank_vocabulary: int, layout: PlannedLayout, teachers: FrozenTeachers, n: int
) -> int:
    """Counts two teachers on the device (of one layer on each side, where layers are streamed), and a fetch's bucket,
    which several ranks hold twice: what arrives and what is sent.

    Args:
        m: the model.
        rank_vocabulary: words of this rank.
        layout: how the student is laid out.
        teachers: frozen teachers.
        n: parameters of the student on this rank.

    Returns:
        Bytes.
    """
    if teachers.layer_streaming:
        one_layer = m.model_copy(update={"encoder_layers": 1, "decoder_layers": 1})
        n = count_parameters(one_layer, rank_vocabulary).total
    buckets = 1 + (layout.data_parallel_size > 1)
    return ON_DEVICE * layout.element_bytes * n + buckets * min(FETCH, n) * teachers.dtype_bytes


def step_activation_bytes(
    m: ModelSettings, x: BatchShape, layout: PlannedLayout, passes: int, stage: StageContents, teachers: FrozenTeachers
) -> int:
    """Counts the bytes that backward passes need of every micro-batch in flight, and one's first gradients.

    The gradients are 2 F + 3 D of every position at once (of the ReLU's input and output, and of the residual stream
    on both sides of a feed-forward layer and its mask). On a CPU a forward pass that follows a backward pass finds what
    that freed broken up by gradients, and takes as much again (measured: 0.9 to 1.2 times, of one and two stages at two
    to four micro-batches an update).

    Args:
        m: the model.
        x: the micro-batch.
        layout: how the student is laid out.
        passes: K.
        stage: what this rank holds.
        teachers: frozen teachers.

    Returns:
        Bytes.
    """
    tokens = passes * max(x.source_tokens, x.target_tokens)
    gradients = tokens * (2 * m.ffn + 3 * m.d_model) * layout.element_bytes
    micro_batch = activations.forward_bytes(m, x, layout.element_bytes, layout.on_cpu, passes, stage.kinds)
    micro_batch += stage_boundary_bytes(m, x, layout, passes, stage, teachers)
    return (stage.in_flight + (layout.on_cpu and stage.alternates)) * micro_batch + gradients


def stage_boundary_bytes(
    m: ModelSettings, x: BatchShape, layout: PlannedLayout, passes: int, stage: StageContents, teachers: FrozenTeachers
) -> int:
    """Counts the bytes that a micro-batch in flight brings into a stage and sends on, and what autograd keeps.

    What passes are the student's K copies and each teacher's one: S positions within the encoder, S + T behind it.
    What autograd keeps of the arriving part are the encoder's states, twice where they came with the decoder's
    (DeepSpeed clones all, and the chunk takes them out). The output of the encoder's norm is among the stage's own
    where a decoder layer here looks at it, else it was sent on.

    Args:
        m: the model.
        x: the micro-batch.
        layout: how the student is laid out.
        passes: K.
        stage: what this rank holds.
        teachers: frozen teachers.

    Returns:
        Bytes of one micro-batch.
    """
    s, t = x.source_tokens, x.target_tokens
    positions = {"": 0, "encoder": s, "encoder_norm": s, "target": s}
    arriving_kind = "" if stage.is_first else stage.kinds[0]
    boundary_positions = positions.get(arriving_kind, s + t) + positions.get(stage.next_kind, s + t)
    kept_positions = {"": 0, "encoder": 0, "encoder_norm": 0, "target": s}.get(arriving_kind, 2 * s)
    kept_positions -= s if "encoder_norm" in stage.kinds and "decoder" not in stage.kinds else 0
    return (
        (boundary_positions * (passes + teachers.per_batch) + kept_positions * passes)
        * m.d_model
        * layout.element_bytes
    )


def state_bytes(n: int, layout: PlannedLayout, trained: int | None = None) -> tuple[int, int, int]:
    """Counts the bytes of weights, gradients (with buffers) and optimizer states with the weights' moving average.

    Args:
        n: N parameters of the student on this rank.
        layout: how it is laid out.
        trained: those of them that are trained; None: all.

    Returns:
        Bytes of each on a rank.
    """
    e, r = layout.element_bytes, layout.data_parallel_size
    is_fp32 = e == FP32_BYTES
    weights, weight_shard, gathered = e * n, e * n // r, e * min(n, layout.max_live)
    n = n if trained is None else trained
    whole, shard = e * n, e * n // r
    copy = e * min(n, layout.bucket)
    buffer = copy if layout.on_cpu else e * layout.bucket  # a CPU gives memory to what is written alone
    masters_and_moments = (4 if layout.weight_average else 3) * FP32_BYTES * n // r
    wide = 0 if is_fp32 else FP32_BYTES * n // r  # a step's gradients, as wide as the masters
    if layout.zero_stage == 0:  # fp32: no masters, gradients flattened to be reduced
        copies = (2 if is_fp32 else 3) + layout.weight_average
        return weights, whole + copy + (0 if is_fp32 else FP32_BYTES * n), copies * FP32_BYTES * n
    if layout.zero_stage == 1:
        return weights, whole + buffer + copy + wide, masters_and_moments
    if layout.zero_stage == 2:
        return weights, shard + buffer + copy + wide, masters_and_moments
    # gathered parameters stay until their next use, as far as DeepSpeed lets so many live
    wide = min(wide, FP32_BYTES * SUB_GROUP)
    return weight_shard + gathered, shard + copy + buffer + 2 * copy + wide, masters_and_moments


def live_gradient_bytes(n: int, layout: PlannedLayout) -> int:
    """Counts the bytes of gradients that earlier micro-batches of an update leave for later ones.

    Args:
        n: N parameters of the student on this rank.
        layout: how it is laid out.

    Returns:
        Bytes; on the host where the optimizer waits there.
    """
    if layout.zero_stage < 2:
        return n * (layout.element_bytes if layout.zero_stage or layout.precision == "fp32" else FP32_BYTES)
    return 0 if layout.offload_optimizer else n * layout.element_bytes // layout.data_parallel_size
