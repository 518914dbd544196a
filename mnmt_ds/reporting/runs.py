"""What a run's directory tells: recipe, curves, cost, evaluation; of runs in progress and killed ones too."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds import metric_keys
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation.report import read_report, report_path
from mnmt_ds.files import is_locked
from mnmt_ds.run_files import LOCK, METRICS, data_directory, read_recipe
from mnmt_ds.tracking import Record, read_records

Series = NDArray[np.float64]

SHARE = metric_keys.SEARCH_SHARE
PAIR_KEYS = {
    "switch": metric_keys.TEACHER_SWITCH,
    "version": metric_keys.TEACHER_VERSION,
    "age": metric_keys.TEACHER_AGE,
    "prob": metric_keys.DATA_PROB,
    "share": metric_keys.DATA_SHARE,
    "passes": metric_keys.DATA_PASSES,
    "alpha": metric_keys.ALPHA,
}
"""What a validation logs of each pair besides losses and scores, under the names of ``Run.by_pair``."""
SEED_SUFFIX = re.compile(r"[-_.]?(?:s|seed)[-_]?\d+$")
ASIDE = ("directory", "name", "train.seed", "tracking", "data.directory", "method.experts", "sampler.baseline")
"""Settings that do not make two runs different experiments."""


class Run(NamedTuple):
    """One run. Arrays run over its validations (V) or its training reports (R); nan where nothing was logged."""

    directory: Path
    name: str
    """The recipe's, without a seed at its end."""
    label: str
    """What tables call it: the name, with the directory where several experiments share the name."""
    seed: int
    method: str
    recipe: Mapping[str, Any]
    pairs: tuple[str, ...]
    epoch_V: Series
    update_V: Series
    dev: Mapping[str, Series]
    """Dev loss (label-smoothed cross-entropy a token) by pair, (V,)."""
    mean_V: Series
    """The mean over pairs."""
    best: int
    """Index of the overall best validation; -1 where there is none yet."""
    deficit_V: Series
    """Performance deficit as logged."""
    by_pair: Mapping[str, Mapping[str, Series]]
    """switch, version, age (of teachers), alpha (of peers), prob, share, passes (of data) by pair, (V,); only what was
    logged."""
    sampling: Mapping[str, Series]
    """A dynamic sampler's distributions, (S,): epoch, and every pair's probability from then on; empty where fixed."""
    train: Mapping[str, Series]
    """epoch, loss, nll and tokens_per_sec of the training reports, (R,)."""
    seconds: float
    """Wall time, pauses between a stop and its resumption left out."""
    search_seconds: float
    """Of these, in trials of this student's distillation weights."""
    search_share: float
    """The run's own figure for all students: seconds of trials by seconds of training so far; nan where none."""
    memory_gb: float
    status: str
    """finished, running or unfinished."""
    report: Mapping[str, Any] | None
    """The evaluation of the checkpoint and split that are compared."""
    texts: Path | None
    """Directory of its translations."""

    def best_of(self, pair: str) -> int:
        """Index of a pair's own best validation."""
        return int(np.nanargmin(self.dev[pair]))

    def deficits(self) -> dict[str, float]:
        """dev_l(overall best) - dev_l(best of l), paper 1's deficit by pair; empty before the first validation."""
        if self.best < 0:
            return {}
        return {pair: float(dev[self.best] - dev[self.best_of(pair)]) for pair, dev in self.dev.items()}

    @property
    def tokens_per_sec(self) -> float:
        """Median over the training reports; nan where there is none."""
        speed_R = self.train["tokens_per_sec"]
        return float(np.nanmedian(speed_R)) if np.isfinite(speed_R).any() else float("nan")

    @property
    def taught(self) -> bool:
        """Whether the run has teachers with switches."""
        return any("switch" in series for series in self.by_pair.values())


def student_directories(run: Path) -> list[Path]:
    """The runs that a directory stands for: its students' where it has several, else itself."""
    return sorted(path for path in (run / "students").glob("*") if path.is_dir()) or [run]


