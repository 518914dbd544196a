"""From a study's settings to its runs: what each is made of, where it lies, and which others must come first."""

import difflib
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.config import key_locations, load
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.engine.recipe import Recipe, load_recipe
from mnmt_ds.errors import UserError
from mnmt_ds.shipped_files import find_file
from mnmt_ds.study.settings import LaunchSettings, StudySettings

RUN = re.compile(r"\{run\.([^{}]+)\}")


class TrainingJob(NamedTuple):
    """One training run: a process (or a job of several ranks) and a directory of its own."""

    directory: Path
    recipe_path: Path
    overrides: tuple[str, ...]
    recipe: Recipe
    """The two above, resolved."""
    launch: LaunchSettings


class StudyEntry(NamedTuple):
    """A row in one condition with one seed: a run, or one for each pair, scored together."""

    row: str
    condition: str
    """Empty where the study names none."""
    seed: int
    directory: Path
    jobs: tuple[TrainingJob, ...]
    needs: tuple[Path, ...]
    """Directories of the entries that must be complete before."""

    @property
    def name(self) -> str:
        """Name of the entry in progress lines."""
        return f"{self.condition + ' ' if self.condition else ''}{self.row}, seed {self.seed}"

    @property
    def per_pair(self) -> bool:
        """Whether its runs are models of single pairs."""
        return self.jobs[0].directory != self.directory


class Study(NamedTuple):
    """A checked study: its settings, its runs and their recipes."""

    path: Path
    settings: StudySettings
    entries: tuple[StudyEntry, ...]
    """In an order in which they can be run."""
    corpora: dict[str, tuple[Path, tuple[str, ...]]]
    """{data directory: recipe and overrides that ``prepare`` makes it from}."""

    def baseline(self, condition: str) -> str:
        """Finds the row that the tables' gains are computed over.

        Args:
            condition: a condition of the study; "" where it names none.

        Returns:
            Name of the row: the condition's baseline, else the study's, else the first row.
        """
        condition_settings = self.settings.conditions.get(condition)
        return (
            (condition_settings.baseline if condition_settings else None)
            or self.settings.baseline
            or next(iter(self.settings.rows))
        )


def read_study(path: Path, overrides: Sequence[str] = (), common: Sequence[str] = ()) -> Study:
    """Reads a study and resolves every run's recipe.

    Args:
        path: the study's YAML file.
        overrides: keys of the study itself, ``cap.max_epochs=3``; ``seeds`` among them is for every row, also for those
            with seeds of their own.
        common: keys of every recipe, after the rows' own.

    Returns:
        The study, its entries in an order in which they can be run.

    Raises:
        UserError: names the row that has a fault.
    """
    path = find_file(path)
    settings = load(StudySettings, path, overrides)
    if any(text.startswith("seeds=") for text in overrides):
        settings = settings.with_same_seeds()
    where = key_locations(path)
    for n, command in enumerate(settings.after):
        try:
            closing_command(settings, command, "", where.get(("after", n), str(path)))
        except ValueError as error:
            raise UserError(f"{where.get(('after', n), path)}: '{command}': {error}") from None
    entries: dict[Path, StudyEntry] = {}
    for condition in settings.conditions or ("",):
        for row, row_settings in settings.rows.items():
            if not condition or row_settings.conditions is None or condition in row_settings.conditions:
                for seed in settings.seeds_of(row, condition):
                    place = where.get(("rows", row), str(path))
                    entry = _entry(path, settings, row, condition, seed, common, place)
                    entries[entry.directory] = entry
    ordered = tuple(_in_order(entries, path))
    return Study(path, settings, ordered, _corpora(path, settings, ordered, common, where))


def run_directory(settings: StudySettings, row: str, condition: str, seed: int) -> Path:
    """Returns the directory of a row's run.

    Args:
        settings: the study's settings.
        row: name of the row.
        condition: name of the condition, or "".
        seed: the run's seed.

    Returns:
        The directory.
    """
    return settings.directory / condition / f"{row}-seed{seed}"


