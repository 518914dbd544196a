"""A plan as text: the model, a rank's memory line by line, layouts that fit, passes over the data, hours."""

from collections.abc import Sequence
from typing import NamedTuple

from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import batches_per_update
from mnmt_ds.planning.layouts import Choice
from mnmt_ds.planning.memory import Layout, Memory
from mnmt_ds.planning.parameters import Parameters
from mnmt_ds.planning.survey import Survey

LINES = (
    ("base", "the process itself"),
    ("weights", "weights"),
    ("gradients", "gradients and their buffers"),
    ("optimizer", "optimizer"),
    ("activations", "activations"),
    ("loss", "loss: logits of a chunk, gradients of states and projection"),
    ("teachers", "teachers on the device"),
)
BESIDE = (
    ("host_weights", "weights"),
    ("host_optimizer", "optimizer"),
    ("host_teachers", "shards of teachers, remembered states"),
    ("snapshot", "a copy of the weights, when a best checkpoint is kept"),
)


class Plan(NamedTuple):
    """All that is known of a run before it starts."""

    recipe: Recipe
    vocabulary: int
    counted: Parameters
    students: int
    layout: Layout
    memory: Memory
    survey: Survey
    base_measured: bool
    speed: float | None
    """Target tokens a second of one rank, measured; None: not measured."""


def mib(size: float) -> str:
    """Bytes as MiB, or GiB above ten of them."""
    return f"{size / 2**30:,.1f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:,.0f} MiB"


def report(plan: Plan) -> list[str]:
    """The plan of the given layout, a line each."""
    return [*model_lines(plan), "", *memory_lines(plan), "", *data_lines(plan), "", *time_lines(plan)]


def model_lines(plan: Plan) -> list[str]:
    """What there is to train, and in which layout."""
    n, r = plan.counted, plan.recipe
    students = f"{plan.students} students of " if plan.students > 1 else ""
    return [
        f"{r.name}: {students}{n.total:,} parameters, vocabulary {plan.vocabulary:,}",
        f"  {n.embeddings:,} in embeddings, {n.encoder_layers} x {n.encoder_layer:,} in encoder layers,"
        f" {n.decoder_layers} x {n.decoder_layer:,} in decoder layers",
        f"{plan.layout.ranks} rank(s), {plan.layout.describe()}, {plan.layout.precision},"
        f" {r.train.max_tokens:,} padded tokens a micro-batch,"
        f" {batches_per_update(r.train, plan.layout.ranks)} micro-batches an update",
    ]


def memory_lines(plan: Plan) -> list[str]:
    """A rank's memory, part by part."""
    m = plan.memory
    on_cpu = m.on_cpu
    said = {"base": "measured" if plan.base_measured else "not measured; see --no-probe"}
    lines = [f"memory of a rank{'' if on_cpu else ' on its device'}"]
    rows = [*LINES, *(BESIDE if on_cpu else ())]
    for name, text in rows:
        size = getattr(m, name)
        if size:
            lines.append(f"  {text + (f' ({said[name]})' if name in said else ''):60}{mib(size):>12}")
    apart = "that copy" if on_cpu else "gradients"
    lines.append(f"  {f'peak ({apart} and activations are not there at once)':60}{mib(m.device):>12}")
    beside = () if on_cpu else BESIDE
    rows = [(f"on the host: {text}", getattr(m, name)) for name, text in beside]
    return lines + [f"  {text:60}{mib(size):>12}" for text, size in rows if size]


def data_lines(plan: Plan) -> list[str]:
    """How often the run comes by each pair's set."""
    s = plan.survey
    lines = [f"{'pair':10}{'sentences':>12}{'passes at most':>16}"]
    lines += [f"{pair:10}{s.sizes[pair]:12,}{s.passes[pair]:16.1f}" for pair in s.sizes]
    return [*lines, f"{s.updates:,} updates an epoch of {s.tokens:,} target tokens; {s.last:,} updates at most"]


def time_lines(plan: Plan) -> list[str]:
    """Hours, where a speed was measured: ranks are taken to add up, which traffic lessens."""
    if plan.speed is None:
        return ["time: not known; --calibrate measures a few updates"]
    tokens = plan.survey.tokens * plan.survey.last / plan.survey.updates * plan.students
    seconds = tokens / (plan.speed * plan.layout.ranks)
    return [
        f"time: {plan.speed:,.0f} target tokens/s measured on one rank; {tokens:,.0f} tokens at most:"
        f" {seconds / 3600:,.2f} hours on {plan.layout.ranks} rank(s), validations, teachers and traffic left out"
    ]


def layout_lines(choices: Sequence[Choice], devices: int, room: float) -> list[str]:
    """The layouts that fit, cheapest in time first."""
    head = f"layouts that fit {devices} device(s) of {mib(room)}"
    if not choices:
        return [f"{head}: none; give more devices, or fewer tokens a micro-batch"]
    lines = [f"{head}, cheapest in time first:"]
    for c in choices:
        again = ", activation checkpointing" if c.checkpointing else ""
        host = f", {mib(c.memory.host)} on the host" if c.memory.host else ""
        tokens = f"{c.max_tokens:,} tokens a micro-batch"
        lines.append(f"  {mib(c.memory.device):>11}  {c.layout.describe()}, {tokens}{again}{host}")
    return lines
