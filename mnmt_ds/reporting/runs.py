"""Reads what a run's directory holds: recipe, curves, cost, evaluation; also of runs in progress and killed ones.

Shape letters: V validations, R training reports, S changes of a dynamic sampler's distribution.
"""

import logging
import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds import metric_keys
from mnmt_ds.errors import CONTROL, UserError
from mnmt_ds.evaluation.comparability import DevLossFacts, outdated
from mnmt_ds.evaluation.report import read_verified_report, report_path, with_text_hashes
from mnmt_ds.file_integrity import read_checked_json
from mnmt_ds.files import is_locked
from mnmt_ds.json_files import reason
from mnmt_ds.reporting.changed_settings import SettingChange, read_changes
from mnmt_ds.reporting.run_settings import describe_method, differing_settings
from mnmt_ds.run_files import LOCK, METRICS, data_directory, read_recipe, recipe_fault
from mnmt_ds.tracking import Record, read_records

LOG = logging.getLogger(__name__)
Series = NDArray[np.float64]

PAIR_METRICS = {
    "switch": metric_keys.TEACHER_SWITCH,
    "version": metric_keys.TEACHER_VERSION,
    "age": metric_keys.TEACHER_AGE,
    "prob": metric_keys.DATA_PROB,
    "share": metric_keys.DATA_SHARE,
    "passes": metric_keys.DATA_PASSES,
    "alpha": metric_keys.ALPHA,
    "action": metric_keys.SEARCH_ACTION,
    **{f"trial_{action}": metric for action, metric in metric_keys.TRIAL_LOSS.items()},
}
"""What a validation logs of each pair besides losses and scores, under the names of ``Run.pair_metrics``."""
SEED_SUFFIX = re.compile(r"[-_.]?(?:s|seed)[-_]?\d+$")


class Run(NamedTuple):
    """Logs and scores of one run. Arrays run over validations (V) or training reports (R); nan: not logged."""

    directory: Path
    name: str
    """The recipe's, without a seed at its end."""
    label: str
    """What tables call it: the name, with the directory where several experiments share the name."""
    seed: int
    method: str
    """In a few words, from ``describe_method``."""
    recipe: Mapping[str, Any]
    """Settings by section."""
    pairs: tuple[str, ...]
    epoch_V: Series
    update_V: Series
    dev_losses: Mapping[str, Series]
    """Dev loss (label-smoothed cross-entropy, nats a token) by pair, (V,)."""
    own_best: Mapping[str, int]
    """Of each pair in ``dev_losses``, the index of the validation where its dev loss is lowest."""
    mean_dev_loss_V: Series
    """The mean over pairs."""
    best_validation: int
    """Index of the overall best validation; -1 where there is none yet."""
    deficit_V: Series
    """Performance deficit as logged, nats a token."""
    pair_metrics: Mapping[str, Mapping[str, Series]]
    """By pair and name in ``PAIR_METRICS``, (V,); only what was logged."""
    step_size_V: Series
    """Step size mu of the search at each validation; nan where there was none."""
    sampling: Mapping[str, Series]
    """A dynamic sampler's distributions, (S,): epoch, and every pair's probability from then on; empty where fixed."""
    train: Mapping[str, Series]
    """epoch, loss, nll (nats a token) and tokens_per_sec of the training reports, (R,)."""
    seconds: float
    """Wall time, pauses between a stop and its resumption left out."""
    search_seconds: float
    """Seconds of these in trials of this student's distillation weights."""
    search_share: float
    """What the run itself logged for all students: seconds of trials by seconds of training so far; nan where none."""
    memory_gb: float
    """Peak, 1e9 bytes."""
    status: str
    """finished, running or unfinished."""
    report: Mapping[str, Any] | None
    """The evaluation of the checkpoint and split that are compared."""
    translations: Path | None
    """Directory of the evaluation's texts."""
    dev_loss_facts: DevLossFacts
    """What its dev losses depend on, and what it was trained on."""
    changes: tuple[SettingChange, ...] = ()
    """Settings that it changed on the way; ``recipe`` has their last values."""
    ranks: tuple[int, ...] = ()
    """How many ranks it was trained on, one after another; empty where it does not say."""
    outdated: str = ""
    """Why its evaluation is not of the checkpoint as it is now; empty where it is."""

    def deficits(self) -> dict[str, float]:
        """Computes the performance deficit by pair (paper 1): dev loss at the overall best minus that at the pair's.

        Returns:
            Nats a token by pair; empty before the first validation.
        """
        if self.best_validation < 0:
            return {}
        return {
            pair: float(losses_V[self.best_validation] - losses_V[self.own_best[pair]])
            for pair, losses_V in self.dev_losses.items()
        }

    @property
    def tokens_per_sec(self) -> float:
        """Median of target tokens a second over the training reports; nan where there is none."""
        speed_R = self.train["tokens_per_sec"]
        return float(np.nanmedian(speed_R)) if np.isfinite(speed_R).any() else float("nan")

    @property
    def has_teachers(self) -> bool:
        """Whether the run has teachers with switches."""
        return any("switch" in metrics for metrics in self.pair_metrics.values())


