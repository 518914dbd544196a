"""What a student leaves behind: the weights of its best checkpoints, its part of a checkpoint, its records."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mnmt_ds import metric_keys
from mnmt_ds.best_values import DevMetric
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.checkpointing import checkpoint, snapshots
from mnmt_ds.engine.checkpointing.best_checkpoints import OVERALL
from mnmt_ds.engine.checkpointing.fingerprint import model_description
from mnmt_ds.engine.checkpointing.resume_changes import CheckpointOrigin
from mnmt_ds.engine.dataloading.data_iterator import position_from_updates
from mnmt_ds.engine.dataloading.position import position_of
from mnmt_ds.engine.monitoring.validation import PairValues
from mnmt_ds.engine.parallel.weight_average import averaged_weights
from mnmt_ds.engine.students.student import Student
from mnmt_ds.methods.method import DevMetricState, ValidationReport
from mnmt_ds.models.frozen import is_frozen
from mnmt_ds.models.pretrained import expected_shapes
from mnmt_ds.version_limit import Moved


def state_of(student: Student) -> dict[str, Any]:
    """Collects what a checkpoint holds of a student besides DeepSpeed's files.

    Args:
        student: between two updates.

    Returns:
        JSON values; "records" counts those of its log.
    """
    data_iterator = student.data_iterator
    frozen = {"frozen": student.frozen} if student.frozen else {}
    return frozen | {
        "position": data_iterator.position.values(),
        "trained": data_iterator.trained,
        "losses": data_iterator.losses,
        "sampler": student.sampler.state(),
        "last": student.last,
        "best": student.best.state(),
        "method": {name: stateful.state() for name, stateful in student.method.state.items()},
        "snapshots": sorted(_snapshots_in_use(student)),
        "records": student.tracker.records,
    }


def restore_state(
    student: Student, state: dict[str, Any], written: CheckpointOrigin, anew: Collection[DevMetric] = ()
) -> None:
    """Restores a student's state from a checkpoint whose DeepSpeed files are already loaded.

    Args:
        student: just built.
        state: of ``state_of``.
        written: the run that wrote it.
        anew: what is measured otherwise from here on.
    """
    data_iterator, position = student.data_iterator, state["position"]
    if isinstance(position, list):  # version 0.1.0
        training_data, denoising = data_iterator.training_data, written.recipe.denoising
        data_iterator.start(position_from_updates(position, training_data, written.cut, denoising))
    else:
        data_iterator.start(position_of(position))
    data_iterator.trained, student.last = list(state["trained"]), state["last"]
    data_iterator.losses = [list(sums) for sums in state.get("losses", data_iterator.losses)]
    if "sampler" in state:  # checkpoints from before there were dynamic samplers have none
        student.sampler.restore(state["sampler"])
    student.best.restore(state["best"])
    if student.recipe.validation.keep_best_per_pair > written.recipe.validation.keep_best_per_pair:
        student.best.forget_weights_of_pairs()
    for name, stateful in student.method.state.items():
        stateful.restore(state["method"][name])
    for metric in anew:
        _begin_anew(student, metric)


def _begin_anew(student: Student, metric: DevMetric) -> None:
    """What is measured otherwise has no former value that a later one could be compared with."""
    if metric is not DevMetric.DEV_BLEU or student.recipe.validation.select_by != "loss":
        student.best.begin_anew(pairs=metric is DevMetric.DEV_LOSS)
    if metric is DevMetric.DEV_LOSS:
        student.data_iterator.losses = [[0.0, 0.0] for _ in student.data_iterator.losses]
        student.sampler.on_new_metric()
    for stateful in student.method.state.values():
        if isinstance(stateful, DevMetricState) and metric in stateful.dev_metrics:
            stateful.begin_anew()


def restore_links(student: Student) -> None:
    """Points ``best``, ``best_<pair>`` and ``last`` at what the student's state says; a killed run may have been ahead.

    Args:
        student: restored from a checkpoint.
    """
    best = student.best
    updates = {"best": best.overall.update} if best.overall.is_set else {}
    if student.recipe.validation.keep_best_per_pair:
        updates |= {f"best_{pair}": value.update for pair, value in best.pair.items() if value.is_set}
    updates |= {"last": student.last} if student.last is not None else {}
    student.engine.layout.ranks.on_main_first(snapshots.restore_links, student.directory, updates)


def snapshots_of(student: Student) -> set[int]:
    """Lists the updates whose weights a student refers to: best checkpoints, teachers, the last one.

    Args:
        student: at any time.

    Returns:
        Updates.
    """
    return _snapshots_in_use(student) | ({student.last} if student.last is not None else set())


def _snapshots_in_use(student: Student) -> set[int]:
    """Those of best checkpoints and teachers."""
    in_use = student.best.snapshots(student.recipe.validation.keep_best_per_pair)
    return in_use.union(*(stateful.snapshots() for stateful in student.method.state.values()))


def remove_unused_snapshots(run: Path, student: Student) -> None:
    """Removes the snapshots to which neither the student nor one of the run's checkpoints refers.

    Args:
        run: the run's directory.
        student: whose snapshots.
    """
    states = [checkpoint.student_state(state, student.name) for state in checkpoint.readable_states(run)]
    in_use = snapshots_of(student).union(*([*state["snapshots"], state["last"]] for state in states))
    snapshots.remove_others(student.directory, in_use)


def keep_weights(
    corpus: Corpus, student: Student, report: ValidationReport, is_better: bool, improved: list[str]
) -> None:
    """Keeps the present weights where a best checkpoint or a teacher is made of them.

    Args:
        corpus: that the student is trained on.
        student: all of its ranks call this together.
        report: of the validation.
        is_better: the overall best is new.
        improved: pairs whose best is new.
    """
    if report.update in snapshots_of(student):
        _write_snapshot(corpus, student, {"epoch": report.epoch, "dev": report.dev})
    links = dict.fromkeys(["best"] if is_better else [], report.update)
    if student.recipe.validation.keep_best_per_pair:
        links |= {f"best_{pair}": report.update for pair in improved}
        links |= {f"best_{move.pair}": move.update for move in student.best.moved}
    student.engine.layout.ranks.on_main_first(snapshots.link, student.directory, links)
    if student.best.moved:
        student.tracker.info(given_up_line(report.update, student.best.moved))


def given_up_line(update: int, moved: Sequence[Moved]) -> str:
    """Says which models are given up, since pairs' bests are too many.

    Args:
        update: of the validation.
        moved: pairs whose best was given up, at least one.

    Returns:
        A line for the log.
    """
    given_up, worst = sorted({move.given_up for move in moved}), max(moved, key=lambda move: move.rise)
    others = sorted({move.update for move in moved})
    return (
        f"validation {update}: validation.max_best_versions gives up the model(s) of update(s)"
        f" {', '.join(map(str, given_up))}; the bests of {len(moved)} pair(s) are now those of"
        f" {', '.join(map(str, others))}, dev loss {worst.rise:+.4f} at most ({worst.pair})"
    )


def keep_last(corpus: Corpus, student: Student) -> None:
    """Keeps the final weights, averaged where an average is kept, as ``last``.

    Args:
        corpus: that the student is trained on.
        student: all of its ranks call this together.
    """
    if student.updates not in snapshots_of(student):
        with averaged_weights(student.engine.average):
            _write_snapshot(corpus, student, {"epoch": float(student.data_iterator.epoch)})
    student.last = student.updates
    student.engine.layout.ranks.on_main_first(snapshots.link, student.directory, {"last": student.updates})


def keep_averages(student: Student, replace: bool = True) -> None:
    """Averages the weights of the best checkpoints, as ``validation.average_k`` says, into model directories.

    Args:
        student: all of its ranks call this together.
        replace: also those that are there already.
    """
    names = {
        "average" if name == OVERALL else f"average_{name}": values for name, values in student.best.lowest.items()
    }
    if not student.recipe.validation.keep_best_per_pair:
        names = {name: values for name, values in names.items() if name == "average"}
    updates = {name: [best.update for best in values] for name, values in names.items()}
    student.engine.layout.ranks.on_main_first(snapshots.average, student.directory, updates, replace)


def _write_snapshot(corpus: Corpus, student: Student, facts: dict[str, Any]) -> None:
    update, names = student.updates, None
    description = {**model_description(student.recipe, corpus), "update": update, **facts}
    if student.frozen:
        model = student.recipe.model
        names = [name for name in expected_shapes(model, corpus.tokenizer.size) if not is_frozen(model, name)]
        description["frozen"] = student.frozen
    weights = student.engine.gather_weights(everywhere=False, names=names)
    student.engine.layout.ranks.on_main_first(snapshots.write, student.directory, update, weights, description)


def validation_record(student: Student, report: ValidationReport, values: PairValues) -> dict[str, Any]:
    """Collects the metrics of a validation; the sampler's are those in use until then.

    Args:
        student: who was validated.
        report: of the validation.
        values: dev figures of every pair.

    Returns:
        Values by metric key.
    """
    best, data_iterator, training_data = student.best, student.data_iterator, student.training_data
    record: dict[str, Any] = {
        metric_keys.VALID_FIGURE.of(pair, key): value for pair, row in values.items() for key, value in row.items()
    }
    record[metric_keys.VALID_MACRO] = sum(report.dev.values()) / len(report.dev)
    record[metric_keys.VALID_MIN] = min(report.dev.values())
    if best.dev_at_overall:
        record[metric_keys.VALID_BEST] = best.overall_loss(best.dev_at_overall)
        record[metric_keys.VALID_BEST_UPDATE] = best.overall.update
    record[metric_keys.VALID_DEFICIT] = best.deficit()
    total = sum(data_iterator.trained)
    for pair, probability, trained, size, (loss, tokens) in zip(
        training_data.pairs, student.sampler.probabilities, data_iterator.trained, training_data.sizes,
        data_iterator.losses, strict=True,
    ):  # fmt: skip
        record[metric_keys.DATA_PROB.of(pair)] = probability
        if tokens:
            record[metric_keys.DATA_LOSS.of(pair)] = loss / tokens
        record[metric_keys.DATA_SHARE.of(pair)] = trained / total
        record[metric_keys.DATA_PASSES.of(pair)] = trained / size
    return record


def watched_record(values: PairValues) -> dict[str, float]:
    """Collects the metrics of pairs that are validated and not trained on.

    Args:
        values: dev figures of each; empty where none is watched.

    Returns:
        Values by metric key.
    """
    if not values:
        return {}
    record = {metric_keys.WATCH_FIGURE.of(pair, key): v for pair, row in values.items() for key, v in row.items()}
    return record | {metric_keys.WATCH_MACRO: sum(row["loss"] for row in values.values()) / len(values)}


def method_record(student: Student, update: int) -> dict[str, float]:
    """Collects the metrics of a student's method: its teachers, its weights.

    Args:
        student: whose method.
        update: at which.

    Returns:
        Values by metric key.
    """
    return {key: value for stateful in student.method.state.values() for key, value in stateful.report(update).items()}


def validation_line(student: Student, report: ValidationReport, record: dict[str, Any]) -> str:
    """Formats a validation as one line.

    Args:
        student: who was validated.
        report: of the validation.
        record: its metrics.

    Returns:
        For the log.
    """
    best = student.best
    taught = [pair for pair in student.training_data.pairs if record.get(metric_keys.TEACHER_SWITCH.of(pair))]
    bleu, ceiling = (record.get(key) for key in (metric_keys.VALID_AVG_BLEU, metric_keys.VALID_AVG_BLEU_CEILING))
    worst, lowest = max(report.dev, key=report.dev.__getitem__), min(report.dev, key=report.dev.__getitem__)
    ends = f" | worst {worst} {report.dev[worst]:.3f}, best {lowest} {report.dev[lowest]:.3f}"
    return (
        f"valid {report.update} | epoch {report.epoch:.2f} | dev {record[metric_keys.VALID_MACRO]:.4f}"
        f" ({best.selected()}) | deficit {best.deficit():.4f}"
        + (ends if len(report.dev) > 1 else "")
        + (f" | watched {record[metric_keys.WATCH_MACRO]:.4f}" if metric_keys.WATCH_MACRO in record else "")
        + (f" | BLEU {bleu:.2f} (ceiling {ceiling:.2f})" if bleu is not None else "")
        + (f" | taught: {' '.join(taught)}" if taught else "")
    )
