"""A study's results: the papers' tables over every run that is complete, as Markdown, CSV and one offline HTML page."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.reporting import comparison, frontier, tables
from mnmt_ds.reporting.comparison import RunGroup
from mnmt_ds.reporting.gallery import pictures
from mnmt_ds.reporting.page import render
from mnmt_ds.reporting.runs import Run, read_run, student_directories
from mnmt_ds.reporting.tables import ComparedRuns
from mnmt_ds.study.plan import Study, StudyEntry
from mnmt_ds.study.scheduler import complete


def write_report(study: Study, failed: Mapping[Path, str]) -> Path | None:
    """Writes study.md, study.html and the CSV files into ``report/``; None where no run is complete."""
    settings, directory = study.settings, study.settings.directory / "report"
    done = [entry for entry in study.entries if complete(study, entry)]
    found = [made for name in settings.settings or ("",) if (made := _part(study, name, done)) is not None]
    if not found:
        return None
    shown = tables.tables(found)
    texts = [f"# {settings.title}", *(tables.markdown(table) for table in shown)]
    for made in found:
        runs = [run for group in made.groups for run in group.runs]
        texts.append(f"## {made.name or 'Runs'}\n\n{comparison.markdown(made.groups, made.found, made.tests)}")
        texts.append(frontier.markdown(frontier.experiments(runs)))
        texts.append("\n".join(f"- `{line}`" for line in comparison.signatures(runs)))
    texts.append("\n".join(f"- {line}" for line in missing(study, done, failed)))
    directory.mkdir(parents=True, exist_ok=True)
    for table in shown:
        tables.write_csv(table, directory)
    _publish(directory / "study.md", "\n\n".join(text for text in texts if text) + "\n")
    _publish(directory / "study.html", render(settings.title, found, shown, "study", pictures([directory])))
    return directory


def missing(study: Study, done: Sequence[StudyEntry], failed: Mapping[Path, str]) -> list[str]:
    """What the tables lack, and why."""
    there = {entry.directory for entry in done}
    return [
        f"{entry.name}: {'failed: ' + failed[entry.directory] if entry.directory in failed else 'not done yet'}"
        for entry in study.entries
        if entry.directory not in there
    ]


def _part(study: Study, setting: str, done: Sequence[StudyEntry]) -> ComparedRuns | None:
    """A setting's groups (the baseline first), their differences, tests over seeds, and how they were scored."""
    base = study.baseline(setting)
    own = sorted((entry for entry in done if entry.setting == setting), key=lambda entry: _place(study, entry, base))
    runs = [run for entry in own for run in _runs(entry)]
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


def _publish(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
