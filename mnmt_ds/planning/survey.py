"""What a recipe's data are to its model: shapes of micro-batches, passes over each pair, teachers and their states."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mnmt_ds.data.batching import EpochPlan
from mnmt_ds.engine.dataloading.data_iterator import DataIterator
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.engine.settings import batches_per_update
from mnmt_ds.engine.students.weight_search import DataPosition, UpdateRange, most_state_bytes, next_updates
from mnmt_ds.engine.teacher_setup import cache_plan
from mnmt_ds.methods import registry
from mnmt_ds.methods.peers import TrialSettings
from mnmt_ds.planning.activations import FP32_BYTES, BatchShape
from mnmt_ds.planning.memory import HALF_BYTES, FrozenTeachers, PlannedLayout, PlannedStudents


class Survey(NamedTuple):
    """Sizes of a student's training data: the micro-batches of its first epoch, and the budget of the whole run."""

    shapes: list[BatchShape]
    """Distinct micro-batches of the first epoch, none of which is smaller in every way than another."""
    updates: int
    """Updates of an epoch."""
    max_updates: int
    """Updates of the whole run, at most."""
    tokens: int
    """Target tokens of an epoch."""
    passes: dict[str, float]
    """How often the whole run passes over each pair's training set, at most."""
    sizes: dict[str, int]
    """Usable training sentences of each pair."""


def survey(recipe: Recipe, training_data: TrainingData, data_parallel_size: int) -> Survey:
    """Surveys a student's training data; reads lengths alone.

    Args:
        recipe: the recipe.
        training_data: its training data.
        data_parallel_size: ranks with data of their own.

    Returns:
        What the run will see.
    """
    plan = training_data.plan(0)._replace(batches_per_update=batches_per_update(recipe.train, data_parallel_size))
    updates_by_epochs = recipe.train.max_epochs * plan.updates
    max_updates = min(recipe.train.max_steps or updates_by_epochs, updates_by_epochs)
    epochs = max_updates / plan.updates
    pairs, counts, sizes = training_data.pairs, training_data.counts, training_data.sizes
    passes = {pair: epochs * count / size for pair, count, size in zip(pairs, counts, sizes, strict=True)}
    return Survey(
        shapes=largest_shapes(shapes_of(training_data, plan)),
        updates=plan.updates,
        max_updates=max_updates,
        tokens=int(plan.tokens.sum()),
        passes=passes,
        sizes=dict(zip(pairs, sizes, strict=True)),
    )


def shapes_of(training_data: TrainingData, plan: EpochPlan) -> list[BatchShape]:
    """Lists the shapes of a plan's micro-batches. A task on monolingual text pads to the same budget: it is left out.

    Args:
        training_data: the training data.
        plan: micro-batches of it.

    Returns:
        BatchShape of each micro-batch of a pair.
    """
    source = [np.zeros(len(split), np.int64) for split in training_data.splits]
    target = [np.zeros(len(split), np.int64) for split in training_data.splits]
    for pair_source, pair_target, lengths in zip(source, target, training_data.lengths, strict=True):
        pair_source[lengths.sentence], pair_target[lengths.sentence] = lengths.source, lengths.target
    shapes = []
    for k, pair in enumerate(plan.pair):
        rows = plan.sentences_of(k)
        if pair < len(source):
            shapes.append(BatchShape(len(rows), int(source[pair][rows].max()), int(target[pair][rows].max())))
    return shapes


def largest_shapes(shapes: list[BatchShape]) -> list[BatchShape]:
    """Removes the shapes that fit within another: with fewer sentences, source tokens and target tokens alike.

    Args:
        shapes: shapes of micro-batches.

    Returns:
        Those of which any may take most memory, largest first.
    """
    largest: list[BatchShape] = []
    for x in sorted(set(shapes), key=lambda s: -(s.source_tokens + s.target_tokens)):
        if not any(_is_within(x, y) for y in largest):
            largest.append(x)
    return largest


def _is_within(x: BatchShape, y: BatchShape) -> bool:
    return (
        x.sentences <= y.sentences
        and x.source_tokens <= y.source_tokens
        and x.target_tokens <= y.target_tokens
        and x.sentences * x.source**2 <= y.sentences * y.source**2
    )


def micro_batches_per_rank(recipe: Recipe, layout: PlannedLayout) -> int:
    """Counts the micro-batches of an update on each rank with data of its own.

    Args:
        recipe: the recipe.
        layout: how students are laid out over ranks.

    Returns:
        Micro-batches.
    """
    return batches_per_update(recipe.train, layout.data_parallel_size) // layout.data_parallel_size


def student_passes(recipe: Recipe) -> int:
    """Computes how often the student passes over each micro-batch.

    Args:
        recipe: the recipe.

    Returns:
        K, the greatest that the recipe's method or one inside it declares.
    """
    return registry.requirements(recipe.method).passes


