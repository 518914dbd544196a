"""What a tokenizer cannot say: unknown pieces, and lines that encoding and decoding change; counted on text itself."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.data.held_out_overlap import LanguageFile
from mnmt_ds.data.tokenizer import UNK, Tokenizer
from mnmt_ds.data.worker_pool import ProgressBar, map_in_order

MOST_LINES = 100_000
"""Lines of a file that are looked at, evenly spaced; of a shorter one all."""
BLOCK = 2000
"""Lines that a worker encodes at once."""
LISTED_CHARACTERS = 5
"""Characters that are named among those that the round trip loses."""
SIDES = ("source", "target")


class Coverage(NamedTuple):
    """Counts of unknown pieces and lost characters, with which a tokenizer encodes some text in one language."""

    language: str
    lines: int
    """Lines that were looked at."""
    pieces: int
    unknown: int
    """Unknown pieces among them."""
    changed: int
    """Lines that come back other than they were, but for white space."""
    lost: Mapping[str, int]
    """Characters that did not come back, as ``U+200C``, and how often; the most frequent ones."""
    first: str
    """FILE:NUMBER of the first line with an unknown piece or a change; empty where there is none."""


def count_coverage(
    pool: Executor, files: Mapping[str, Sequence[LanguageFile]], tokenizer: Path
) -> dict[str, dict[str, Coverage]]:
    """Counts unknown pieces and changed lines of texts.

    Args:
        pool: worker processes.
        files: by name, one file a side, as from ``corpus_texts``.
        tokenizer: directory of the tokenizer.

    Returns:
        By name and "source" or "target" (of text in one language: source alone).
    """
    coverage: dict[str, dict[str, Coverage]] = {}
    with ProgressBar("round trips of the tokenizer", "lines") as progress:
        for name, sides in files.items():
            coverage[name] = {}
            for side, file in zip(SIDES, sides, strict=False):
                coverages = []
                count = partial(_count_block, language=file.language, tokenizer=tokenizer)
                place = f"text/{name}" if len(sides) == 1 else f"text/{name}.{'src' if side == 'source' else 'tgt'}"
                for block_coverage in map_in_order(pool, count, _line_blocks(file.path, place)):
                    coverages.append(block_coverage)
                    progress.add(block_coverage.lines)
                coverage[name][side] = _total(file.language, coverages)
    return coverage


def coverage_values(coverage: Mapping[str, Mapping[str, Coverage]]) -> dict[str, Any]:
    """Converts counts to JSON values.

    Args:
        coverage: from ``count_coverage``.

    Returns:
        The same as the manifest holds it.
    """
    return {name: {side: counts._asdict() for side, counts in sides.items()} for name, sides in coverage.items()}


def read_coverage(values: Mapping[str, Any]) -> dict[str, dict[str, Coverage]]:
    """Reads the counts that ``coverage_values`` converted.

    Args:
        values: of the manifest.

    Returns:
        Counts by name and side.
    """
    return {name: {side: Coverage(**counts) for side, counts in sides.items()} for name, sides in values.items()}


def coverage_lines(coverage: Mapping[str, Mapping[str, Coverage]]) -> list[str]:
    """Formats for each language and side which characters the tokenizer loses.

    Args:
        coverage: from ``count_coverage``.

    Returns:
        A line a language and side that has any; one line where there is none.
    """
    by_side: dict[tuple[str, str], list[Coverage]] = {}
    for sides in coverage.values():
        for side, counts in sides.items():
            by_side.setdefault((counts.language, side), []).append(counts)
    lines = []
    for (language, side), coverages in by_side.items():
        total = _total(language, coverages)
        if not (total.unknown or total.changed):
            continue
        lost = ", ".join(f"{name} {count:,}" for name, count in total.lost.items())
        remedies = ["data.tokenizer.normalization=identity"] if total.changed and not total.unknown else []
        remedies += ["a higher data.tokenizer.coverage", "byte_fallback"] if total.unknown else []
        lines.append(
            f"tokenizer, {language} as {side}: {percent(total.unknown, total.pieces)} unknown pieces;"
            f" {percent(total.changed, total.lines)} of {total.lines:,} lines are changed by encoding and decoding"
            + (f" (lost: {lost})" if lost else "")
            + f"; first: {total.first}; {' or '.join(remedies)} would help"
        )
    return lines or ["tokenizer: no unknown pieces, and no line is changed by encoding and decoding"]


def coverage_rows(coverage: Mapping[str, Mapping[str, Coverage]]) -> list[list[str]]:
    """Formats a table of all texts.

    Args:
        coverage: from ``count_coverage``.

    Returns:
        The head, then a row a text and side.
    """
    rows = [["text", "side", "language", "lines", "pieces", "unknown", "", "changed lines", "", "lost characters"]]
    for name, sides in coverage.items():
        for side, x in sides.items():
            counts = [f"{x.unknown:,}", percent(x.unknown, x.pieces), f"{x.changed:,}", percent(x.changed, x.lines)]
            lost = ", ".join(f"{character} {count:,}" for character, count in x.lost.items())
            rows.append([name, side, x.language, f"{x.lines:,}", f"{x.pieces:,}", *counts, lost])
    return rows


def percent(part: int, whole: int) -> str:
    """Formats a share so that a small one is not taken for none.

    Args:
        part: of the whole.
        whole: at least the part.

    Returns:
        Such as ``1.25 %``; ``< 0.01 %`` for what is less, but not 0.
    """
    share = 100 * part / whole if whole else 0.0
    return "< 0.01 %" if 0 < share < 0.01 else f"{share:.2f} %"


def _line_blocks(path: Path, place: str) -> Iterator[tuple[str, list[int], list[bytes]]]:
    """The file's name in the corpus, line numbers and lines; evenly spaced ones of a long file."""
    with path.open("rb") as stream:
        total = sum(chunk.count(b"\n") for chunk in iter(partial(stream.read, 1 << 20), b""))
    sample_size = min(total, MOST_LINES)
    with path.open("rb") as stream:
        chosen = (
            (i + 1, line) for i, line in enumerate(stream) if (i + 1) * sample_size // total > i * sample_size // total
        )
        while block := list(islice(chosen, BLOCK)):
            numbers, lines = zip(*block, strict=True)
            yield place, list(numbers), list(lines)


