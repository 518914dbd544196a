"""Which row of a pair's text trains, which is held out and which is dropped: decided from hashes, without the text.

Letters: N rows of a pair's text.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data import holdout
from mnmt_ds.data.cleaning_rules import CleanedBlock
from mnmt_ds.data.dedup_keys import hash64
from mnmt_ds.data.held_out_text import HeldOutText, held_out_masks
from mnmt_ds.data.holdout import Mask, RowHashes, Rows
from mnmt_ds.data.language_codes import key_side, same_language
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.errors import UserError


class SplitAssignment(NamedTuple):
    """Assignment of a pair's rows: which are usable, and which are held out as dev and test sets."""

    usable: Mask
    """Mask of the rows that are no duplicates and within their domain's cap."""
    dev: Rows
    """Rows held out as dev set; none where a dev set is given."""
    test: Rows
    """Rows held out as test set; none where a test set is given."""
    counts: Counter[str]
    """Rows that may not be used, by rule."""
    keys: int
    """Different keys of the rows from which sets are held out: of the usable ones that are no synthetic text."""

    @property
    def held_out(self) -> Rows:
        """Rows of the dev and of the test set."""
        return np.concatenate([self.dev, self.test])


def concatenate_hashes(blocks: list[CleanedBlock]) -> RowHashes:
    """Joins the hashes of cleaned blocks.

    Args:
        blocks: cleaned blocks in the order of the text.

    Returns:
        Hashes of all their rows.
    """
    domains = [np.full(len(block.key), block.domain, np.uint16) for block in blocks]
    empty = np.zeros(0, np.uint64)
    return RowHashes(
        np.concatenate([empty, *(block.key for block in blocks)]),
        np.concatenate([empty, *(block.source_key for block in blocks)]),
        np.concatenate([empty, *(block.target_key for block in blocks)]),
        np.concatenate([empty, *(block.pair for block in blocks)]),
        np.concatenate([np.zeros(0, np.uint16), *domains]),
    )


def usable_rows(settings: DataSettings, train: RowHashes) -> tuple[Mask, Counter[str]]:
    """Finds the rows that are no duplicates and within their domain's cap.

    Args:
        settings: the recipe's ``data`` section.
        train: hashes of a training text.

    Returns:
        Mask of these rows, and counts of the others by rule.
    """
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
    """Finds the usable rows of a pair's training text, and holds out of them the sets that are not given.

    Args:
        settings: the recipe's ``data`` section.
        hashes: of the training text under "train", and of the given sets under "dev" and "test".

    Returns:
        Usable rows and held-out rows of the training text.
    """
    usable_N, counts = usable_rows(settings, hashes["train"])
    real_N = usable_N & ~hashes["train"].is_synthetic
    dev = 0 if "dev" in hashes else settings.split.dev
    test = 0 if "test" in hashes else settings.split.test
    key_N = hashes["train"].key
    rows = holdout.choose_held_out_rows(key_N, real_N, dev, test)
    return SplitAssignment(usable_N, *rows, counts, len(np.unique(key_N[real_N])))


def pairs_without_key_language(settings: DataSettings) -> str | None:
    """Lists pairs without a side in the key language, and the side by which their rows are held out instead.

    Args:
        settings: the recipe's ``data`` section.

    Returns:
        A message of one line; None where every pair has a side in the key language.
    """
    language, sides = settings.split.key_language, {}
    for pair in settings.pairs:
        languages = split_pair(pair)
        side = languages[key_side(*languages, language)]
        if not same_language(side, language):
            sides[pair] = side
    if not sides:
        return None
    where = "none of the pairs" if len(sides) == len(settings.pairs) else f"no side of {', '.join(sides)}"
    return (
        f"split.key_language {language} is {where}; where no reader gives a text in it, dev and test rows are chosen by"
        f" the side in {', '.join(dict.fromkeys(sides.values()))}"
    )


def split_of_rows(
    settings: DataSettings, pair: str, train: RowHashes, assignment: SplitAssignment, held_out: HeldOutText
) -> tuple[NDArray[np.uint8], Counter[str]]:
    """Decides for every row of a pair's training text in which split it is, if in any.

    Args:
        settings: the recipe's ``data`` section.
        pair: the pair's name.
        train: hashes of its training text.
        assignment: its usable and held-out rows.
        held_out: what no row may be trained on.

    Returns:
        (N,): ``holdout.TRAIN``, ``DEV``, ``TEST`` or ``DROPPED`` for each row; and how many rows each rule dropped.
    """
    masks = held_out_masks(pair, settings.split.key_language, train, held_out)
    candidates_N = assignment.usable.copy()
    candidates_N[assignment.held_out] = False
    real_N = candidates_N & ~train.is_synthetic
    rows, training_counts = holdout.choose_training_rows(train.pair, real_N, masks, settings.limit_of(pair))
    counts = assignment.counts + training_counts
    synthetic_rows, synthetic_counts = _choose_synthetic_rows(train, candidates_N, masks, len(rows))
    rows, counts = np.concatenate([rows, *synthetic_rows]), counts + synthetic_counts
    split_N = np.full(len(train.key), holdout.DROPPED, np.uint8)
    for split, split_rows in ((holdout.TRAIN, rows), (holdout.DEV, assignment.dev), (holdout.TEST, assignment.test)):
        split_N[split_rows] = split
    return split_N, counts


