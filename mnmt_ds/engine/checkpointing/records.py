"""What a student leaves behind: the weights of its best checkpoints, its part of a checkpoint, its records."""

from pathlib import Path
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.distributed import is_main, on_main_first
from mnmt_ds.engine.build import description
from mnmt_ds.engine.checkpointing import checkpoint, snapshots
from mnmt_ds.engine.students import student
from mnmt_ds.engine.students.student import Student
from mnmt_ds.methods.method import ValidationReport

Rows = dict[str, dict[str, float]]


def state_of(one: Student) -> dict[str, Any]:
    """What a checkpoint carries of a student besides DeepSpeed's files."""
    return {
        "position": list(one.walk.position),
        "trained": one.walk.trained,
        "losses": one.walk.losses,
        "sampler": one.walk.stream.sampler.state(),
        "last": one.last,
        "best": one.best.state(),
        "method": {name: part.state() for name, part in one.method.state.items()},
        "snapshots": sorted(snapshots_of(one)),
    }


def snapshots_of(one: Student) -> set[int]:
    """Updates whose weights a student refers to: best checkpoints and teachers."""
    wanted = one.best.snapshots(one.recipe.validation.keep_best_per_pair)
    wanted |= {one.last} if one.last is not None else set()
    return wanted.union(*(part.snapshots() for part in one.method.state.values()))


def sweep(run: Path, one: Student) -> None:
    """Removes the snapshots to which neither the student nor one of the run's checkpoints refers."""
    states = [checkpoint.part_of(checkpoint.read_state(path), one.name) for path in checkpoint.complete(run)]
    snapshots.sweep(one.directory, snapshots_of(one).union(*(state["snapshots"] for state in states)))


def keep_weights(corpus: Corpus, one: Student, report: ValidationReport, better: bool, improved: list[str]) -> None:
    """Keeps the present weights where a best checkpoint or a teacher is made of them."""
    if report.update in snapshots_of(one):
        _write_snapshot(corpus, one, {"epoch": report.epoch, "dev": report.dev})
    names = ["best"] if better else []
    names += [f"best_{pair}" for pair in improved] if one.recipe.validation.keep_best_per_pair else []
    for name in names if is_main() else ():
        snapshots.link(one.directory, name, report.update)


def keep_last(corpus: Corpus, one: Student) -> None:
    """Keeps the final weights as ``last``."""
    update = one.walk.position.update
    if update not in snapshots_of(one):
        _write_snapshot(corpus, one, {"epoch": float(one.walk.position.epoch)})
    one.last = update
    if is_main():
        snapshots.link(one.directory, "last", update)


def _write_snapshot(corpus: Corpus, one: Student, facts: dict[str, Any]) -> None:
    state, update = student.gather_weights(one.engine, everywhere=False), one.walk.position.update
    on_main_first(
        snapshots.write, one.directory, update, state, {**description(one.recipe, corpus), "update": update, **facts}
    )


def validation_record(one: Student, report: ValidationReport, found: Rows) -> dict[str, Any]:
    """Metric keys of a validation; of the sampler, what was in use until then."""
    best, walk = one.best, one.walk
    values: dict[str, Any] = {
        metric_keys.VALID_FIGURE.of(pair, key): v for pair, row in found.items() for key, v in row.items()
    }
    values[metric_keys.VALID_MACRO] = sum(report.dev.values()) / len(report.dev)
    values[metric_keys.VALID_MIN] = min(report.dev.values())
    values[metric_keys.VALID_BEST], values[metric_keys.VALID_BEST_UPDATE] = best.overall
    values[metric_keys.VALID_DEFICIT] = best.deficit()
    total = sum(walk.trained)
    for pair, share, n, size, (loss, tokens) in zip(
        walk.stream.pairs, walk.stream.sampler.probabilities, walk.trained, walk.stream.sizes, walk.losses, strict=True
    ):
        values[metric_keys.DATA_PROB.of(pair)] = share
        if tokens:
            values[metric_keys.DATA_LOSS.of(pair)] = loss / tokens
        values[metric_keys.DATA_SHARE.of(pair)] = n / total
        values[metric_keys.DATA_PASSES.of(pair)] = n / size
    return values


def method_record(one: Student, update: int) -> dict[str, float]:
    """Metric keys of what a student's method keeps: teachers, weights."""
    return {key: value for part in one.method.state.values() for key, value in part.report(update).items()}


def validation_line(one: Student, report: ValidationReport, values: dict[str, Any]) -> str:
    """The same for people."""
    best = one.best
    switched = [pair for pair in one.walk.stream.pairs if values.get(metric_keys.TEACHER_SWITCH.of(pair))]
    return (
        f"valid {report.update} | epoch {report.epoch:.2f} | dev {values[metric_keys.VALID_MACRO]:.4f}"
        f" (best {best.overall.value:.4f} at {best.overall.update}) | deficit {best.deficit():.4f}"
        + (f" | BLEU {values[metric_keys.VALID_AVG_BLEU]:.2f}" if metric_keys.VALID_AVG_BLEU in values else "")
        + (f" | taught: {' '.join(switched)}" if switched else "")
    )
