"""What a recipe's data are to its model: shapes of micro-batches, passes over each pair, teachers and their states."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.engine.dataloading.data_iterator import DataIterator
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.engine.settings import batches_per_update
from mnmt_ds.engine.students.weight_search import DataPosition, UpdateRange, coming, most_bytes
from mnmt_ds.engine.teacher_setup import cache_plan
from mnmt_ds.methods.pareto import ParetoSettings
from mnmt_ds.methods.peers import TrialSettings
from mnmt_ds.methods.registry import all_sections, requirements, teacher_settings
from mnmt_ds.planning.activations import Shape
from mnmt_ds.planning.memory import HALF, FrozenTeachers, PlannedLayout, PlannedStudents


class Survey(NamedTuple):
    """A student's first epoch, and its whole budget."""

    shapes: list[Shape]
    """Distinct micro-batches of the first epoch, none of which is smaller in every way than another."""
    updates: int
    """Of an epoch."""
    last: int
    """Of the whole run, at most."""
    tokens: int
    """Target tokens of an epoch."""
    passes: dict[str, float]
    """How often the whole run comes by each pair's training set, at most."""
    sizes: dict[str, int]


def survey(recipe: Recipe, stream: TrainingData, ranks: int) -> Survey:
    """Reads lengths alone; a function of recipe and ranks."""
    plan = stream.plan(0)._replace(batches_per_update=batches_per_update(recipe.train, ranks))
    by_epochs = recipe.train.max_epochs * plan.updates
    last = min(recipe.train.max_steps or by_epochs, by_epochs)
    epochs = last / plan.updates
    passes = {
        pair: epochs * count / size for pair, count, size in zip(stream.pairs, stream.counts, stream.sizes, strict=True)
    }
    sizes = dict(zip(stream.pairs, stream.sizes, strict=True))
    return Survey(largest(shapes_of(stream, plan)), plan.updates, last, int(plan.tokens.sum()), passes, sizes)


def shapes_of(stream: TrainingData, plan: EpochPlan) -> list[Shape]:
    """Each micro-batch's shape. A task on monolingual text pads to the same budget: it is not asked here."""
    source = [np.zeros(len(split), np.int64) for split in stream.splits]
    target = [np.zeros(len(split), np.int64) for split in stream.splits]
    for s, t, known in zip(source, target, stream.lengths, strict=True):
        s[known.index], t[known.index] = known.source, known.target
    found = []
    for k, pair in enumerate(plan.pair):
        rows = plan.sentence[plan.start[k] : plan.start[k + 1]]
        if pair < len(source):
            found.append(Shape(len(rows), int(source[pair][rows].max()), int(target[pair][rows].max())))
    return found


def largest(shapes: list[Shape]) -> list[Shape]:
    """Those that are not within another: with fewer sentences, source tokens and target tokens alike."""
    kept: list[Shape] = []
    for x in sorted(set(shapes), key=lambda s: -(s.source_tokens + s.target_tokens)):
        if not any(_within(x, y) for y in kept):
            kept.append(x)
    return kept


def _within(x: Shape, y: Shape) -> bool:
    return (
        x.sentences <= y.sentences
        and x.source_tokens <= y.source_tokens
        and x.target_tokens <= y.target_tokens
        and x.sentences * x.source**2 <= y.sentences * y.source**2
    )


def micro_batches(recipe: Recipe, layout: PlannedLayout) -> int:
    """Of an update, on each rank with data of its own."""
    return batches_per_update(recipe.train, layout.data_ranks) // layout.data_ranks


def students_in(
    recipe: Recipe, stream: TrainingData, layout: PlannedLayout, shapes: Sequence[Shape]
) -> PlannedStudents:
    """The recipe's students, and what they tell one another of such micro-batches where its method lets them teach."""
    count = len(students_of(recipe))
    method = next((one for one in all_sections(recipe.method) if isinstance(one, ParetoSettings)), None)
    if method is None:
        return PlannedStudents(count, simultaneous=recipe.simultaneous)
    width, peers = recipe.model.d_model * layout.element, count - 1
    at_once = micro_batches(recipe, layout) * (2 if layout.teams > 1 else 1)  # split, as many leave
    states = at_once * peers * width * max(shape.target_tokens for shape in shapes)
    searching = method.searched and method.trials.after == "restore"
    tried = trial_set(stream, method.trials) if method.searched or method.extra_updates else []
    room = method.trials.cache_gib * 2**30 * layout.data_ranks
    remembered = 0
    if peers * most_bytes(tried, recipe, layout.element) <= room:
        asked = [shape for part in tried for shape in shapes_of(stream, part.plan)[micro_batches_of(part)]]
        remembered = peers * width * sum(shape.target_tokens for shape in asked) // layout.data_ranks
    return PlannedStudents(count, peers, states, remembered, searching, recipe.simultaneous)


def foreseen(recipe: Recipe, layout: PlannedLayout, shapes: Sequence[Shape]) -> int:
    """Bytes of a student's quiet states of an update's micro-batches, which a gate along stages asks for at most."""
    if not requirements(recipe.method).eval_states:
        return 0
    positions = max(shape.target_tokens for shape in shapes)
    return micro_batches(recipe, layout) * positions * recipe.model.d_model * layout.element


def trial_set(stream: TrainingData, settings: TrialSettings) -> list[UpdateRange]:
    """What a student's first search trains on."""
    if settings.data == "sample":
        plan = stream.sample(settings.rho, "trial")
        return [UpdateRange(stream, plan, 0, plan.updates)]
    walk = DataIterator(stream)
    return coming(stream, DataPosition(walk.position, walk.trained, stream.sampler.probabilities), settings.rho)


def micro_batches_of(part: UpdateRange) -> slice:
    """Where a stretch's micro-batches are in its plan."""
    each = part.plan.batches_per_update
    return slice(part.first * each, (part.first + part.updates) * each)


def lessons_of(recipe: Recipe, stream: TrainingData, ranks: int) -> FrozenTeachers:
    """What the recipe's frozen teachers take; nothing where its method has none."""
    settings = teacher_settings(recipe.method)
    if not settings:
        return FrozenTeachers()
    pairs = len(recipe.data.pairs)
    versions = 1 if getattr(recipe.method, "teacher", "pair") == "overall" else pairs
    by_layers = settings[0].on_device == "layers"
    plan = None if by_layers else cache_plan(recipe, settings[0], stream, ranks)
    remembered = 0 if plan is None else min(plan.memory, plan.remembered() // ranks)
    return FrozenTeachers(
        versions=versions * len(settings),
        dtype_bytes=4 if settings[0].dtype == "float32" else HALF,
        shard_cap=int(sum(one.weights_gib for one in settings) * 2**30),
        remembered=remembered,
        at_once=len(settings),
        by_layers=by_layers,
    )
