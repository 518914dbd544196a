"""What a run that goes on has otherwise than the run that wrote its checkpoint; what of that is refused."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from mnmt_ds.best_values import DevMetric
from mnmt_ds.config import Settings, format_value, merged
from mnmt_ds.config.sections import sections
from mnmt_ds.config.settings import tag
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.engine.checkpointing import checkpoint
from mnmt_ds.engine.checkpointing.resume_classes import (
    CHANGED_METRICS,
    DEEPSPEED,
    ResumeClass,
    longest_fit,
    note_of,
    resume_class,
)
from mnmt_ds.engine.dataloading.position import Cut
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import batches_per_update
from mnmt_ds.errors import UserError
from mnmt_ds.reporting.run_settings import flatten_settings
from mnmt_ds.run_files import read_recipe

DS_CONFIG = "ds_config.json"
"""DeepSpeed's configuration in a run's directory."""
PLACES = ("name", "directory", "deepspeed")
"""Settings of the recipe that say where it is, of which what lies there is compared; and what it is called."""

OTHER_WEIGHTS = re.compile(r"model\.(?!freeze\.)|framing\.|prepared tokenizer")
"""Beginnings of the names of what the weights themselves depend on."""


class ResumeChange(NamedTuple):
    """A setting that has another value than the checkpoint's run had."""

    name: str
    """Dotted, as in a recipe."""
    before: Any
    """Its value there, as JSON has it."""
    now: Any
    """Its value in this run."""
    kind: ResumeClass
    """What becomes of it."""
    note: str
    """What that means."""
    metric: DevMetric | None = None
    """What is measured otherwise."""

    def line(self) -> str:
        """Formats the change as one line.

        Returns:
            Such as "train.lr: 0.002 -> 0.001: from here on".
        """
        return f"{self.name}: {format_value(self.before)} -> {format_value(self.now)}: {self.note}"


class CheckpointOrigin(NamedTuple):
    """Description of the run that wrote a checkpoint: its recipe, its DeepSpeed configuration and its data."""

    recipe: Recipe
    """Its recipe."""
    ds_config: ds_config.Json
    """DeepSpeed's configuration, without "auto"."""
    hashes: Mapping[str, str]
    """Hashes of its data and tokenizer."""
    cut: Cut
    """How it cut its data into updates."""


def description(recipe: Recipe, config: ds_config.Json, corpus: Corpus, ranks: int) -> dict[str, Any]:
    """Collects what a checkpoint records of the run that writes it.

    Args:
        recipe: of the run.
        config: DeepSpeed's configuration, without "auto".
        corpus: that it is trained on.
        ranks: data-parallel ranks.

    Returns:
        JSON values, of which ``written_by`` makes the description again.
    """
    return {
        "recipe": recipe.model_dump(mode="json", exclude=set(PLACES)),
        "ds_config": config,
        "data": corpus.hash,
        "tokenizer": corpus.tokenizer.hash,
        "batches_per_update": batches_per_update(recipe.train, ranks),
    }


def written_by(values: Mapping[str, Any], present: Recipe, config: ds_config.Json) -> CheckpointOrigin:
    """Reads what a checkpoint says of the run that wrote it.

    A checkpoint of version 0.1.0 has part of the recipe; what else there was stands in the run's directory.

    Args:
        values: the checkpoint's ``fingerprint``.
        present: the recipe of this run.
        config: its DeepSpeed configuration; taken where nothing tells the other's.

    Returns:
        The description.

    Raises:
        UserError: where this version does not know the recipe.
    """
    if "recipe" in values:
        recipe, config = dict(values["recipe"]), values["ds_config"]
    else:
        recipe = _older_recipe(values, present)
        path = present.directory / DS_CONFIG
        config = ds_config.read(path) if path.exists() else config
    recipe |= {name: str(getattr(present, name)) for name in PLACES}
    try:
        settings = Recipe.model_validate(recipe)
    except ValidationError as error:
        raise UserError(
            *(
                f"{present.directory}: a checkpoint written with {'.'.join(map(str, fault['loc']))}, which this version"
                f" refuses ({fault['msg']}); resume with the version that wrote it"
                for fault in error.errors()
            )
        ) from None
    hashes = {name: str(values[name]) for name in ("data", "tokenizer") if name in values}
    return CheckpointOrigin(settings, config, hashes, Cut(settings.train.max_tokens, int(values["batches_per_update"])))


def _older_recipe(values: Mapping[str, Any], present: Recipe) -> dict[str, Any]:
    """The recipe of a run of version 0.1.0: the one in its directory, with what the checkpoint itself says."""
    recipe = read_recipe(present.directory) or present.model_dump(mode="json")
    recipe |= {"method": values["method"]} if "method" in values else {}
    overrides = {name: values[name] for name in ("model", "framing", "sampler") if name in values}
    overrides["train"] = {name: values[name] for name in ("precision", "seed") if name in values}
    overrides["data"] = {"pairs": values["pairs"]} if "pairs" in values else {}
    return merged(recipe, overrides)


