"""A plan as text: the model, a rank's memory line by line, layouts that fit, passes over the data, hours."""

from collections.abc import Sequence
from typing import NamedTuple

from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.planning.disk import DiskUse
from mnmt_ds.planning.layouts import LayoutChoice
from mnmt_ds.planning.memory import PlannedLayout, PlannedStudents, RankMemory
from mnmt_ds.planning.parameters import ParameterCounts
from mnmt_ds.planning.pipeline_stages import StageContents, bubble, slowdown
from mnmt_ds.planning.survey import Survey, micro_batches_per_rank
from mnmt_ds.teachers.shard_exchange import FetchCost

DEVICE_LINES = (
    ("base", "the process itself"),
    ("weights", "weights"),
    ("gradients", "gradients and their buffers"),
    ("optimizer", "optimizer"),
    ("activations", "activations"),
    ("loss", "loss: logits of a chunk, gradients of states and projection"),
    ("teachers", "teachers on the device, other students' states"),
    ("search_copy", "a search's copy of the training state"),
)
"""Parts of a rank's memory on its device, and how the report names them."""
HOST_LINES = (
    ("host_weights", "weights"),
    ("host_optimizer", "optimizer"),
    ("host_teachers", "shards of teachers, cached states"),
    ("snapshot", "a copy of the weights, when a best checkpoint is kept"),
)
"""Parts of a rank's memory on the host."""


