"""A plan as text: the model, a rank's memory line by line, layouts that fit, passes over the data, hours."""

from collections.abc import Sequence
from typing import NamedTuple

from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.planning.layouts import LayoutChoice
from mnmt_ds.planning.memory import PlannedLayout, PlannedStudents, RankMemory
from mnmt_ds.planning.parameters import Parameters
from mnmt_ds.planning.pipeline_stages import StageContents, bubble, slowdown
from mnmt_ds.planning.survey import Survey, micro_batches

LINES = (
    ("base", "the process itself"),
    ("weights", "weights"),
    ("gradients", "gradients and their buffers"),
    ("optimizer", "optimizer"),
    ("activations", "activations"),
    ("loss", "loss: logits of a chunk, gradients of states and projection"),
    ("teachers", "teachers on the device, other students' states"),
    ("aside", "a search's copy of the training state"),
)
BESIDE = (
    ("host_weights", "weights"),
    ("host_optimizer", "optimizer"),
    ("host_teachers", "shards of teachers, remembered states"),
    ("snapshot", "a copy of the weights, when a best checkpoint is kept"),
)


class RunPlan(NamedTuple):
    """All that is known of a run before it starts."""

    recipe: Recipe
    vocabulary: int
    counted: Parameters
    students: PlannedStudents
    layout: PlannedLayout
    stages: Sequence[StageContents]
    memories: Sequence[RankMemory]
    """Of a rank of each stage."""
    survey: Survey
    base_measured: bool
    speed: float | None
    """Target tokens a second of one rank that holds everything, of all students together; None: not measured."""

    @property
    def micro_batches(self) -> int:
        """Of an update, on each rank with data of its own."""
        return micro_batches(self.recipe, self.layout)


def mib(size: float) -> str:
    """Bytes as MiB, or GiB above ten of them."""
    return f"{size / 2**30:,.1f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:,.0f} MiB"


def report(plan: RunPlan) -> list[str]:
    """The plan of the given layout, a line each."""
    return [*model_lines(plan), "", *memory_lines(plan), "", *data_lines(plan), "", *time_lines(plan)]


def model_lines(plan: RunPlan) -> list[str]:
    """What there is to train, and in which layout."""
    n, r = plan.counted, plan.recipe
    students = f"{plan.students.number} students of " if plan.students.number > 1 else ""
    return [
        f"{r.name}: {students}{n.total:,} parameters, vocabulary {plan.vocabulary:,}",
        f"  {n.embeddings:,} in embeddings, {n.encoder_layers} x {n.encoder_layer:,} in encoder layers,"
        f" {n.decoder_layers} x {n.decoder_layer:,} in decoder layers",
        f"{plan.layout.ranks} rank(s), {plan.layout.describe()}, {plan.layout.precision},"
        f" {r.train.max_tokens:,} padded tokens a micro-batch,"
        f" {plan.micro_batches * plan.layout.data_ranks} micro-batches an update",
    ] + [
        f"  stage {number}: {stage.parameters:,} parameters: {stage.describe()};"
        f" {stage.share:.0%} of the work, {stage.under_way} micro-batch(es) under way"
        for number, stage in enumerate(plan.stages if len(plan.stages) > 1 else ())
    ]


def memory_lines(plan: RunPlan) -> list[str]:
    """A rank's memory, part by part; a column for each stage."""
    on_cpu, many = plan.layout.on_cpu, len(plan.memories) > 1
    said = {"base": "measured" if plan.base_measured else "not measured; see --no-probe"}
    head = f"memory of a rank{'' if on_cpu else ' on its device'}"
    stages = "".join(f"{f'stage {number}':>12}" for number in range(len(plan.memories)))
    lines = [f"{head:62}{stages}" if many else head]

    def row(text: str, sizes: Sequence[int]) -> list[str]:
        return [f"  {text:60}{''.join(f'{mib(size):>12}' for size in sizes)}"] if any(sizes) else []

    for name, text in (*LINES, *(BESIDE if on_cpu else ())):
        lines += row(text + (f" ({said[name]})" if name in said else ""), [getattr(m, name) for m in plan.memories])
    apart = "that copy" if on_cpu else "gradients"
    lines += row(f"peak ({apart} and activations are not there at once)", [m.device for m in plan.memories])
    for name, text in () if on_cpu else BESIDE:
        lines += row(f"on the host: {text}", [getattr(m, name) for m in plan.memories])
    return lines


def data_lines(plan: RunPlan) -> list[str]:
    """How often the run comes by each pair's set."""
    s = plan.survey
    lines = [f"{'pair':10}{'sentences':>12}{'passes at most':>16}"]
    lines += [f"{pair:10}{s.sizes[pair]:12,}{s.passes[pair]:16.1f}" for pair in s.sizes]
    return [*lines, f"{s.updates:,} updates an epoch of {s.tokens:,} target tokens; {s.last:,} updates at most"]


def time_lines(plan: RunPlan) -> list[str]:
    """Hours, where a speed was measured: ranks are taken to add up but for a pipeline's bubble; traffic takes more."""
    count, many = len(plan.stages), plan.micro_batches
    layout, shares = plan.layout, [stage.share for stage in plan.stages]
    lost = slowdown(plan.stages, many, layout.vocabulary)
    lines = [
        f"pipeline: bubble (m + p - 1) / m = {bubble(count, many):.2f} at m = {many}, p = {count}; the busiest stage"
        f" has {count * max(shares) / sum(shares):.2f} times the mean work"
    ] if count > 1 else []  # fmt: skip
    if layout.vocabulary > 1:
        lines += [
            f"vocabulary over {layout.vocabulary} ranks: each does {sum(shares):.0%} of what a rank without it does of"
            " as many tokens"
        ]
    if layout.teams > 1 and not plan.recipe.simultaneous:
        lost *= layout.teams
        lines += ["split students take steps in turn: the others wait meanwhile (simultaneous: true lets none wait)"]
    if plan.speed is None:
        return [*lines, "time: not known; --calibrate measures a few updates"]
    tokens = plan.survey.tokens * plan.survey.last / plan.survey.updates * plan.students.number
    speed = plan.speed * layout.ranks / lost
    return [
        *lines,
        f"time: {plan.speed:,.0f} target tokens/s measured on one rank, so {speed:,.0f} on {layout.ranks} rank(s):"
        f" {tokens / speed / 3600:,.2f} hours for {tokens:,.0f} tokens at most; validations, searches, teachers and"
        " traffic left out",
    ]


def layout_lines(choices: Sequence[LayoutChoice], devices: int, room: float) -> list[str]:
    """The layouts that fit, cheapest in time first."""
    head = f"layouts that fit {devices} device(s) of {mib(room)}"
    if not choices:
        return [f"{head}: none; give more devices, or fewer tokens a micro-batch"]
    lines = [f"{head}, cheapest in time first:"]
    for c in choices:
        again = ", activation checkpointing" if c.checkpointing else ""
        host = f", {mib(c.memory.host)} on the host" if c.memory.host else ""
        tokens = f"{c.max_tokens:,} tokens a micro-batch"
        lost = f", bubble {c.bubble:.2f}" if c.layout.pipeline > 1 else ""
        lines.append(f"  {mib(c.memory.device):>11}  {c.layout.describe()}, {tokens}{again}{lost}{host}")
    return lines