def planned_students(
    recipe: Recipe, training_data: TrainingData, layout: PlannedLayout, shapes: Sequence[BatchShape]
) -> PlannedStudents:
    """Counts the recipe's students, and what they send one another where its method needs peers.

    Args:
        recipe: the recipe.
        training_data: a student's training data.
        layout: how students are laid out over ranks.
        shapes: micro-batches.

    Returns:
        Students, and the bytes of their states.
    """
    count = len(students_of(recipe))
    needs, trials = registry.requirements(recipe.method), registry.trial_settings(recipe.method)
    if not needs.peers:
        return PlannedStudents(count, simultaneous=recipe.simultaneous)
    state_bytes, peers = recipe.model.d_model * layout.element_bytes, count - 1
    held_batches = micro_batches_per_rank(recipe, layout) * (2 if layout.teams > 1 else 1)  # split, as many are sent
    cached_states, copies_state = 0, False
    if trials is not None and (needs.weight_search or needs.extra_updates):
        trial_updates = trial_set(training_data, trials)
        cache_bytes = trials.cache_gib * 2**30 * layout.data_parallel_size
        if peers * most_state_bytes(trial_updates, recipe, layout.element_bytes) <= cache_bytes:
            trial_shapes = [
                shape
                for updates in trial_updates
                for shape in shapes_of(training_data, updates.plan)[micro_batch_slice(updates)]
            ]
            positions = sum(shape.target_tokens for shape in trial_shapes)
            cached_states = peers * state_bytes * positions // layout.data_parallel_size
        copies_state = needs.weight_search and trials.after == "restore"
    return PlannedStudents(
        number=count,
        peers=peers,
        peer_states=held_batches * peers * state_bytes * max(shape.target_tokens for shape in shapes),
        cached_states=cached_states,
        weight_search=copies_state,
        simultaneous=recipe.simultaneous,
    )


def eval_state_bytes(recipe: Recipe, layout: PlannedLayout, shapes: Sequence[BatchShape]) -> int:
    """Counts a student's states in eval mode of an update's micro-batches, which a gate along stages needs at most.

    Args:
        recipe: the recipe.
        layout: how students are laid out over ranks.
        shapes: micro-batches.

    Returns:
        Bytes; 0 where no method needs them.
    """
    if not registry.requirements(recipe.method).eval_states:
        return 0
    positions = max(shape.target_tokens for shape in shapes)
    return micro_batches_per_rank(recipe, layout) * positions * recipe.model.d_model * layout.element_bytes


def trial_set(training_data: TrainingData, settings: TrialSettings) -> list[UpdateRange]:
    """Finds what a student's first search trains on.

    Args:
        training_data: the student's training data.
        settings: how large the trial set is, and where it comes from.

    Returns:
        Updates of one plan or two.
    """
    if settings.data == "sample":
        plan = training_data.plan_sample(settings.rho, "trial")
        return [UpdateRange(training_data, plan, 0, plan.updates)]
    iterator = DataIterator(training_data)
    position = DataPosition(iterator.position, iterator.trained, training_data.sampler.probabilities)
    return next_updates(training_data, position, settings.rho)


def micro_batch_slice(updates: UpdateRange) -> slice:
    """Finds the micro-batches of a range of updates in its plan.

    Args:
        updates: the range.

    Returns:
        Their places among the plan's micro-batches.
    """
    size = updates.plan.batches_per_update
    return slice(updates.first * size, (updates.first + updates.updates) * size)


def frozen_teachers(recipe: Recipe, training_data: TrainingData, data_parallel_size: int) -> FrozenTeachers:
    """Computes the sizes of the recipe's frozen teachers.

    Args:
        recipe: the recipe.
        training_data: a student's training data.
        data_parallel_size: a student's ranks with data of their own.

    Returns:
        Teachers and their bytes; nothing where its method has none.
    """
    settings = registry.teacher_settings(recipe.method)
    if not settings:
        return FrozenTeachers()
    needs = [registry.entry_of(section).requires(section) for section in registry.all_sections(recipe.method)]
    pairs = len(recipe.data.pairs)
    bests = min(pairs, recipe.validation.max_best_versions or pairs)
    versions = sum(
        1 if requirements.shared_teacher else bests if requirements.pair_bests else pairs
        for requirements in needs
        if requirements.teachers
    )
    layer_streaming = settings[0].on_device == "layers"
    plan = None if layer_streaming else cache_plan(recipe, settings[0], training_data, data_parallel_size)
    cached_states = 0 if plan is None else min(plan.memory_bytes, plan.cached_bytes() // data_parallel_size)
    return FrozenTeachers(
        versions=versions,
        dtype_bytes=FP32_BYTES if settings[0].dtype == "float32" else HALF_BYTES,
        max_shard_bytes=int(sum(section.weights_gib for section in settings) * 2**30),
        cached_states=cached_states,
        per_batch=len(settings),
        layer_streaming=layer_streaming,
    )