class RunPlan(NamedTuple):
    """Everything that ``mnmt-ds plan`` computes of a run before it starts."""

    recipe: Recipe
    """The recipe."""
    vocabulary: int
    """Words in all."""
    parameters: ParameterCounts
    """Parameters of one student."""
    students: PlannedStudents
    """How many students there are, and what they send one another."""
    layout: PlannedLayout
    """How they are laid out over ranks."""
    stages: Sequence[StageContents]
    """What the pipeline stages hold; one where there is no pipeline."""
    memories: Sequence[RankMemory]
    """Memory of a rank of each stage."""
    survey: Survey
    """The training data."""
    disk: DiskUse
    """Bytes on disk."""
    base_measured: bool
    """Whether the process's own memory was measured."""
    fetch: FetchCost | None
    """What it takes to bring each rank its teacher; None where none is fetched whole."""
    speed: float | None
    """Target tokens a second of one rank that holds everything, of all students together; None: not measured."""

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an update, on each rank with data of its own."""
        return micro_batches_per_rank(self.recipe, self.layout)


def format_bytes(size: float) -> str:
    """Writes bytes as MiB, or as GiB above ten of them.

    Args:
        size: bytes.

    Returns:
        Such as ``1,024 MiB``.
    """
    return f"{size / 2**30:,.1f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:,.0f} MiB"


def plan_lines(plan: RunPlan) -> list[str]:
    """Writes the whole plan.

    Args:
        plan: the plan.

    Returns:
        Lines.
    """
    lines = [*model_lines(plan), "", *memory_lines(plan), "", *fetch_lines(plan.fetch), *disk_lines(plan)]
    return [*lines, "", *data_lines(plan), "", *time_lines(plan)]


def model_lines(plan: RunPlan) -> list[str]:
    """Formats what there is to train, and in which layout.

    Args:
        plan: the plan.

    Returns:
        Lines.
    """
    n, recipe = plan.parameters, plan.recipe
    students = f"{plan.students.number} students of " if plan.students.number > 1 else ""
    return [
        f"{recipe.name}: {students}{n.total:,} parameters, vocabulary {plan.vocabulary:,}",
        f"  {n.embeddings:,} in embeddings, {n.encoder_layers} x {n.encoder_layer:,} in encoder layers,"
        f" {n.decoder_layers} x {n.decoder_layer:,} in decoder layers",
        f"{plan.layout.ranks} rank(s), {plan.layout.describe()}, {plan.layout.precision},"
        f" {recipe.train.max_tokens:,} padded tokens a micro-batch,"
        f" {plan.micro_batches * plan.layout.data_parallel_size} micro-batches an update",
    ] + [
        f"  stage {number}: {stage.parameters:,} parameters: {stage.describe()};"
        f" {stage.work:.0%} of the work, {stage.in_flight} micro-batch(es) under way"
        for number, stage in enumerate(plan.stages if len(plan.stages) > 1 else ())
    ]


def memory_lines(plan: RunPlan) -> list[str]:
    """Formats how much memory a rank takes, part by part; a column for each stage.

    Args:
        plan: the plan.

    Returns:
        Lines.
    """
    on_cpu = plan.layout.on_cpu
    remarks = {"base": "measured" if plan.base_measured else "not measured; see --no-probe"}
    head = f"memory of a rank{'' if on_cpu else ' on its device'}"
    stages = "".join(f"{f'stage {number}':>12}" for number in range(len(plan.memories)))
    lines = [f"{head:62}{stages}" if len(plan.memories) > 1 else head]

    def row(text: str, sizes: Sequence[int]) -> list[str]:
        return [f"  {text:60}{''.join(f'{format_bytes(size):>12}' for size in sizes)}"] if any(sizes) else []

    for name, text in (*DEVICE_LINES, *(HOST_LINES if on_cpu else ())):
        lines += row(
            text + (f" ({remarks[name]})" if name in remarks else ""), [getattr(m, name) for m in plan.memories]
        )
    other_phase = "that copy" if on_cpu else "gradients"
    lines += row(f"peak ({other_phase} and activations are not there at once)", [m.device for m in plan.memories])
    for name, text in () if on_cpu else HOST_LINES:
        lines += row(f"on the host: {text}", [getattr(m, name) for m in plan.memories])
    return lines


def fetch_lines(fetch: FetchCost | None) -> list[str]:
    """Formats what a teacher's way to a rank takes.

    Args:
        fetch: the plan's.

    Returns:
        Lines; none where nothing is fetched.
    """
    if fetch is None:
        return []
    return [
        "a teacher's weights for a micro-batch whose states are not cached, behind the step before it",
        f"  {format_bytes(fetch.received)} received in {fetch.exchanges:,} all-to-all(s); {fetch.messages:,} messages"
        f" and at most {fetch.copies:,} copies to the device a rank",
        "",
    ]


def disk_lines(plan: RunPlan) -> list[str]:
    """Formats how many bytes on disk a run takes at most.

    Args:
        plan: the plan.

    Returns:
        Lines.
    """
    disk, keep = plan.disk, plan.recipe.train.keep_checkpoints
    rows = [
        (f"checkpoints ({keep} that stay, one that is written)", disk.checkpoints),
        (f"models that are kept (best, of each pair, last: {disk.distinct} distinct at most)", disk.snapshots),
    ]
    if disk.frozen:
        rows.append(("what is not trained, once a student", disk.frozen))
    if disk.teacher_shards:
        rows.append(("shards of teachers beyond weights_gib of memory, of each rank", disk.teacher_shards))
    return ["disk", *(f"  {text:67}{format_bytes(size):>12}" for text, size in rows)]


def data_lines(plan: RunPlan) -> list[str]:
    """Formats how often the run passes over each pair's training set.

    Args:
        plan: the plan.

    Returns:
        Lines.
    """
    s = plan.survey
    lines = [f"{'pair':10}{'sentences':>12}{'passes at most':>16}"]
    lines += [f"{pair:10}{s.sizes[pair]:12,}{s.passes[pair]:16.1f}" for pair in s.sizes]
    return [*lines, f"{s.updates:,} updates an epoch of {s.tokens:,} target tokens; {s.max_updates:,} updates at most"]


def time_lines(plan: RunPlan) -> list[str]:
    """Formats how many hours the run takes, where a speed was measured.

    Speeds of ranks are taken to add up but for a pipeline's bubble; traffic between them takes more.

    Args:
        plan: the plan.

    Returns:
        Lines.
    """
    count, micro_batches = len(plan.stages), plan.micro_batches
    layout, work = plan.layout, [stage.work for stage in plan.stages]
    factor = slowdown(plan.stages, micro_batches, layout.vocabulary_shards)
    lines = [
        f"pipeline: bubble (m + p - 1) / m = {bubble(count, micro_batches):.2f} at m = {micro_batches}, p = {count};"
        f" the busiest stage has {count * max(work) / sum(work):.2f} times the mean work"
    ] if count > 1 else []  # fmt: skip
    if layout.vocabulary_shards > 1:
        lines += [
            f"vocabulary over {layout.vocabulary_shards} ranks: each does {sum(work):.0%} of what a rank"
            " without it does of as many tokens"
        ]
    if layout.teams > 1 and not plan.recipe.simultaneous:
        factor *= layout.teams
        lines += ["split students take steps in turn: the others wait meanwhile (simultaneous: true lets none wait)"]
    if plan.speed is None:
        return [*lines, "time: not known; --calibrate measures a few updates"]
    tokens = plan.survey.tokens * plan.survey.max_updates / plan.survey.updates * plan.students.number
    speed = plan.speed * layout.ranks / factor
    return [
        *lines,
        f"time: {plan.speed:,.0f} target tokens/s measured on one rank, so {speed:,.0f} on {layout.ranks} rank(s):"
        f" {tokens / speed / 3600:,.2f} hours for {tokens:,.0f} tokens at most; validations, searches, teachers and"
        " traffic left out",
    ]


def layout_lines(choices: Sequence[LayoutChoice], devices: int, device_bytes: float) -> list[str]:
    """Writes the layouts that fit.

    Args:
        choices: what fits, cheapest in time first.
        devices: number of devices.
        device_bytes: memory of a device.

    Returns:
        Lines.
    """
    head = f"layouts that fit {devices} device(s) of {format_bytes(device_bytes)}"
    if not choices:
        return [f"{head}: none; give more devices, or fewer tokens a micro-batch"]
    lines = [f"{head}, cheapest in time first:"]
    for choice in choices:
        checkpointing = ", activation checkpointing" if choice.checkpointing else ""
        host = f", {format_bytes(choice.memory.host)} on the host" if choice.memory.host else ""
        tokens = f"{choice.max_tokens:,} tokens a micro-batch"
        bubble_text = f", bubble {choice.bubble:.2f}" if choice.layout.stages > 1 else ""
        size, layout = format_bytes(choice.memory.device), choice.layout.describe()
        lines.append(f"  {size:>11}  {layout}, {tokens}{checkpointing}{bubble_text}{host}")
    return lines
