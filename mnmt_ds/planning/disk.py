"""Bytes of a run on disk: checkpoints, the models that it keeps, shards of teachers beyond memory."""

from typing import NamedTuple

from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.planning.activations import FP32_BYTES
from mnmt_ds.planning.memory import FrozenTeachers, PlannedLayout, PlannedStudents


class DiskUse(NamedTuple):
    """Bytes that a run takes on disk at most, by what takes them."""

    checkpoints: int
    """Those that stay, and one that is being written."""
    snapshots: int
    """Distinct models behind best, best_<pair> and last, which are LSSD's teachers, too: of all students."""
    distinct: int
    """How many models that is."""
    teacher_shards: int
    """Files of each rank with shards of teachers that its memory does not hold."""
    frozen: int = 0
    """What is not trained, once for each student."""


def disk_use(
    recipe: Recipe, parameters: int, layout: PlannedLayout, students: PlannedStudents, teachers: FrozenTeachers,
    rank_parameters: int, frozen: int = 0,
) -> DiskUse:  # fmt: skip
    """Counts a run's bytes on disk.

    Args:
        recipe: the recipe.
        parameters: of one student, those that are trained.
        layout: how students are laid out over ranks.
        students: how many there are.
        teachers: frozen teachers.
        rank_parameters: of these on the rank that has most.
        frozen: parameters of a student that are not trained.

    Returns:
        Bytes at most.
    """
    has_masters = layout.zero_stage > 0 or layout.precision != "fp32"
    state = layout.element_bytes + ((3 if has_masters else 2) + layout.weight_average) * FP32_BYTES
    names_of_pairs = len(recipe.data.pairs) if recipe.validation.keep_best_per_pair else 0
    names_of_pairs = min(names_of_pairs, recipe.validation.max_best_versions or names_of_pairs)
    distinct = students.number * (max(names_of_pairs, teachers.versions) + 2)
    shards = teachers.versions * teachers.dtype_bytes * rank_parameters // layout.data_parallel_size
    students_here = students.number // layout.teams
    return DiskUse(
        checkpoints=(recipe.train.keep_checkpoints + 1) * students.number * state * parameters,
        snapshots=distinct * layout.element_bytes * parameters,
        distinct=distinct,
        teacher_shards=students_here * max(0, shards - teachers.max_shard_bytes),
        frozen=students.number * layout.element_bytes * frozen,
    )
