"""What happens at a validation: dev losses of every student, and all that follows from them, in this order.

1. dev losses of all students, of their averaged weights where ``train.ema_decay`` keeps some: up to 3.;
2. dev BLEU and chrF, where ``validation.bleu_every`` asks for them;
3. of each student: the bests, overall and of each pair; then the method's ``on_validation`` (teachers, switches); then
   the snapshot of its weights and the links to it;
4. the samplers' ``on_validation``;
5. the method's ``after_validation`` (searches of weights);
6. the record and its line in the log.

Patience (``Training.finished``) and checkpoints (``Training.save``) are asked for in loop.py. A checkpoint is written
before each validation; what the validation changes is put into it afterwards (``Training.replace_state``). A run that
is resumed in between validates first.
"""

import math
import time
from contextlib import ExitStack

from mnmt_ds.engine.checkpointing.fingerprint import model_description
from mnmt_ds.engine.monitoring.dev_scores import DevScores, dev_score_metrics, dev_scores
from mnmt_ds.engine.monitoring.meter import memory
from mnmt_ds.engine.monitoring.validation import PairValues, validate
from mnmt_ds.engine.parallel.weight_average import averaged_weights
from mnmt_ds.engine.students import records
from mnmt_ds.engine.students.student import Student
from mnmt_ds.engine.training import Training
from mnmt_ds.errors import RunError
from mnmt_ds.methods.method import ValidationReport


def validate_students(training: Training) -> None:
    """Validates all students and does what follows from their dev losses, in the order above.

    Bests, teachers and switches (paper 1, Algorithm 1, lines 12 to 20); then, once all dev losses are known, the
    students' distillation weights (paper 2, Algorithm 1, lines 7 to 9).

    Args:
        training: the run; all ranks of the job call this together.

    Raises:
        RunError: where a dev loss is not finite.
    """
    students = training.students
    with ExitStack() as validated:
        for student in students:
            validated.enter_context(averaged_weights(student.engine.average))
        values = [
            validate(student.engine, training.dev, training.pairs, training.plain_loss_function) for student in students
        ]
        watch = training.recipe.validation.watch
        watched = [
            validate(student.engine, training.watched_dev, watch, training.plain_loss_function)
            if training.watched_dev
            else {}
            for student in students
        ]
        scores = {}
        losses = _losses_of_all(training, values)
        reports = []
        for student in students:
            scores[student.name] = _dev_scores(training, student)
            reports.append(_report(training, student, losses, scores[student.name]))
        for student, report in zip(students, reports, strict=True):
            is_better, improved = student.best.update(report, scores[student.name])
            student.method.on_validation(report)
            records.keep_weights(training.corpus, student, report, is_better, improved)
    student_records = [
        records.validation_record(student, report, rows) | records.watched_record(watched_rows)
        for student, report, rows, watched_rows in zip(students, reports, values, watched, strict=True)
    ]
    for student, rows in zip(students, values, strict=True):
        training.sampler_updates.on_validation(student, rows)
    began = time.monotonic()
    for student, report in zip(students, reports, strict=True):
        student.method.after_validation(report)
    training.time_spent.search += time.monotonic() - began
    training.time_spent.measuring += training.peer_exchange.take_measuring_seconds()
    for student, report, record in zip(students, reports, student_records, strict=True):
        record |= records.method_record(student, report.update) | memory(training.layout)
        record |= dev_score_metrics(scores[student.name])
        record |= training.time_spent.report() if training.recipe.students else {}
        line = records.validation_line(student, report, record)
        training.run_log.log(student, "valid", training.update, training.progress, record, line)
    training.sync_progress()
    training.log_samplers()
    training.flush_log()


def _losses_of_all(training: Training, values: list[PairValues]) -> dict[str, dict[str, float]]:
    """Every student's dev loss of every pair, by name."""
    rank_losses = {
        student.name: {pair: rows[pair]["loss"] for pair in training.pairs}
        for student, rows in zip(training.students, values, strict=True)
    }
    return training.peer_group.merge(rank_losses)


def _report(
    training: Training, student: Student, losses: dict[str, dict[str, float]], scores: DevScores
) -> ValidationReport:
    others = {name: dev for name, dev in losses.items() if name != student.name}
    bleu = {pair: row["bleu"] for pair, row in scores.items()}
    report = ValidationReport(training.update, training.progress.epochs, losses[student.name], others, bleu)
    broken = [pair for pair, loss in report.dev.items() if not math.isfinite(loss)]
    if broken:
        raise RunError(
            f"update {training.update}: the dev loss of {', '.join(broken)} is not finite; remove"
            f" {training.directory}/checkpoints/step_{training.update} and resume from the one before with a lower"
            " train.lr",
            student.engine.layout.is_main,
        )
    return report


def _dev_scores(training: Training, student: Student) -> DevScores:
    """BLEU and chrF where this validation takes them; else nothing."""
    settings = training.recipe.validation
    number = math.ceil(training.update / settings.every) if settings.every else training.progress.epoch + 1
    is_due = bool(settings.bleu_every) and number % settings.bleu_every == 0
    if not is_due and (settings.select_by == "loss" or student.best.overall.is_set):
        return {}
    description = model_description(student.recipe, training.corpus)
    return dev_scores(student.engine, description, training.corpus, training.pairs, settings)