def changes(before: CheckpointOrigin, recipe: Recipe, config: ds_config.Json, corpus: Corpus) -> list[ResumeChange]:
    """Lists the settings that this run has otherwise than the checkpoint's run.

    Args:
        before: the run that wrote the checkpoint.
        recipe: of this run.
        config: DeepSpeed's configuration, without "auto".
        corpus: that this run is trained on.

    Returns:
        The changes, in the order of the settings.
    """
    listed = list(recipe_changes(before.recipe, recipe))
    hashes = {"data": corpus.hash, "tokenizer": corpus.tokenizer.hash}
    for name, value in hashes.items():
        if before.hashes.get(name, value) != value:
            reason = f"{corpus.directory} was prepared anew, from other text or settings"
            listed.append(
                ResumeChange(f"prepared {name}", before.hashes[name][:12], value[:12], ResumeClass.REFUSED, reason)
            )
    return listed + list(_deepspeed_changes(before.ds_config, config, recipe))


def recipe_changes(before: Recipe, now: Recipe) -> Iterator[ResumeChange]:
    """Compares two recipes, setting by setting.

    Args:
        before: of the run that wrote the checkpoint.
        now: of this run.

    Yields:
        The settings that differ.
    """
    paths = {section.kind: section.path for section in sections(Recipe)}
    for change in _differences("", before, now, paths, ("", "")):
        unused = change.name.partition(".")[0] == "sampler" and before.students and now.students
        if not unused:
            yield change


def _differences(
    name: str, before: Any, now: Any, paths: Mapping[type, str], setting: tuple[str, str]
) -> Iterator[ResumeChange]:
    """The differences of two values, of which ``setting`` names section and key."""
    if before == now:
        return
    inner: list[tuple[str, Any, Any, tuple[str, str]]] = []
    if isinstance(before, Settings) and isinstance(now, Settings):
        section = paths[type(now)]
        if type(before) is type(now):
            inner = [(key, getattr(before, key), value, (section, key)) for key, value in now]
        else:
            inner = [("name", tag(type(before)), tag(type(now)), (section, "name"))]
    elif isinstance(before, list | tuple) and len(before) == len(now or ()) and _holds_settings(before):
        inner = [(str(i), *pair, setting) for i, pair in enumerate(zip(before, now, strict=True))]
    elif isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys() and _holds_settings(before):
        inner = [(key, before[key], now[key], setting) for key in before]
    else:
        yield _change(name, _plain(before), _plain(now), *setting)
    for key, old, new, inner_setting in inner:
        yield from _differences(f"{name}.{key}".lstrip("."), old, new, paths, inner_setting)


def _change(name: str, before: Any, now: Any, section: str, key: str) -> ResumeChange:
    kind = resume_class(section, key) or ResumeClass.REFUSED  # of a component from elsewhere
    setting = f"{section}.{key}".lstrip(".")
    return ResumeChange(name, before, now, kind, note_of(setting, kind), CHANGED_METRICS.get(setting))


def _deepspeed_changes(before: ds_config.Json, now: ds_config.Json, recipe: Recipe) -> Iterator[ResumeChange]:
    """What differs in DeepSpeed's JSON, but for what the recipe fills."""
    old, new = flatten_settings(before), flatten_settings(now)
    for key in sorted((old.keys() | new.keys()) - ds_config.known_values(recipe.train, 1).keys()):
        if old.get(key) != new.get(key):
            kind = longest_fit(DEEPSPEED, key)
            if key.startswith("fp16.") and recipe.train.precision != "fp16":
                kind = ResumeClass.FREE
            yield ResumeChange(f"deepspeed {key}", old.get(key), new.get(key), kind, note_of(key, kind))


def refuse(path: Path, listed: Sequence[ResumeChange], layout: str) -> None:
    """Raises a UserError where the run cannot go on with its changed settings.

    Args:
        path: the checkpoint.
        listed: all changes.
        layout: why the checkpoint cannot be moved to this run's ranks and stages; empty: it can.

    Raises:
        UserError: that lists everything that is refused, a line each.
    """
    run = path.parent.parent
    faults = [
        f"{change.line()}; resume with {format_value(change.before)}, or begin a new run in another directory"
        + ("" if OTHER_WEIGHTS.match(change.name) else f", from these weights with {checkpoint.init_setting(run)}")
        for change in listed
        if change.kind is ResumeClass.REFUSED
    ]
    faults += [f"{layout}; else begin anew from its weights with {checkpoint.init_setting(run)}"] if layout else []
    if faults:
        raise UserError(*(f"{path}: {fault}" for fault in faults))


def measured_anew(listed: Sequence[ResumeChange]) -> set[DevMetric]:
    """Lists the dev metrics that are measured otherwise from here on.

    Args:
        listed: all changes.

    Returns:
        The metrics.
    """
    return {change.metric for change in listed if change.metric is not None}


def _holds_settings(values: Any) -> bool:
    items = values.values() if isinstance(values, dict) else values
    return any(isinstance(item, Settings) for item in items)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def undone_validation(update: int) -> str:
    """Formats that a run which had ended goes on as if it had not: its last validation does not count.

    Args:
        update: at which the run ended, between two validations.

    Returns:
        A line for the user.
    """
    return (
        f"the validation at update {update}, made only because the run ended there, is undone, with what was best by"
        " it, so that the run goes on as if it had not ended; to keep its weights, copy"
        f" snapshots/{update} before the next checkpoint is saved"
    )
