"""Stage 2: from all pairs' hashes to everybody's train, dev and test text."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnmt_ds.data import split
from mnmt_ds.data.cleaning import array
from mnmt_ds.data.keys import hash64, normalised
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.stages import Stage, fingerprint, finished, new_directory
from mnmt_ds.errors import UserError

Cleaned = Mapping[str, Stage]
"""The stages of "train" and, where given, "dev" and "test"."""


class Plan(NamedTuple):
    """Which rows of a pair's training text may be used, and which of them are held out."""

    usable: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    counts: Counter[str]


def plan(settings: DataSettings, stages: Cleaned) -> Plan:
    """Duplicates, cap per domain, then the sets that are held out of the training text."""
    pair_N = array(stages["train"], "pair")
    usable_N, counts = usable(settings, stages["train"], pair_N)
    dev = 0 if "dev" in stages else settings.split.dev
    test = 0 if "test" in stages else settings.split.test
    held = split.held_out(array(stages["train"], "key"), usable_N, dev, test)
    return Plan(usable_N, *held, counts)


def usable(settings: DataSettings, stage: Stage, pair_N: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
    """Mask of the rows that are no duplicates and within their domain's cap, and counts of the others."""
    counts: Counter[str] = Counter()
    usable_N = np.ones(len(pair_N), bool)
    if settings.clean.duplicates == "drop":
        usable_N = split.first_occurrences(pair_N)
        counts["duplicate"] = len(pair_N) - int(usable_N.sum())
    if settings.clean.domain_cap is not None:
        capped_N = split.within_cap(array(stage, "domain"), pair_N, usable_N, settings.clean.domain_cap)
        counts["domain cap"] = int(usable_N.sum() - capped_N.sum())
        usable_N = capped_N
    return usable_N, counts


def held_keys(stages: Cleaned, plan_: Plan) -> np.ndarray:
    """Keys of a pair's dev and test sentences, given or held out."""
    key_N = array(stages["train"], "key")
    given = [array(stages[which], "key") for which in ("dev", "test") if which in stages]
    return split.union([key_N[plan_.dev], key_N[plan_.test], *given])


def selected(
    work: Path, settings: DataSettings, pair: str, stages: Cleaned, plan_: Plan, kept_out: np.ndarray
) -> tuple[Stage, bool]:
    """The stage with train.src, train.tgt and so on for a pair, and whether it had to be made."""
    contents = {
        which: [stage.sha256(name) for name in sorted(stage.record["files"])] for which, stage in stages.items()
    }
    key_N, pair_N = array(stages["train"], "key"), array(stages["train"], "pair")
    rows, counts = split.training(key_N, pair_N, plan_.usable, kept_out, settings.limit_of(pair))
    counts = plan_.counts + counts
    roles_N = np.full(len(key_N), split.DROPPED, np.uint8)
    for role, chosen in ((split.TRAIN, rows), (split.DEV, plan_.dev), (split.TEST, plan_.test)):
        roles_N[chosen] = role
    counts["held-out key"] -= len(plan_.dev) + len(plan_.test)
    _check(settings, pair, stages, roles_N)
    print_ = fingerprint(contents, _digest(roles_N))
    name = f"select.{pair}"
    if stage := finished(work, name, print_):
        return stage, False
    with new_directory(work, name, print_) as (directory, record):
        sentences: Counter[str] = Counter()
        for side, short in (("source", "src"), ("target", "tgt")):
            paths = [directory / f"{which}.{short}" for which in split.NAMES]
            _distribute(stages["train"].directory / side, paths, roles_N)
        for role, which in enumerate(split.NAMES):
            sentences[which] = int((roles_N == role).sum())
            if which != "train" and which in stages:
                for side, short in (("source", "src"), ("target", "tgt")):
                    (directory / f"{which}.{short}").write_bytes((stages[which].directory / side).read_bytes())
                sentences[which] = stages[which].record["counts"]["clean"]
            elif not sentences[which]:
                for short in ("src", "tgt"):
                    (directory / f"{which}.{short}").unlink()
        record.update(
            sentences={which: count for which, count in sentences.items() if count}, counts=dict(counts), pair=pair
        )
    stage = finished(work, name, print_)
    assert stage is not None
    return stage, True


def selected_mono(
    work: Path, settings: DataSettings, lang: str, clean: Stage, texts: list[Stage]
) -> tuple[Stage, bool]:
    """The stage with a language's monolingual text, without sentences of any dev or test set in that language."""
    held = split.union([_keys_in(stage, lang, settings.split.seed) for stage in texts])
    usable_N, counts = usable(settings, clean, array(clean, "pair"))
    rows, more = split.training(array(clean, "key"), array(clean, "pair"), usable_N, held, None)
    if not len(rows):
        raise UserError(f"data.monolingual.{lang}: no sentence is left; give more text, or change data.clean")
    roles_N = np.full(len(usable_N), split.DROPPED, np.uint8)
    roles_N[rows] = split.TRAIN
    print_ = fingerprint(clean.sha256("source"), _digest(roles_N))
    name = f"select.mono.{lang}"
    if stage := finished(work, name, print_):
        return stage, False
    with new_directory(work, name, print_) as (directory, record):
        _distribute(clean.directory / "source", [directory / "train.src"], roles_N)
        record.update(sentences={"train": len(rows)}, counts=dict(counts + more), lang=lang)
    stage = finished(work, name, print_)
    assert stage is not None
    return stage, True


def _keys_in(stage: Stage, lang: str, seed: int) -> np.ndarray:
    """Keys of a pair's dev and test sentences on the side that is in a language."""
    sides = zip(stage.record["pair"].split("-"), ("src", "tgt"), strict=True)
    names = [f"{which}.{short}" for side, short in sides if side == lang for which in ("dev", "test")]
    lines = [
        line[:-1].decode()
        for name in names
        if name in stage.record["files"]
        for line in (stage.directory / name).open("rb")
    ]
    return np.array([hash64(normalised(line), seed) for line in lines], np.uint64)


def _distribute(text: Path, paths: list[Path], roles_N: np.ndarray) -> None:
    """Each line of a text to the file of its role."""
    files = [path.open("wb") for path in paths]
    try:
        with text.open("rb") as stream:
            for role, line in zip(roles_N.tolist(), stream, strict=True):
                if role != split.DROPPED:
                    files[role].write(line)
    finally:
        for file in files:
            file.close()


def _check(settings: DataSettings, pair: str, stages: Cleaned, roles_N: np.ndarray) -> None:
    """A pair without training, dev or (where wanted) test sentences is the user's to mend."""
    reasons = ", ".join(f"{kind} {n}" for kind, n in stages["train"].record["counts"].items() if n)
    for role, which in enumerate(split.NAMES):
        wanted = which != "test" or settings.split.test > 0 or "test" in stages
        given = which != "train" and which in stages
        count = stages[which].record["counts"]["clean"] if given else int((roles_N == role).sum())
        if wanted and not count:
            place = f"data.corpora.{pair}.{which}" if given else f"pair {pair}"
            raise UserError(
                f"{place}: no {which} sentence is left ({reasons or 'nothing was read'});"
                f" give more text, or change data.clean or data.split"
            )


def _digest(roles_N: np.ndarray) -> str:
    return hashlib.sha256(roles_N.tobytes()).hexdigest()