def student_directories(run: Path) -> list[Path]:
    """Lists the runs that a directory stands for.

    Args:
        run: a run's directory.

    Returns:
        The directories of its students where it has several, by name; else itself.
    """
    return sorted(path for path in (run / "students").glob("*") if path.is_dir()) or [run]


def distinct_runs(directories: Sequence[Path]) -> list[Path]:
    """Lists given runs once each: one that is given under two names is one run, not two seeds.

    Args:
        directories: as a user gave them.

    Returns:
        Directories in their order, each by the first of its names.
    """
    by_place: dict[Path, Path] = {}
    for directory in directories:
        by_place.setdefault(directory.resolve(), directory)
    return list(by_place.values())


def read_runs(directories: Sequence[Path], checkpoint: str = "best", split: str = "test") -> list[Run]:
    """Reads runs and labels them so that equal labels mean equal settings but for the seed.

    Args:
        directories: of the runs.
        checkpoint: name of the checkpoint whose evaluation is read.
        split: dev or test.

    Returns:
        The runs in the order given.

    Raises:
        UserError: where a directory holds no run.
    """
    runs = [read_run(directory, checkpoint, split) for directory in directories]
    labelled = []
    for run in runs:
        same_name = [other for other in runs if other.name == run.name and other is not run]
        clash = any(differing_settings([run.recipe, other.recipe]) or other.seed == run.seed for other in same_name)
        place = distinct_place(run.directory, [other.directory for other in same_name]) if clash else ""
        labelled.append(run._replace(label=f"{run.name} ({place})" if clash else run.name))
    return labelled


def distinct_place(directory: Path, others: Sequence[Path]) -> str:
    """Finds the shortest end of a run's path that tells it from other runs.

    Args:
        directory: of the run; of a student's, the whole run's counts.
        others: of the other runs.

    Returns:
        As many of its last names as it takes; all of them where nothing tells the runs apart.
    """
    names, *other_names = (
        (path.parent.parent if path.parent.name == "students" else path).absolute().parts
        for path in (directory, *others)
    )
    other_names = [other for other in other_names if other != names]
    length = next((n for n in range(1, len(names)) if all(other[-n:] != names[-n:] for other in other_names)), 0)
    return "/".join(names[-length:])


