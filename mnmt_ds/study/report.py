"""A study's results: the papers' tables over every run that is complete, as Markdown, CSV and one offline HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mnmt_ds.evaluation.scores import RESOURCE_CLASSES, ScoreSettings, resource_class
from mnmt_ds.files import write_together
from mnmt_ds.reporting.comparison import ComparedRuns, compare_groups, group_runs
from mnmt_ds.reporting.frontier import find_experiments, frontier_markdown
from mnmt_ds.reporting.gallery import read_pictures
from mnmt_ds.reporting.kept_bootstraps import BOOTSTRAPS, KeptBootstraps, read_bootstraps
from mnmt_ds.reporting.page import render_page
from mnmt_ds.reporting.runs import Run, read_run, student_directories
from mnmt_ds.reporting.summary import score_signatures, summary_markdown
from mnmt_ds.reporting.tables import all_tables, table_csv, table_markdown
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
    complete = [entry for entry in study.entries if is_complete(study, entry)]
    bootstraps = read_bootstraps(directory)
    comparisons = [
        compared_runs
        for name in settings.conditions or ("",)
        if (compared_runs := _compared(study, name, complete, bootstraps)) is not None
    ]
    if not comparisons:
        return None
    tables = all_tables(comparisons)
    texts = [f"# {settings.title}", *(table_markdown(table) for table in tables)]
    for compared_runs in comparisons:
        texts.append(f"## {compared_runs.name or 'Runs'}\n\n{summary_markdown(compared_runs)}")
        texts.append(resource_classes(compared_runs.sizes, compared_runs.score))
        texts.append(frontier_markdown(find_experiments(compared_runs.runs)))
        texts.append("\n".join(f"- `{line}`" for line in score_signatures(compared_runs.runs)))
    texts.append("\n".join(f"- {line}" for line in missing_runs(study, complete, failed)))
    write_together(
        {
            **{directory / f"{table.name}.csv": table_csv(table) for table in tables},
            directory / "study.md": "\n\n".join(text for text in texts if text) + "\n",
            directory / BOOTSTRAPS: bootstraps.text(),
            directory / "study.html": render_page(
                settings.title, comparisons, tables, "study", read_pictures([directory])
            ),
        }
    )
    return directory


def resource_classes(sizes: Mapping[str, int], score: ScoreSettings) -> str:
    """Assigns pairs their resource classes, and lists where the classes leave no Pareto frontier.

    Args:
        sizes: training sentences of each pair.
        score: the classes' bounds.

    Returns:
        One line of text; empty where the sizes are not known.
    """
    if not sizes:
        return ""
    members = {name: [p for p in sizes if resource_class(sizes[p], score) == name] for name in RESOURCE_CLASSES}
    bounds = {
        "high": f"high (from {score.high:,} training sentences)",
        "low": "low",
        "very low": f"very low (under {score.very_low:,})",
    }
    text = "Resource classes: " + "; ".join(f"{bounds[name]}: {', '.join(members[name]) or 'none'}" for name in members)
    if members["high"] and len(members["high"]) < len(sizes):
        return f"{text}."
    which = "every pair is" if members["high"] else "no pair is"
    return (
        f"{text}. **No Pareto frontier: {which} high-resource.** The pairs have {min(sizes.values()):,} to"
        f' {max(sizes.values()):,} training sentences; give a bound between, such as "--high N", in the study\'s'
        " `evaluate`."
    )


def missing_runs(study: Study, complete: Sequence[StudyEntry], failed: Mapping[Path, str]) -> list[str]:
    """Lists the runs that the tables lack, and why.

    Args:
        study: the study.
        complete: complete entries.
        failed: reasons of the runs that failed, by directory.

    Returns:
        A line for each entry that is not there.
    """
    there = {entry.directory for entry in complete}
    return [
        f"{entry.name}: {'failed: ' + failed[entry.directory] if entry.directory in failed else 'not done yet'}"
        for entry in study.entries
        if entry.directory not in there
    ]


def _compared(
    study: Study, condition: str, complete: Sequence[StudyEntry], bootstraps: KeptBootstraps
) -> ComparedRuns | None:
    """A condition's groups (the baseline first), their differences, tests over seeds, and how they were scored."""
    base = study.baseline(condition)
    entries = sorted(
        (entry for entry in complete if entry.condition == condition), key=lambda entry: _sort_key(study, entry, base)
    )
    runs = [run for entry in entries for run in _runs(entry)]
    if not runs:
        return None
    score = ScoreSettings.model_validate({**(runs[0].report or {}).get("score", {}), "samples": study.settings.samples})
    return compare_groups(group_runs(runs), score, condition, bootstraps)


def _sort_key(study: Study, entry: StudyEntry, base: str) -> tuple[bool, int, int]:
    """Sorts the baseline first, then the rows as the study has them, each with its seeds."""
    return entry.row != base, list(study.settings.rows).index(entry.row), entry.seed


def _runs(entry: StudyEntry) -> list[Run]:
    """An entry as one run, or each of its students, named by its row."""
    runs = [read_run(directory) for directory in student_directories(entry.directory)]
    if runs[0].directory == entry.directory:
        return [runs[0]._replace(name=entry.row, label=entry.row)]
    return [run._replace(label=f"{entry.row}.{run.directory.name}") for run in runs]