def read_runs(directories: Sequence[Path], checkpoint: str = "best", split: str = "test") -> list[Run]:
    """All runs, labelled so that equal labels mean equal settings but for the seed."""
    runs = [read_run(directory, checkpoint, split) for directory in directories]
    labelled = []
    for run in runs:
        same_name = [other for other in runs if other.name == run.name]
        clash = any(differing([run, other]) or other.seed == run.seed for other in same_name if other is not run)
        labelled.append(run._replace(label=f"{run.name} ({run.directory.name})" if clash else run.name))
    return labelled


def read_run(directory: Path, checkpoint: str = "best", split: str = "test") -> Run:
    """One run; UserError where there is none."""
    path = directory / METRICS
    if not path.exists():
        raise UserError(f"{path}: no such file; give directories of runs")
    records, recipe = read_records(path), read_recipe(directory)
    valid = [record for record in records if record.get("kind") == "valid"]
    train = [record for record in records if record.get("kind") == "train"]
    pairs = _pairs(valid, recipe)
    dev = {pair: _series(valid, metric_keys.VALID_LOSS.of(pair)) for pair in pairs}
    report = report_path(directory, checkpoint, split)
    name = SEED_SUFFIX.sub("", str(recipe.get("name") or directory.name)) or directory.name
    return Run(
        directory=directory,
        name=name,
        label=name,
        seed=int((recipe.get("train") or {}).get("seed", 1)),
        method=describe_method(recipe.get("method") or {}, recipe.get("sampler") or {}),
        recipe=recipe,
        pairs=pairs,
        epoch_V=_series(valid, "epoch"),
        update_V=_series(valid, "update"),
        dev={pair: series for pair, series in dev.items() if np.isfinite(series).any()},
        mean_V=_series(valid, metric_keys.VALID_MACRO),
        best=_best(valid),
        deficit_V=_series(valid, metric_keys.VALID_DEFICIT),
        by_pair={pair: _logged(valid, pair) for pair in pairs},
        sampling=_distributions(records, pairs),
        train={
            "epoch": _series(train, "epoch"),
            "loss": _series(train, metric_keys.TRAIN_LOSS),
            "nll": _series(train, metric_keys.TRAIN_NLL),
            "tokens_per_sec": _series(train, metric_keys.TOKENS_PER_SEC),
        },
        seconds=_seconds(records),
        search_seconds=float(np.nansum(_series(valid, metric_keys.SEARCH_SECONDS))),
        search_share=next((float(r[SHARE]) for r in reversed(valid) if SHARE in r), float("nan")),
        memory_gb=_memory(records),
        status=_status(directory),
        report=read_report(report) if report.exists() else None,
        texts=report.with_suffix("") if report.exists() else None,
    )


