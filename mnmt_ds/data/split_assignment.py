"""Which row of a pair's text trains, which is held out and which is dropped: decided from hashes, without the text."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mnmt_ds.data import holdout
from mnmt_ds.data.cleaning_rules import CleanedBlock
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.errors import UserError


class RowHashes(NamedTuple):
    """An element a clean row."""

    key: np.ndarray
    """uint64, of the normalised key."""
    pair: np.ndarray
    """uint64, of both sides."""
    domain: np.ndarray
    """uint16, number of the row's domain."""


class SplitAssignment(NamedTuple):
    """Which rows of a pair's training text may be used, and which of them are held out."""

    usable: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    counts: Counter[str]


def concatenate_hashes(blocks: list[CleanedBlock]) -> RowHashes:
    """The hashes of cleaned blocks."""
    domains = [np.full(len(block.key), block.domain, np.uint16) for block in blocks]
    empty = np.zeros(0, np.uint64)
    return RowHashes(
        np.concatenate([empty, *(block.key for block in blocks)]),
        np.concatenate([empty, *(block.pair for block in blocks)]),
        np.concatenate([np.zeros(0, np.uint16), *domains]),
    )


def usable_rows(settings: DataSettings, train: RowHashes) -> tuple[np.ndarray, Counter[str]]:
    """Mask of the rows that are no duplicates and within their domain's cap, and counts of the others."""
    counts: Counter[str] = Counter()
    usable_N = np.ones(len(train.pair), bool)
    if settings.clean.duplicates == "drop":
        usable_N = holdout.first_occurrences(train.pair)
        counts["duplicate"] = len(train.pair) - int(usable_N.sum())
    if settings.clean.domain_cap is not None:
        capped_N = holdout.apply_domain_cap(train.domain, train.pair, usable_N, settings.clean.domain_cap)
        counts["domain cap"] = int(usable_N.sum() - capped_N.sum())
        usable_N = capped_N
    return usable_N, counts


def assign_splits(settings: DataSettings, hashes: Mapping[str, RowHashes]) -> SplitAssignment:
    """Duplicates, cap per domain, then the sets that are held out of the training text (those not given)."""
    usable_N, counts = usable_rows(settings, hashes["train"])
    dev = 0 if "dev" in hashes else settings.split.dev
    test = 0 if "test" in hashes else settings.split.test
    return SplitAssignment(usable_N, *holdout.choose_held_out_rows(hashes["train"].key, usable_N, dev, test), counts)


def held_out_keys(hashes: Mapping[str, RowHashes], plan_: SplitAssignment) -> np.ndarray:
    """Keys of a pair's dev and test sentences, given or held out."""
    key_N = hashes["train"].key
    given = [hashes[which].key for which in ("dev", "test") if which in hashes]
    return holdout.union_of_keys([key_N[plan_.dev], key_N[plan_.test], *given])


def split_of_rows(
    settings: DataSettings, pair: str, train: RowHashes, plan_: SplitAssignment, kept_out: np.ndarray
) -> tuple[np.ndarray, Counter[str]]:
    """The role of every row (split.TRAIN and so on), and how many were dropped by which rule."""
    rows, counts = holdout.choose_training_rows(train.key, train.pair, plan_.usable, kept_out, settings.limit_of(pair))
    counts = plan_.counts + counts
    counts["held-out key"] -= len(plan_.dev) + len(plan_.test)
    roles_N = np.full(len(train.key), holdout.DROPPED, np.uint8)
    for role, chosen in ((holdout.TRAIN, rows), (holdout.DEV, plan_.dev), (holdout.TEST, plan_.test)):
        roles_N[chosen] = role
    return roles_N, counts


def check_split_sizes(
    settings: DataSettings, pair: str, roles_N: np.ndarray, given: Mapping[str, int], counts: Counter[str]
) -> None:
    """UserError where a pair is left without training, dev or (where wanted) test sentences.

    ``given``: sentences of the given sets; ``counts``: the training text's rows by fate.
    """
    for role, which in enumerate(holdout.SPLITS):
        count = given[which] if which in given else int((roles_N == role).sum())
        if count or (which == "test" and not settings.split.test and which not in given):
            continue
        reasons = ", ".join(f"{kind} {n}" for kind, n in counts.items() if n)
        place = f"data.corpora.{pair}.{which}" if which in given else f"pair {pair}"
        raise UserError(
            f"{place}: no {which} sentence is left ({reasons or 'nothing was read'}); give more text, or change"
            " data.clean, data.split or data.max_train"
        )


def check_script(lang: str, counts: Mapping[str, int]) -> None:
    """UserError where most lines of a monolingual text are in another script: another language's file, most likely."""
    strange = counts.get("script", 0) + counts.get("no letters", 0)
    total = sum(count for kind, count in counts.items() if kind != "read")
    if 2 * strange > total:
        raise UserError(
            f"data.monolingual.{lang}: {strange:,} of {total:,} lines are not in the script of '{lang}'; give that"
            " language's file, or set data.clean.min_script: 0 if this is it"
        )


def catalog_shortage(settings: DataSettings, counts: Mapping[str, int]) -> str | None:
    """Why the catalogs, with so many usable rows by pair, are not enough; None where they are."""
    few = {pair: count for pair, count in counts.items() if count < settings.min_catalog_pairs}
    if not few:
        return None
    return (
        f"too few sentence pairs in this machine's gettext catalogs ({', '.join(f'{p} {n}' for p, n in few.items())};"
        f" {settings.min_catalog_pairs} wanted). Falling back to Babel's CLDR data for every pair: enough to try the"
        " commands, no evidence for any method."
    )
