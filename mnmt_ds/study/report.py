"""A study's results: the papers' tables over every run that is complete, as Markdown, CSV and one offline HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.files import write_text
from mnmt_ds.reporting import comparison, frontier, tables
from mnmt_ds.reporting.comparison import RunGroup
from mnmt_ds.reporting.gallery import pictures
from mnmt_ds.reporting.page import render
from mnmt_ds.reporting.runs import Run, read_run, student_directories
from mnmt_ds.reporting.tables import ComparedRuns
from mnmt_ds.study.plan import Study, StudyEntry
from mnmt_ds.study.scheduler import is_complete


def write_report(study: Study, failed: Mapping[Path, str]) -> Path | None:
    """Writes study.md, study.html and the CSV files into ``report/``.

    Args:
        study: the study.
        failed: reasons of the runs that failed, by directory.

    Returns:
        The report's directory; None where no run is complete.
    """
    settings, directory = study.settings, study.settings.directory / "report"
    done = [entry for entry in study.entries if is_complete(study, entry)]
    compared = [part for name in settings.settings or ("",) if (part := _compared(study, name, done)) is not None]
    if not compared:
        return None
    shown = tables.tables(compared)
    texts = [f"# {settings.title}", *(tables.markdown(table) for table in shown)]
    for part in compared:
        runs = [run for group in part.groups for run in group.runs]
        texts.append(f"## {part.name or 'Runs'}\n\n{comparison.markdown(part.groups, part.bootstraps, part.tests)}")
        texts.append(frontier.markdown(frontier.experiments(runs)))
        texts.append("\n".join(f"- `{line}`" for line in comparison.signatures(runs)))
    texts.append("\n".join(f"- {line}" for line in missing_runs(study, done, failed)))
    directory.mkdir(parents=True, exist_ok=True)
    for table in shown:
        tables.write_csv(table, directory)
    write_text(directory / "study.md", "\n\n".join(text for text in texts if text) + "\n")
    write_text(directory / "study.html", render(settings.title, compared, shown, "study", pictures([directory])))
    return directory


def missing_runs(study: Study, done: Sequence[StudyEntry], failed: Mapping[Path, str]) -> list[str]:
    """Says what the tables lack, and why.

    Args:
        study: the study.
        done: complete entries.
        failed: reasons of the runs that failed, by directory.

    Returns:
        A line for each entry that is not there.
    """
    there = {entry.directory for entry in done}
    return [
        f"{entry.name}: {'failed: ' + failed[entry.directory] if entry.directory in failed else 'not done yet'}"
        for entry in study.entries
        if entry.directory not in there
    ]


def _compared(study: Study, setting: str, done: Sequence[StudyEntry]) -> ComparedRuns | None:
    """A setting's groups (the baseline first), their differences, tests over seeds, and how they were scored."""
    base = study.baseline(setting)
    entries = sorted(
        (entry for entry in done if entry.setting == setting), key=lambda entry: _place(study, entry, base)
    )
    runs = [run for entry in entries for run in _runs(entry)]
    if not runs:
        return None
    groups = [
        RunGroup(label, tuple(run for run in runs if run.label == label))
        for label in dict.fromkeys(run.label for run in runs)
    ]
    score = ScoreSettings.model_validate({**(runs[0].report or {}).get("score", {}), "samples": study.settings.samples})
    return tables.compare_groups(groups, score, setting)


def _place(study: Study, entry: StudyEntry, base: str) -> tuple[bool, int, int]:
    """The baseline, then the rows as the study has them, each with its seeds."""
    return entry.row != base, list(study.settings.rows).index(entry.row), entry.seed


def _runs(entry: StudyEntry) -> list[Run]:
    """An entry as one run, or each of its students, named by its row."""
    runs = [read_run(place) for place in student_directories(entry.directory)]
    if runs[0].directory == entry.directory:
        return [runs[0]._replace(name=entry.row, label=entry.row)]
    return [run._replace(label=f"{entry.row}.{run.directory.name}") for run in runs]