def describe_method(method: Mapping[str, Any], sampler: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A method in a few words: its name, variant and weights, and a sampler that is not fixed."""
    said = [str(method[key]) for key in ("variant", "rule", "profile") if method.get(key)]
    words = [str(method.get("name", "?")), *(word for word in said if word != "paper")]
    fixed = method.get("rule") in (None, "uni", "bi", "vanilla")
    words += [f"α {method['alpha']:g}"] if fixed and isinstance(method.get("alpha"), int | float) else []
    words += ["trials kept"] if not fixed and (method.get("trials") or {}).get("after") == "keep" else []
    words += ["extra updates"] if method.get("extra_updates") else []
    dynamic = sampler.get("name", "temperature") != "temperature"
    words += [str(sampler[key]) for key in ("name", "reward") if sampler.get(key)] if dynamic else []
    return " ".join(words)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, name + ".") if isinstance(value, Mapping) and value else {name: value}
    return found


def differing(runs: Sequence[Run], aside: Sequence[str] = ASIDE) -> dict[str, list[Any]]:
    """Settings whose values differ between the runs, {dotted name: [value of each run]}; absent ones are ''."""
    recipes = [flat(run.recipe) for run in runs]
    names = sorted(set().union(*recipes))
    kept = [name for name in names if not any(name == other or name.startswith(other + ".") for other in aside)]
    rows = {name: [recipe.get(name, "") for recipe in recipes] for name in kept}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def train_sizes(runs: Sequence[Run]) -> dict[str, int]:
    """Training sentences by pair, smallest first; 0 where no run knows (then in the recipes' order)."""
    sizes: dict[str, int] = {}
    for run in runs:
        facts = (run.report or {}).get("pairs", {})
        limits = (run.recipe.get("data") or {}).get("max_train") or {}
        for pair in run.pairs:
            size = facts.get(pair, {}).get("train_sentences") or _manifest_size(run, pair)
            size = size or (limits.get(pair) if isinstance(limits, Mapping) else 0)
            sizes[pair] = max(sizes.get(pair, 0), int(size or 0))
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


def _manifest_size(run: Run, pair: str) -> int:
    import json

    directory = data_directory(run.directory)
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8")) if directory else {}
        return int(manifest["pairs"][pair]["splits"]["train"]["sentences"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _pairs(valid: Sequence[Record], recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """The recipe's pairs, then any others that were validated."""
    named = (recipe.get("data") or {}).get("pairs") or []
    names = {metric_keys.VALID_LOSS.name_in(key) for record in valid for key in record}
    logged = {name for name in names if name is not None and "-" in name}
    return tuple(dict.fromkeys([*(named if isinstance(named, list) else []), *sorted(logged)]))


def _series(records: Sequence[Record], key: str) -> Series:
    values = [record.get(key) for record in records]
    return np.array([float(v) if isinstance(v, int | float) else np.nan for v in values], dtype=np.float64)


def _best(valid: Sequence[Record]) -> int:
    """The validation that the run itself took for the best; failing that, the one of the lowest mean."""
    named = [record[metric_keys.VALID_BEST_UPDATE] for record in valid if metric_keys.VALID_BEST_UPDATE in record]
    found = [i for i, record in enumerate(valid) if named and record.get("update") == named[-1]]
    mean_V = _series(valid, metric_keys.VALID_MACRO)
    return found[0] if found else int(np.nanargmin(mean_V)) if np.isfinite(mean_V).any() else -1


def _logged(valid: Sequence[Record], pair: str) -> dict[str, Series]:
    found = {name: _series(valid, key.of(pair)) for name, key in PAIR_KEYS.items()}
    return {key: series for key, series in found.items() if np.isfinite(series).any()}


def _distributions(records: Sequence[Record], pairs: Sequence[str]) -> dict[str, Series]:
    set_anew = [record for record in records if record.get("kind") == "sampler"]
    if not set_anew:
        return {}
    return {"epoch": _series(set_anew, "epoch")} | {
        pair: _series(set_anew, metric_keys.DATA_PROB.of(pair)) for pair in pairs
    }


def _seconds(records: Sequence[Record]) -> float:
    """Sum over the stretches between two ``run`` records, each the start of a process."""
    total, first, last = 0.0, None, None
    for record in records:
        now = record.get("time")
        if not isinstance(now, int | float):
            continue
        if record.get("kind") == "run" or first is None:
            total += (last - first) if first is not None and last is not None else 0.0
            first = float(now)
        last = float(now)
    return total + ((last - first) if first is not None and last is not None else 0.0)


def _memory(records: Sequence[Record]) -> float:
    keys = metric_keys.MEMORY_GPU, metric_keys.MEMORY_CPU
    peaks = [max(float(record.get(key) or 0) for key in keys) for record in records]
    return max(peaks, default=0.0) / 1e9


def at_work(run: Path) -> bool:
    """Whether a process trains in this run's directory."""
    return is_locked(run / LOCK)


def _status(directory: Path) -> str:
    if parts := sorted((directory / "pairs").glob("*")):  # models of single pairs, put together
        states = {_status(part) for part in parts}
        return next(state for state in ("running", "unfinished", "finished") if state in states)
    if any((directory / name / "model.json").exists() for name in ("last", "last_model")):
        return "finished"
    return "running" if at_work(directory) else "unfinished"