def closing_command(settings: StudySettings, text: str, report: str, place: str = "") -> tuple[list[str], list[Path]]:
    """Fills in one of the commands of ``after``.

    Args:
        settings: the study's settings.
        text: the command as it stands in the study.
        report: the report's directory, for ``{report}``.
        place: file and line of the command, for messages.

    Returns:
        The words of the command, and the directories of the runs that it names.

    Raises:
        UserError: where there is no row of a name.
        ValueError: where the command is empty or its quotes do not close.
    """
    condition = next(iter(settings.conditions), "")
    runs: list[Path] = []

    def run_of(name: str) -> str:
        _check_run(settings, name, condition, place)
        runs.append(run_directory(settings, name, condition, settings.seeds_of(name, condition)[0]))
        return str(runs[-1])

    words = [str(_filled(word, run_of)).replace("{report}", report) for word in shlex.split(text)]
    if not words:
        raise ValueError("name a command of mnmt-ds")
    return words, runs


def _check_run(settings: StudySettings, name: str, condition: str, place: str) -> None:
    """UserError where "{run.NAME}" stands for no run of the condition."""
    other = settings.rows.get(name)
    if other is None:
        near = difflib.get_close_matches(name, settings.rows, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"rows are {', '.join(settings.rows)}"
        raise UserError(f"{place}: '{{run.{name}}}': no such row; {remedy}")
    if condition and other.conditions is not None and condition not in other.conditions:
        raise UserError(
            f"{place}: '{{run.{name}}}' is not run in condition {condition}; add it to that row's conditions"
        )


def _entry(
    path: Path, settings: StudySettings, row: str, condition: str, seed: int, common: Sequence[str], place: str
) -> StudyEntry:
    row_settings, directory = settings.rows[row], run_directory(settings, row, condition, seed)
    needs: dict[Path, None] = {}

    def run_of(name: str) -> str:
        _check_run(settings, name, condition, place)
        seeds = settings.seeds_of(name, condition)
        needed = run_directory(settings, name, condition, seed if seed in seeds else seeds[0])
        needs[needed] = None
        return str(needed)

    recipe_path, changes = base_recipe(path, settings, condition, row_settings.recipe)
    keys = settings.keys_of(row, condition)
    changes = [*changes, *as_overrides(_filled(keys, run_of)), *_cap(settings, row_settings.times), *common]
    if clash := {"train.max_epochs", "train.max_steps"} & keys.keys():
        raise UserError(f"{place}: {clash.pop()}: a row's budget is 'times', a multiple of the study's 'cap'")
    changes += as_overrides({"name": row, "train.seed": seed, "directory": str(directory)})
    starts_from_a_row = bool(RUN.search(str(keys.get("model.init", ""))))  # whose model is not there yet
    whole = _resolved(recipe_path, changes, place, not starts_from_a_row)
    launch = row_settings.launch or settings.launch
    if not row_settings.per_pair:
        jobs = [TrainingJob(directory, recipe_path, tuple(changes), whole, launch)]
    else:
        jobs = []
        for pair in whole.data.pairs:
            alone = directory / "pairs" / pair
            single = [*changes[:-1], *as_overrides({"directory": str(alone), "data.pairs": [pair]})]
            resolved = _resolved(recipe_path, single, place, not starts_from_a_row)
            jobs.append(TrainingJob(alone, recipe_path, tuple(single), resolved, launch))
    return StudyEntry(row, condition, seed, directory, tuple(jobs), tuple(needs))


def base_recipe(
    path: Path, settings: StudySettings, condition: str, recipe: Path | None = None
) -> tuple[Path, list[str]]:
    """Finds the base recipe of a row, and what study and condition change of it.

    Args:
        path: the study's YAML file.
        settings: the study's settings.
        condition: name of the condition, or "".
        recipe: the row's own base recipe; None: the condition's, else the study's.

    Returns:
        The recipe's path and the overrides ``a.b=c``.

    Raises:
        UserError: where no recipe is given anywhere.
    """
    condition_settings = settings.conditions.get(condition)
    base = recipe or (condition_settings.recipe if condition_settings else None) or settings.recipe
    if base is None:
        raise UserError(f"{path}: condition '{condition}' has no base recipe; give 'recipe' there or at the top")
    changes = as_overrides(settings.set) + as_overrides(condition_settings.set if condition_settings else {})
    return Path(os.path.normpath(path.parent / base)), changes


def as_overrides(keys: dict[str, Any]) -> list[str]:
    """Formats keys as overrides; JSON is YAML.

    Args:
        keys: values by dotted key.

    Returns:
        ``a.b=c`` for each key.
    """
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]


