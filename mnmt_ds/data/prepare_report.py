"""What was read, what was dropped and why: a table to read, the same numbers as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnmt_ds.config.markdown import escape
from mnmt_ds.data.cleaning_rules import EMPTY_SIDE, NOTICED, RULES
from mnmt_ds.data.held_out_overlap import Overlap, overlap_line
from mnmt_ds.data.language_check import language_lines, language_rows
from mnmt_ds.data.language_identifiers import Identifier
from mnmt_ds.data.tokenizer_coverage import coverage_lines, coverage_rows, read_coverage

SELECTION_RULES = (
    "duplicate", "domain cap", "held-out key", "held-out source", "held-out target", "over limit",
    "over synthetic share",
)  # fmt: skip
"""Rules by which clean rows are left out of the training set."""
DROP_RULES = ("name list", *RULES, *SELECTION_RULES)
"""All rules by which a row is dropped, in the order in which they are applied."""


def corpus_statistics(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Gathers by pair what was read, dropped by rule and repaired, and what each set has.

    Args:
        manifest: the corpus's manifest.

    Returns:
        What ``report.json`` holds.
    """
    return {
        "origin": manifest["origin"],
        "hash": manifest["hash"],
        "held_out_overlap": manifest["held_out_overlap"],
        "tokenizer_coverage": manifest["tokenizer_coverage"],
        "language_check": manifest["language_check"],
        "sentencepiece": manifest["sentencepiece"],
        "pairs": {
            pair: {**_counts(entry), "splits": entry["splits"], "given": entry["given"]}
            for pair, entry in manifest["pairs"].items()
        },
        "monolingual": {
            lang: {**_counts(entry), "sentences": entry["sentences"], "tokens": entry["tokens"]}
            for lang, entry in manifest["monolingual"].items()
        },
    }


def summary_table(path: Path) -> str:
    """Makes the summary that ``prepare`` prints.

    Args:
        path: path of the corpus's manifest.

    Returns:
        Lines of a table, a row a pair.
    """
    manifest = json.loads(path.read_text(encoding="utf-8"))
    header, *rows = _table_rows(manifest)
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    lines += [*_incomplete_rows(manifest), *_synthetic_text(manifest)]
    lines.append(f"{path.parent}: {overlap_line(_overlaps(manifest))}")
    lines += [f"{path.parent}: {line}" for line in coverage_lines(read_coverage(manifest["tokenizer_coverage"]))]
    lines += [f"{path.parent}: {line}" for line in language_lines(manifest["language_check"], _identifier(manifest))]
    return "\n".join([*lines, f"{path.parent}: text from {manifest['origin']}, corpus {manifest['hash'][:12]}"])


def markdown_report(manifest: Mapping[str, Any]) -> str:
    """Makes the whole report.

    Args:
        manifest: the corpus's manifest.

    Returns:
        What ``report.md`` holds.
    """
    header, *rows = _table_rows(manifest)
    overlaps = _overlaps(manifest)
    lines = [
        "# Prepared corpus",
        "",
        f"Text from {manifest['origin']}; corpus `{manifest['hash'][:12]}`,"
        f" tokenizer `{manifest['tokenizer_hash'][:12]}` (SentencePiece {manifest['sentencepiece'] or 'not known'}).",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "All columns between `read` and `train` are dropped rows. `held-out key`: the text by which held-out rows are",
        "chosen (a side, or the key language's text) stands in some pair's dev or test set. `held-out source` and",
        "`held-out target`: further rows with a side that is a held-out sentence of its language. `over limit`: those",
        "above `max_train`. `over synthetic share`: synthetic text above its `share`.",
        "",
        f"{overlap_line(overlaps).capitalize()}.",
        "",
        "| training text | rows | exact | normalised | near-duplicates |",
        "|---|---|---|---|---|",
        *(f"| {name} | {x.rows:,} | {x.exact:,} | {x.normalised:,} | {x.near:,} |" for name, x in overlaps.items()),
        "",
        "What the tokenizer cannot say: unknown pieces; lines that encoding and decoding change (white space aside).",
        "",
        *_markdown_table(coverage_rows(read_coverage(manifest["tokenizer_coverage"]))),
        "",
        *_language_section(manifest["language_check"], _identifier(manifest)),
    ]
    lines += [f"\n{line}." for line in (*_incomplete_rows(manifest), *_synthetic_text(manifest))]
    for pair, entry in [*manifest["pairs"].items(), *manifest["monolingual"].items()]:
        lines += ["", f"## {pair}", ""]
        for kind, count in _repairs(entry["counts"]).items():
            lines.append(f"- repaired: {kind} {count} (first: {entry['places']['train'].get(kind, '-')})")
        for kind in NOTICED:
            if entry["counts"].get(kind):
                place = entry["places"]["train"].get(kind, "-")
                lines.append(f"- kept as it is: {kind} {entry['counts'][kind]} (first: {place})")
        for rule in RULES:
            if entry["counts"].get(rule):
                place = entry["places"]["train"].get(rule, "-")
                lines.append(f"- dropped: {rule} {entry['counts'][rule]} (first: {place})")
        domains = sorted(entry["domains"].items(), key=lambda item: -item[1])
        lines.append("- clean rows by domain: " + ", ".join(f"{name} {count}" for name, count in domains))
        if entry["left_out"]:
            lines.append("- left out: " + ", ".join(entry["left_out"]))
    return "\n".join(lines) + "\n"


