"""Run a study: rows x seeds x conditions of recipes, several at a time, then evaluation and the papers' tables.

Safe to stop and to start again: what is finished is passed over, what was cut off goes on from its last checkpoint.
A run that fails is reported and holds up only what needs it.
"""

import argparse
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnmt_ds.cli.printing import PrintAction
from mnmt_ds.config.paths import path_option

if TYPE_CHECKING:
    from mnmt_ds.study.plan import Study, StudyEntry

LOG = logging.getLogger(__name__)
HELP = "train, evaluate and tabulate a grid of methods, seeds and conditions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import number_option

    parser.add_argument("study", type=path_option, help="YAML file of the study")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="recipe settings for all runs, after the rows'"
    )
    parser.add_argument(
        "-j",
        "--jobs",
        type=number_option(int, ge=1),
        default=1,
        metavar="N",
        help="runs at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--max-epochs", type=number_option(int, ge=1), metavar="N", help="the cap of every row, instead of the study's"
    )
    parser.add_argument("--max-updates", type=number_option(int, ge=0), metavar="N", help="the same in updates")
    parser.add_argument("--seeds", help="1,2,3: of every row (default: as the study says)")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows, and what they need")
    parser.add_argument("--conditions", nargs="+", metavar="NAME", help="these of the study's conditions alone")
    parser.add_argument("--directory", type=path_option, help="for runs and report, instead of the study's")
    parser.add_argument("--dry-run", action="store_true", help="print the grid with the state of every run, do nothing")
    parser.add_argument("--report", action="store_true", help="train nothing; tables of what is complete")
    parser.add_argument(
        "--help-study", action=PrintAction, make=_help_study, nargs="?", const="", metavar="SECTION",
        help="print all settings of a study with their meanings as YAML, or those of a section, and stop",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Runs the study; 0 where all is complete, 1 where a run failed.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.
    """
    from mnmt_ds.errors import UserError
    from mnmt_ds.files import lock
    from mnmt_ds.study import run_state
    from mnmt_ds.study.plan import read_study
    from mnmt_ds.study.report import missing_runs, write_report
    from mnmt_ds.study.scheduler import is_complete, run_all

    study = read_study(args.study, _study_overrides(args), args.overrides)
    entries = select_entries(study, args.only, args.conditions)
    if args.dry_run:
        print("\n".join(grid_lines(study, entries)))
        return 0
    failed: dict[Path, str] = {}
    study.settings.directory.mkdir(parents=True, exist_ok=True)
    try:
        held = lock(study.settings.directory / "lock")
    except BlockingIOError:
        raise UserError(f"{study.settings.directory}: another study is at work here; wait for it") from None
    with held:
        if not args.report:
            for job in (job for entry in entries if not is_complete(study, entry) for job in entry.jobs):
                if not run_state.is_trained(job):
                    run_state.check_same_run(job)
            signal.signal(signal.SIGTERM, _stop)
            try:
                _prepare(study, entries)
                failed = run_all(study, entries, args.jobs, LOG.info, _devices())
            except KeyboardInterrupt:
                LOG.info("stopped; the same command goes on")
                return 130
        written = write_report(study, failed)
        complete_entries = [entry for entry in study.entries if is_complete(study, entry)]
        if written is not None:
            print((written / "study.md").read_text(encoding="utf-8"))
            if not args.report and (commands := runnable_post_commands(study, entries, complete_entries, written)):
                failed |= run_post_commands(commands)
                write_report(study, failed)  # once more, with the pictures that were drawn
            print(f"written: {written / 'study.html'}")
        else:
            print("\n".join(missing_runs(study, complete_entries, failed)))
    return 1 if failed else 0


def _help_study(section: str) -> str:
    """The YAML of a section of a study; of the whole where none is named."""
    from mnmt_ds.config.help_text import help_yaml
    from mnmt_ds.study.settings import StudySettings

    return help_yaml(StudySettings, section, noun="study")


def select_entries(study: "Study", rows: Sequence[str] | None, conditions: Sequence[str] | None) -> "list[StudyEntry]":
    """Picks the entries of some rows and conditions, and those that they need.

    Args:
        study: the study.
        rows: names of rows; None: all.
        conditions: names of the study's conditions; None: all.

    Returns:
        Entries, in the study's order.

    Raises:
        UserError: when a name is not the study's.
    """
    from mnmt_ds.errors import UserError

    for noun, names, valid_names in (
        ("row", rows, study.settings.rows),
        ("condition", conditions, study.settings.conditions),
    ):
        if odd := [name for name in names or () if name not in valid_names]:
            raise UserError(f"{study.path}: no {noun} '{odd[0]}'; there are {', '.join(valid_names) or 'none'}")
    selected = {
        entry.directory
        for entry in study.entries
        if (rows is None or entry.row in rows) and (conditions is None or entry.condition in conditions)
    }
    for entry in reversed(study.entries):
        if entry.directory in selected:
            selected |= set(entry.needs)
    return [entry for entry in study.entries if entry.directory in selected]


def grid_lines(study: "Study", entries: "Sequence[StudyEntry]") -> list[str]:
    """Formats the grid with the state of every run.

    Args:
        study: the study.
        entries: the entries to show.

    Returns:
        Lines.
    """
    from mnmt_ds.errors import UserError
    from mnmt_ds.study import run_state
    from mnmt_ds.study.scheduler import is_complete, train_command

    lines = []
    for entry in entries:
        trained = sum(run_state.is_trained(job) for job in entry.jobs)
        progress = f"{trained} of {len(entry.jobs)} trained" if trained else "to do"
        state = "complete" if is_complete(study, entry) else progress
        try:
            for job in entry.jobs:
                if not run_state.is_trained(job):
                    run_state.check_same_run(job)
        except UserError as error:
            state = f"refused: {error.faults[0]}"
        lines.append(f"{entry.name}: {state}")
        if len(entry.jobs) > 1:
            lines.append(f"    {len(entry.jobs)} runs, one a pair; the first:")
        lines += [f"    needs {need}" for need in entry.needs]
        lines.append(f"    {shlex.join(train_command(entry.jobs[0]))}")
    runs = sum(len(entry.jobs) for entry in entries)
    return [*lines, f"{len(entries)} rows with seeds and conditions, {runs} runs; all recipes are well formed"]


def _study_overrides(args: argparse.Namespace) -> list[str]:
    """The arguments that replace keys of the study, as overrides."""
    overrides = []
    if args.max_epochs is not None:
        overrides.append(f"cap.max_epochs={args.max_epochs}")
    if args.max_updates is not None:
        overrides.append(f"cap.max_steps={args.max_updates}")
    if args.seeds:
        overrides.append(f"seeds=[{args.seeds}]")
    if args.directory is not None:
        overrides.append(f"directory={args.directory}")
    return overrides


def _prepare(study: "Study", entries: "Sequence[StudyEntry]") -> None:
    """The corpora of the runs that are still to be made, each by a process of its own."""
    from mnmt_ds.errors import UserError
    from mnmt_ds.study import run_state
    from mnmt_ds.study.scheduler import cli_command

    if not study.settings.prepare:
        return
    corpora = {job.recipe.data.directory for entry in entries for job in entry.jobs if not run_state.is_trained(job)}
    for directory, (recipe, overrides) in study.corpora.items():
        if directory in corpora:
            code = subprocess.run([*cli_command("prepare"), str(recipe), *overrides], check=False).returncode
            if code:
                raise UserError(f"{directory}: preparing it failed; see above")


def runnable_post_commands(
    study: "Study", entries: "Sequence[StudyEntry]", complete_entries: "Sequence[StudyEntry]", report: Path
) -> list[list[str]]:
    """Picks the commands of the study's ``after`` that can be run: all runs that they name are done.

    Some of these runs must be among the selected entries. A command that names no run waits for the whole study.

    Args:
        study: the study.
        entries: the selected entries.
        complete_entries: all entries that are complete.
        report: the report's directory.

    Returns:
        Words of ``mnmt-ds`` commands.
    """
    from mnmt_ds.study.plan import closing_command

    complete, selected = ({entry.directory for entry in group} for group in (complete_entries, entries))
    commands = []
    for text in study.settings.after:
        words, runs = closing_command(study.settings, text, str(report))
        if complete.issuperset(runs) and selected & set(runs) if runs else len(complete_entries) == len(study.entries):
            commands.append(words)
    return commands


def run_post_commands(commands: Sequence[Sequence[str]]) -> dict[Path, str]:
    """Runs the commands of the study's ``after``, one after another; a failure is logged and does not stop the others.

    Args:
        commands: arguments of ``mnmt-ds``, a list for each command.

    Returns:
        Why a command failed, by its name; those that did not fail are left out.
    """
    from mnmt_ds.study.scheduler import cli_command

    failed = {}
    for command, *words in commands:
        LOG.info("mnmt-ds %s", shlex.join([command, *words]))
        code = subprocess.run([*cli_command(command), *words], check=False).returncode
        if code:
            failed[Path(command)] = f"exit code {code}"
            LOG.error("mnmt-ds %s: failed with exit code %d", command, code)
    return failed


def _devices() -> list[str]:
    """GPUs that the runs share; asked of another process, so that this one holds none."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return []
    code = "import torch; print(torch.cuda.device_count())"
    count = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    return device_names(int(count) if count.isdigit() else 0, os.environ.get("CUDA_VISIBLE_DEVICES", ""))


def device_names(count: int, visible: str) -> list[str]:
    """Lists GPUs by the names that CUDA_VISIBLE_DEVICES uses.

    Args:
        count: how many this process sees.
        visible: the variable's value here; empty: not set.

    Returns:
        A name for each.
    """
    return [name.strip() for name in visible.split(",")][:count] if visible else [str(n) for n in range(count)]


def _stop(number: int, frame: object) -> None:
    """SIGTERM as Ctrl-C."""
    raise KeyboardInterrupt