def _cap(settings: StudySettings, times: float) -> list[str]:
    cap = settings.cap.model_dump()
    return [f"train.{name}={math.ceil(limit * times)}" for name, limit in cap.items() if limit is not None]


def _filled(value: Any, run_of: Callable[[str], str]) -> Any:
    """A value with every "{run.ROW}" in it replaced."""
    if isinstance(value, str):
        return RUN.sub(lambda match: run_of(match.group(1)), value)
    if isinstance(value, dict):
        return {key: _filled(inner, run_of) for key, inner in value.items()}
    return [_filled(inner, run_of) for inner in value] if isinstance(value, list) else value


def _resolved(recipe: Path, overrides: Sequence[str], place: str, first_weights: bool = True) -> Recipe:
    try:
        return load_recipe(recipe, overrides, first_weights)
    except UserError as error:
        raise UserError(*(f"{place}: {fault}" for fault in error.faults)) from None


def _in_order(entries: dict[Path, StudyEntry], path: Path) -> Iterator[StudyEntry]:
    """Every entry after those that it needs, else in the order given."""
    ordered: set[Path] = set()
    waiting = dict(entries)
    while waiting:
        ready = next((entry for entry in waiting.values() if ordered.issuperset(entry.needs)), None)
        if ready is None:
            rows = ", ".join(dict.fromkeys(entry.row for entry in waiting.values()))
            raise UserError(f"{path}: rows {rows} need one another; break the circle")
        ordered.add(ready.directory)
        yield waiting.pop(ready.directory)


def _corpora(
    path: Path, settings: StudySettings, entries: Sequence[StudyEntry], common: Sequence[str], where: dict[Any, str]
) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """What is to be prepared: for each condition its first row's base, then what rows want in a directory of their own.

    UserError where two conditions, or two rows, want different corpora in one directory.
    """
    corpora: dict[str, tuple[Path, tuple[str, ...], Any, str]] = {}
    for condition in settings.conditions or ("",):
        place = where.get(("conditions", condition), str(path))
        rows = [
            row
            for row in settings.rows.values()
            if not condition or row.conditions is None or condition in row.conditions
        ]
        bases = [base_recipe(path, settings, condition, row.recipe) for row in rows[:1]]
        for base, changes in bases:
            data = _resolved(base, [*changes, *common], place).data
            earlier = corpora.setdefault(data.directory, (base, (*changes, *common), data, place))
            if earlier[2] != data:
                raise UserError(f"{place}: {data.directory} is prepared otherwise for {earlier[3]}; name another one")
    for entry in entries:
        row, place = settings.rows[entry.row], where.get(("rows", entry.row), str(path))
        for job in entry.jobs:
            data_settings = job.recipe.data
            if data_settings.directory not in corpora:
                base, changes = base_recipe(path, settings, entry.condition, row.recipe)
                keys = settings.keys_of(entry.row, entry.condition)
                data_keys = as_overrides({key: value for key, value in keys.items() if key.partition(".")[0] == "data"})
                changes = [*changes, *data_keys, *common]
                corpora[data_settings.directory] = (base, tuple(changes), _resolved(base, changes, place).data, place)
            *_, data, earlier_place = corpora[data_settings.directory]
            if other := _difference(data_settings, data):
                raise UserError(
                    f"{place}: {data_settings.directory} is prepared with another data.{other} for {earlier_place};"
                    " give the row a data.directory of its own"
                )
    return {directory: (base, changes) for directory, (base, changes, _, _) in corpora.items()}


def _difference(requested: DataSettings, prepared: DataSettings) -> str | None:
    """The first key that keeps a row from using what was prepared; fewer pairs do not."""
    if not set(requested.pairs) <= set(prepared.pairs):
        return "pairs"
    keys = DataSettings.model_fields.keys() - {"pairs"}
    return next((key for key in sorted(keys) if getattr(requested, key) != getattr(prepared, key)), None)