def _choose_synthetic_rows(
    train: RowHashes, candidates_N: Mask, masks: Mapping[str, Mask], real: int
) -> tuple[list[Rows], Counter[str]]:
    """The synthetic rows to train on beside so many real ones, by domain, and how many were left out by which rule."""
    left = 1 - sum(text.share or 0.0 for text in train.synthetic.values())
    chosen, counts = [], Counter[str]()
    for domain, text in train.synthetic.items():
        limit = None if text.share is None else round(real * text.share / left)
        rows, rule_counts = holdout.choose_training_rows(
            train.pair, candidates_N & (train.domain == domain), masks, limit
        )
        rule_counts["over synthetic share"] = rule_counts.pop("over limit", 0)
        chosen.append(rows)
        counts += rule_counts
    return chosen, counts


def complete_rows(hashes: RowHashes, seed: int) -> int:
    """Counts the rows that have both sides.

    Args:
        hashes: of a given dev or test set.
        seed: of the keys' hashes (``split.seed``).

    Returns:
        Rows whose source and target are not empty.
    """
    empty = np.uint64(hash64("", seed))
    return int(((hashes.source != empty) & (hashes.target != empty)).sum())


def check_split_sizes(
    settings: DataSettings,
    pair: str,
    split_N: NDArray[np.uint8],
    held_out_sizes: Mapping[str, int],
    counts: Counter[str],
    keys: int,
) -> None:
    """Checks that a pair has training, dev and (where wanted) test sentences.

    Args:
        settings: the recipe's ``data`` section.
        pair: the pair's name.
        split_N: split of each row of its training text.
        held_out_sizes: complete sentence pairs of the given sets, by "dev" and "test".
        counts: rows of the training text by what became of them.
        keys: different keys of the rows from which sets are held out.

    Raises:
        UserError: when a set is empty: says where the rows went.
    """
    sizes = {split: int((split_N == number).sum()) for number, split in enumerate(holdout.SPLITS)}
    for split in holdout.SPLITS:
        if split in held_out_sizes:
            if not held_out_sizes[split]:
                raise UserError(
                    f"data.corpora.{pair}.{split}: no {split} sentence is left: no row of the set has both sides; give"
                    f" its files, or leave {split} out, so that it is held out of the training text"
                )
        elif not sizes[split] and not (split == "test" and not settings.split.test):
            became = {**counts, **{f"held out for {name}": sizes[name] for name in ("dev", "test")}}
            became["trained on"] = sizes["train"]
            reasons = ", ".join(f"{kind} {n}" for kind, n in became.items() if n)
            raise UserError(f"pair {pair}: no {split} sentence is left ({reasons or 'nothing was read'})"
                            f"{_remedy(settings, pair, split, keys)}")  # fmt: skip


def _remedy(settings: DataSettings, pair: str, split: str, keys: int) -> str:
    """Why a set that is made of the training text is empty where its rows were read, and what helps."""
    has_synthetic = any(entry.synthetic for entry in settings.files_of(pair).train)
    real = " that is no synthetic one" if has_synthetic else ""
    if split == "train":
        return f"; give more text{real}, or change data.clean, data.split or data.max_train"
    languages = split_pair(pair)
    side = languages[key_side(*languages, settings.split.key_language)]
    if keys < 4:
        return (
            f": it is held out of {'real ' if has_synthetic else ''}rows with different texts in {side} (letters"
            f" alone count), at most a quarter of them, and there are {keys}; give more text{real}, or a {split} set in"
            f" data.corpora.{pair}.{split}"
        )
    return (
        f": by their hashes none of {keys} different texts in {side} (letters alone count) is for {split}; give more"
        f" text{real}, a {split} set in data.corpora.{pair}.{split}, or another data.split.seed"
    )


def check_script(lang: str, counts: Mapping[str, int]) -> None:
    """Checks that a monolingual text is in its language's script.

    Args:
        lang: the language.
        counts: lines of its text by what became of them.

    Raises:
        UserError: when most lines are in another script: another language's file, most likely.
    """
    foreign = counts.get("script", 0) + counts.get("no letters", 0)
    total = sum(count for kind, count in counts.items() if kind != "read")
    if 2 * foreign > total:
        raise UserError(
            f"data.monolingual.{lang}: {foreign:,} of {total:,} lines are not in the script of '{lang}'; give that"
            " language's file, or set data.clean.min_script: 0 if this is it"
        )


def catalog_shortage(settings: DataSettings, counts: Mapping[str, int]) -> str | None:
    """Explains why the system's catalogs are not enough.

    Args:
        settings: the recipe's ``data`` section.
        counts: usable rows of the catalogs, by pair.

    Returns:
        A message that names the pairs with too few rows; None where all have enough.
    """
    too_few = {pair: count for pair, count in counts.items() if count < settings.min_catalog_pairs}
    if not too_few:
        return None
    return (
        "too few sentence pairs in this machine's gettext catalogs"
        f" ({', '.join(f'{pair} {count}' for pair, count in too_few.items())};"
        f" {settings.min_catalog_pairs} wanted). Falling back to Babel's CLDR data for every pair: enough to try the"
        " commands, no evidence for any method."
    )