def read_run(directory: Path, checkpoint: str = "best", split: str = "test") -> Run:
    """Reads a run.

    Args:
        directory: of the run.
        checkpoint: name of the checkpoint whose evaluation is read.
        split: dev or test.

    Returns:
        The run; its label is its name.

    Raises:
        UserError: where the directory holds no run, or a record or the evaluation was altered.
    """
    path = directory / METRICS
    if not path.exists():
        raise UserError(f"{path}: no such file; give directories of runs")
    records, recipe = read_records(path), read_recipe(directory)
    if fault := recipe_fault(directory):
        LOG.warning(fault)
    valid = [record for record in records if record.get("kind") == "valid"]
    train = [record for record in records if record.get("kind") == "train"]
    logged = {key for record in valid for key in record}
    pairs = _pairs(logged, recipe)
    dev_losses = {pair: _series(valid, metric_keys.VALID_LOSS.of(pair)) for pair in pairs}
    search_shares = [float(share) for share in _series(valid, metric_keys.SEARCH_SHARE) if np.isfinite(share)]
    dev_losses = {pair: series for pair, series in dev_losses.items() if np.isfinite(series).any()}
    report = report_path(directory, checkpoint, split)
    evaluated = with_text_hashes(read_verified_report(report), report) if report.exists() else None
    name = CONTROL.sub(" ", str(recipe.get("name") or directory.name))
    name = SEED_SUFFIX.sub("", name) or name
    return Run(
        directory=directory,
        name=name,
        label=name,
        seed=seed if isinstance(seed := (recipe.get("train") or {}).get("seed", 1), int) else 1,
        method=describe_method(recipe.get("method") or {}, recipe.get("sampler") or {}),
        recipe=recipe,
        pairs=pairs,
        epoch_V=_series(valid, "epoch"),
        update_V=_series(valid, "update"),
        dev_losses=dev_losses,
        own_best={pair: int(np.nanargmin(series)) for pair, series in dev_losses.items()},
        mean_dev_loss_V=_series(valid, metric_keys.VALID_MACRO),
        best_validation=_best_validation(valid),
        deficit_V=_series(valid, metric_keys.VALID_DEFICIT),
        pair_metrics={pair: _pair_metrics(valid, pair, logged) for pair in pairs},
        step_size_V=_series(valid, metric_keys.SEARCH_MU),
        sampling=_sampling(records, pairs),
        train={
            "epoch": _series(train, "epoch"),
            "loss": _series(train, metric_keys.TRAIN_LOSS),
            "nll": _series(train, metric_keys.TRAIN_NLL),
            "tokens_per_sec": _series(train, metric_keys.TOKENS_PER_SEC),
        },
        seconds=_seconds(records),
        search_seconds=float(np.nansum(_series(valid, metric_keys.SEARCH_SECONDS))),
        search_share=search_shares[-1] if search_shares else float("nan"),
        memory_gb=_peak_memory_gb(records),
        status=_status(directory),
        report=evaluated,
        translations=report.with_suffix("") if report.exists() else None,
        dev_loss_facts=_dev_loss_facts(directory, recipe, dev_losses.keys()),
        changes=read_changes(records),
        ranks=_ranks(records),
        outdated=outdated(evaluated or {}, _json(directory / checkpoint / "model.json")),
    )


def _ranks(records: Sequence[Record]) -> tuple[int, ...]:
    """The numbers of ranks of a run's starts, equal ones that follow each other once."""
    starts = [record.get("world_size") for record in records if record.get("kind") == "run"]
    sizes = [size for size in starts if isinstance(size, int)]
    return tuple(size for i, size in enumerate(sizes) if i == 0 or size != sizes[i - 1])


def _dev_loss_facts(directory: Path, recipe: Mapping[str, Any], pairs: Collection[str]) -> DevLossFacts:
    """What the run's models and recipe say; of models of single pairs, put together, what all of them say."""
    models = [path for path in (directory / "best" / "model.json", *sorted(directory.glob("best_*/model.json")))]
    written = [values for path in models if (values := _json(path))]
    if _json(models[0]):
        written = written[:1]
    smoothing = (recipe.get("train") or {}).get("label_smoothing")

    def shared(key: str) -> str | None:
        values = {str(model[key]) for model in written if model.get(key) is not None}
        return "+".join(sorted(values)) or None

    return DevLossFacts(
        tokenizer=shared("tokenizer_hash"),
        sentencepiece=shared("sentencepiece"),
        label_smoothing=float(smoothing) if isinstance(smoothing, int | float) else None,
        dev_sets={pair: digest for model in written for pair, digest in (model.get("dev_sets") or {}).items()},
        data=shared("data_hash"),
        data_settings=recipe.get("data") or {},
        pairs=pairs,
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        return read_checked_json(path)
    except OSError:
        return {}
    except ValueError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); restore the file") from None


def train_sizes(runs: Sequence[Run]) -> dict[str, int]:
    """Counts the training sentences of each pair.

    Args:
        runs: their evaluations, prepared corpora and recipes are asked, in this order; the largest number counts.

    Returns:
        Sentences by pair, smallest first; 0 where no run knows (then in the recipes' order).
    """
    sizes: dict[str, int] = {}
    for run in runs:
        evaluated_pairs = (run.report or {}).get("pairs", {})
        limits = (run.recipe.get("data") or {}).get("max_train") or {}
        prepared: Mapping[str, Any] | None = None
        for pair in run.pairs:
            size = evaluated_pairs.get(pair, {}).get("train_sentences")
            if not size:
                prepared = _manifest_pairs(run) if prepared is None else prepared
                size = _manifest_size(prepared, pair)
            size = size or (limits.get(pair) if isinstance(limits, Mapping) else 0)
            sizes[pair] = max(sizes.get(pair, 0), int(size or 0))
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


