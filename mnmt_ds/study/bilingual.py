"""Models of single pairs as one run: what ``compare`` and other methods read of BILINGUAL.

``pairs/<pair>`` are the runs. Beside them stand one evaluation of all pairs, one validation (each pair at its model's
own best), and ``best_<pair>``, a link to that pair's model: what MULTI-DISTILL's ``experts`` asks for.

Shape letters: V validations of a run.
"""

import contextlib
from pathlib import Path
from typing import Any

from mnmt_ds import metric_keys, record_lines
from mnmt_ds.config import dump
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation import scores
from mnmt_ds.evaluation.report import read_lines, read_report, report_path, write_lines, write_report
from mnmt_ds.files import replace_link, write_text
from mnmt_ds.reporting.runs import Run, read_run
from mnmt_ds.run_files import METRICS, write_recipe
from mnmt_ds.study import run_state
from mnmt_ds.study.plan import StudyEntry


def merge_pair_runs(entry: StudyEntry) -> None:
    """Merges an entry's runs of single pairs.

    The mark comes last, so that a crash between leaves it to be done again.

    Args:
        entry: a row with ``per_pair: true``, all of whose runs are trained and evaluated.
    """
    run_state.clear_mark(entry.directory)
    runs = {job.directory.name: read_run(job.directory) for job in entry.jobs}
    directory = entry.directory
    whole = entry.jobs[0].recipe
    data = whole.data.model_copy(update={"pairs": tuple(runs)})
    write_recipe(directory, dump(whole.model_copy(update={"directory": directory, "data": data})))
    records = [{"kind": "run", "update": 0, "epoch": 0.0, "time": 0.0}, _train(runs), _validation(runs)]
    write_text(directory / METRICS, record_lines.write_lines(records))
    for pair in runs:
        replace_link(directory / f"best_{pair}", Path("pairs") / pair / "best")
    _evaluation(directory, runs)
    run_state.write_mark(directory, gathered=_sources(entry))


def is_merged(entry: StudyEntry) -> bool:
    """Returns whether ``merge_pair_runs`` was done, of just these evaluations.

    Args:
        entry: a row with ``per_pair: true``.

    Returns:
        True where nothing is left to do.
    """
    return run_state.read_mark(entry.directory).get("gathered") == _sources(entry)


def _sources(entry: StudyEntry) -> dict[str, Any]:
    """Of which models the evaluations are, and how each was made."""
    facts = ("model", "data_hash", "search", "dtype", "score")
    paths = {job.directory.name: report_path(job.directory, "best", "test") for job in entry.jobs}
    reports = {pair: _readable_report(path) for pair, path in paths.items()}
    return {pair: {fact: report.get(fact) for fact in facts} for pair, report in reports.items()}


def _readable_report(path: Path) -> dict[str, Any]:
    """A report; empty where there is none that can be read, of which putting the runs together complains."""
    with contextlib.suppress(UserError):
        return read_report(path) if path.exists() else {}
    return {}


def _validation(runs: dict[str, Run]) -> dict[str, Any]:
    """One validation: each pair's dev loss at its own model's best; there is no deficit."""
    dev_losses = {pair: float(run.dev_losses[pair][run.best_validation]) for pair, run in runs.items()}
    epoch = sum(float(run.epoch_V[run.best_validation]) for run in runs.values()) / len(runs)
    values: dict[str, Any] = {metric_keys.VALID_LOSS.of(pair): dev for pair, dev in dev_losses.items()}
    for pair, run in runs.items():
        metrics = run.pair_metrics[pair]
        values |= {metric_keys.DATA_PASSES.of(pair): float(metrics["passes"][-1])} if metrics else {}
    values |= {metric_keys.VALID_MACRO: sum(dev_losses.values()) / len(dev_losses), metric_keys.VALID_DEFICIT: 0.0}
    seconds, memory = sum(run.seconds for run in runs.values()), max(run.memory_gb for run in runs.values())
    return {
        "kind": "valid",
        "update": 1,
        "epoch": epoch,
        "time": seconds,
        metric_keys.MEMORY_CPU: memory * 1e9,
        **values,
    }


def _train(runs: dict[str, Run]) -> dict[str, Any]:
    """One training report: the mean speed over all runs."""
    speeds = [run.tokens_per_sec for run in runs.values()]
    return {"kind": "train", "update": 1, "epoch": 0.0, "time": 0.0,
            metric_keys.TOKENS_PER_SEC: sum(speeds) / len(speeds)}  # fmt: skip


def _evaluation(directory: Path, runs: dict[str, Run]) -> None:
    """The pairs' reports and translations as one."""
    path = report_path(directory, "best", "test")
    reports = {pair: read_report(report_path(run.directory, "best", "test")) for pair, run in runs.items()}
    for kind in ("src", "ref", "hyp"):
        texts = {pair: read_lines(report_path(run.directory, "best", "test").with_suffix(""), kind)[pair]
                 for pair, run in runs.items()}  # fmt: skip
        write_lines(path.with_suffix(""), kind, texts)
    decoding = {pair: {key: report[key] for key in ("search", "dtype")} for pair, report in reports.items()}
    pairs = {pair: {**report["pairs"][pair], **decoding[pair]} for pair, report in reports.items()}
    whole = {
        "seconds": sum(report["seconds"] for report in reports.values()),
        "pairs": pairs,
        "macro": scores.macro_averages(pairs, scores.AVERAGED),
        "classes": scores.class_averages(pairs),
    }
    first = next(iter(reports.values()))
    names = ("checkpoint", "split", "data_hash", "search", "dtype", "tokenizer_hash", "score")
    shared = {name: first[name] for name in names}
    write_report(path, {**shared, "model": None, "update": None, **whole})