def _markdown_table(rows: list[list[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *body]


def _identifier(manifest: Mapping[str, Any]) -> Identifier:
    """Who was asked for languages; manifests of earlier versions do not say."""
    return manifest["settings"]["clean"].get("language_identifier", "py3langid")


def _language_section(languages: Mapping[str, Any] | None, identifier: Identifier) -> list[str]:
    if languages is None:
        return [f"{line.capitalize()}." for line in language_lines(languages, identifier)]
    lines = [
        f"Languages by {identifier}, of up to 1,000 lines a text that have 20 letters or more: lines that are in",
        "another language for certain, perhaps, and in one that is close, which identifiers confuse.",
        "",
    ]
    return lines + _markdown_table([[escape(cell) for cell in row] for row in language_rows(languages)])


def _overlaps(manifest: Mapping[str, Any]) -> dict[str, Overlap]:
    return {name: Overlap(**counts) for name, counts in manifest["held_out_overlap"].items()}


def _incomplete_rows(manifest: Mapping[str, Any]) -> list[str]:
    """Lines that say which given sets have rows with an empty side."""
    return [
        incomplete_rows_line(pair, split, counts, entry["places"][split][EMPTY_SIDE])
        for pair, entry in manifest["pairs"].items()
        for split, counts in entry["given"].items()
        if counts.get(EMPTY_SIDE)
    ]


def _synthetic_text(manifest: Mapping[str, Any]) -> list[str]:
    """Lines that say how much of the pairs' training text a model translated."""
    return [
        f"{pair}: {entry['synthetic']:,} of {entry['splits']['train']['sentences']:,} training sentences are synthetic"
        for pair, entry in manifest["pairs"].items()
        if entry.get("synthetic")
    ]


def incomplete_rows_line(pair: str, split: str, counts: Mapping[str, int], place: str) -> str:
    """Formats in one line how many rows of a given set have an empty side.

    Args:
        pair: the pair's name.
        split: dev or test.
        counts: of the set's rows.
        place: FILE:NUMBER of the first such row.

    Returns:
        The line.
    """
    return (
        f"{pair} {split}: {counts[EMPTY_SIDE]:,} of {counts['clean']:,} given rows have an empty side (first: {place});"
        " kept, so that the rows line up with the given files"
    )


def _counts(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "read": entry["counts"]["read"],
        "dropped": {rule: entry["counts"][rule] for rule in DROP_RULES if entry["counts"].get(rule)},
        "repaired": _repairs(entry["counts"]),
        "noticed": {kind: entry["counts"][kind] for kind in NOTICED if entry["counts"].get(kind)},
        "first": entry["places"],
        "domains": entry["domains"],
        "left_out": entry["left_out"],
    }


def _table_rows(manifest: Mapping[str, Any]) -> list[list[str]]:
    entries = [*manifest["pairs"].values(), *manifest["monolingual"].values()]
    rules = [rule for rule in DROP_RULES if any(entry["counts"].get(rule) for entry in entries)]
    rows = [["pair", "read", *rules, "train", "dev", "test", "source tokens", "target tokens"]]
    for pair, entry in manifest["pairs"].items():
        sizes = [entry["splits"].get(split, {}).get("sentences", 0) for split in ("train", "dev", "test")]
        tokens = [entry["splits"]["train"][f"{side}_tokens"] for side in ("source", "target")]
        rows.append([pair, *_count_cells(entry, rules), *(f"{number:,}" for number in (*sizes, *tokens))])
    for lang, entry in manifest["monolingual"].items():
        rows.append([lang, *_count_cells(entry, rules), f"{entry['sentences']:,}", "", "", f"{entry['tokens']:,}", ""])
    return rows


def _count_cells(entry: Mapping[str, Any], rules: list[str]) -> list[str]:
    return [f"{entry['counts']['read']:,}", *(f"{entry['counts'].get(rule, 0):,}" for rule in rules)]


def _repairs(counts: Mapping[str, int]) -> dict[str, int]:
    return {kind: n for kind, n in counts.items() if n and kind not in (*DROP_RULES, *NOTICED, "read", "clean")}