def is_running(run: Path) -> bool:
    """Returns whether a process trains in a run's directory.

    Args:
        run: the run's directory.

    Returns:
        Whether its lock is held.
    """
    return is_locked(run / LOCK)


def _manifest_pairs(run: Run) -> Mapping[str, Any]:
    """What the prepared corpus says of its pairs; empty where it is not there."""
    directory = data_directory(run.directory, run.recipe)
    try:
        manifest = read_checked_json(directory / "manifest.json") if directory else {}
    except OSError:
        return {}
    except ValueError as error:
        raise UserError(f"{directory}/manifest.json: not readable ({error}); run mnmt-ds prepare again") from None
    pairs = manifest.get("pairs") if isinstance(manifest, dict) else None
    return pairs if isinstance(pairs, dict) else {}


def _manifest_size(pairs: Mapping[str, Any], pair: str) -> int:
    """Training sentences of a pair; 0 where the manifest does not say."""
    try:
        return int(pairs[pair]["splits"]["train"]["sentences"])
    except (KeyError, TypeError, ValueError):
        return 0


def _pairs(logged: Iterable[str], recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """The recipe's pairs, then any others that were validated."""
    in_recipe = (recipe.get("data") or {}).get("pairs") or []
    names = {metric_keys.VALID_LOSS.name_in(key) for key in logged}
    validated = {name for name in names if name is not None and "-" in name}
    named = [pair for pair in (in_recipe if isinstance(in_recipe, list) else []) if isinstance(pair, str)]
    return tuple(dict.fromkeys([*named, *sorted(validated)]))


def _series(records: Sequence[Record], key: str) -> Series:
    """A key's value in each record; nan where it is not a number."""
    values = [record.get(key) for record in records]
    return np.array([float(v) if isinstance(v, int | float) else np.nan for v in values], dtype=np.float64)


def _best_validation(valid: Sequence[Record]) -> int:
    """The validation that the run itself took for the best; failing that, the one of the lowest mean."""
    key = metric_keys.VALID_BEST_UPDATE
    best_updates = [record[key] for record in valid if key in record]
    updates = [record.get("update") for record in valid]
    if best_updates and best_updates[-1] in updates:
        return updates.index(best_updates[-1])
    mean_V = _series(valid, metric_keys.VALID_MACRO)
    return int(np.nanargmin(mean_V)) if np.isfinite(mean_V).any() else -1


def _pair_metrics(valid: Sequence[Record], pair: str, logged: Container[str]) -> dict[str, Series]:
    """What validations logged of a pair, by the names in ``PAIR_METRICS``."""
    keys = {name: key.of(pair) for name, key in PAIR_METRICS.items()}
    series = {name: _series(valid, key) for name, key in keys.items() if key in logged}
    return {name: values_V for name, values_V in series.items() if np.isfinite(values_V).any()}


def _sampling(records: Sequence[Record], pairs: Sequence[str]) -> dict[str, Series]:
    """The distributions that a dynamic sampler set."""
    changes = [record for record in records if record.get("kind") == "sampler"]
    if not changes:
        return {}
    return {"epoch": _series(changes, "epoch")} | {
        pair: _series(changes, metric_keys.DATA_PROB.of(pair)) for pair in pairs
    }


def _seconds(records: Sequence[Record]) -> float:
    """Sum over the processes of the run; each begins with a ``run`` record."""
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


def _peak_memory_gb(records: Sequence[Record]) -> float:
    series = [_series(records, key) for key in (metric_keys.MEMORY_GPU, metric_keys.MEMORY_CPU)]
    return float(max((np.nanmax(values_R) for values_R in series if np.isfinite(values_R).any()), default=0.0)) / 1e9


def _status(directory: Path) -> str:
    if pair_runs := sorted((directory / "pairs").glob("*")):  # models of single pairs, put together
        states = {_status(pair_run) for pair_run in pair_runs}
        return next(state for state in ("running", "unfinished", "finished") if state in states)
    if any((directory / name / "model.json").exists() for name in ("last", "last_model")):
        return "finished"
    return "running" if is_running(directory) else "unfinished"