def _count_block(block: tuple[str, list[int], list[bytes]], language: str, tokenizer: Path) -> Coverage:
    place, numbers, lines = block
    opened = _open_tokenizer(tokenizer)
    texts = [line.removesuffix(b"\n").decode() for line in lines]
    encoded = opened.encode_many(texts, language)
    pieces = unknown = changed = 0
    lost: Counter[str] = Counter()
    first = ""
    for number, text, ids in zip(numbers, texts, encoded, strict=True):
        unknown_here = sum(i == UNK for i in ids)
        before, after = text.split(), opened.decode(ids).split()
        pieces, unknown = pieces + len(ids), unknown + unknown_here
        if before != after:
            changed += 1
            lost += Counter("".join(before)) - Counter("".join(after))
        if not first and (unknown_here or before != after):
            first = f"{place}:{number}"
    named = {f"U+{ord(character):04X}": count for character, count in lost.items()}
    return Coverage(language, len(texts), pieces, unknown, changed, named, first)


def _total(language: str, coverages: Sequence[Coverage]) -> Coverage:
    lost: Counter[str] = Counter()
    for coverage in coverages:
        lost.update(coverage.lost)
    most = dict(sorted(lost.items(), key=lambda item: (-item[1], item[0]))[:LISTED_CHARACTERS])
    return Coverage(
        language,
        sum(coverage.lines for coverage in coverages),
        sum(coverage.pieces for coverage in coverages),
        sum(coverage.unknown for coverage in coverages),
        sum(coverage.changed for coverage in coverages),
        most,
        next((coverage.first for coverage in coverages if coverage.first), ""),
    )


@lru_cache(maxsize=2)
def _open_tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.open(directory)
