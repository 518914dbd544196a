"""The tables of docs/benchmarks.md, made from the result files.

``python -m mnmt_ds.bench.results_page docs/benchmarks.md`` writes them anew; ``--check`` writes nothing and tells
whether the page is up to date. The text of the page is written by hand. Between ``<!-- tables: NAME -->`` and
``<!-- end -->`` stand the tables of the benchmark NAME, one for each of its result files, as the benchmark prints them.
"""

import argparse
import importlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnmt_ds.files import write_text

RESULTS = Path(__file__).with_name("results")
BENCHMARKS = ("throughput", "methods", "teachers", "loss", "pipeline", "staged", "placement", "finetune", "linear")
SECTION = re.compile(r"(<!-- tables: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Result = Mapping[str, Any]


def filled(page: str) -> str:
    """Renders a page with the tables of all its sections made anew.

    Args:
        page: Markdown with ``<!-- tables: NAME -->`` and ``<!-- end -->`` around each benchmark's tables.

    Returns:
        The page's text, equal to ``page`` where that is up to date.

    Raises:
        KeyError: where a section names no benchmark.
    """
    return SECTION.sub(lambda match: f"{match[1]}{section(match[2])}{match[3]}", page)


def section(benchmark: str) -> str:
    """Renders the tables of a benchmark, one for each result file, oldest first.

    Args:
        benchmark: one of ``BENCHMARKS``.

    Returns:
        Markdown; each table stands under a line with its file, date, threads, torch and command.

    Raises:
        KeyError: where there is no benchmark of that name.
    """
    if benchmark not in BENCHMARKS:
        raise KeyError(f"no benchmark '{benchmark}'; there are {', '.join(BENCHMARKS)}")
    paths = sorted(RESULTS.glob(f"{benchmark}-*.json"), key=lambda path: path.stem)
    parts = [f"\n{heading(path, result)}\n\n{table(benchmark, result)}\n" for path, result in map(read, paths)]
    return "".join(parts) + "\n"


def read(path: Path) -> tuple[Path, Result]:
    """Reads a result file.

    Args:
        path: JSON file that a benchmark wrote.

    Returns:
        The path and the parsed JSON.
    """
    return path, json.loads(path.read_text(encoding="utf-8"))


def heading(path: Path, result: Result) -> str:
    """Renders the line above a table, which says where its figures are from.

    Args:
        path: the result file.
        result: what it holds.

    Returns:
        One line of Markdown.
    """
    facts = [
        str(result["date"])[:10],
        *([str(result["machine"])] if "machine" in result else []),
        f"{result['threads']} thread{'s' if result['threads'] != 1 else ''}",
        *([f"torch {result['torch']}"] if "torch" in result else []),
        *([f"load average {result['load_average']}"] if "load_average" in result else []),
    ]
    return f"**{path.stem}**: {', '.join(facts)}; `{result['command']}`"


def table(benchmark: str, result: Result) -> str:
    """Renders a result as its benchmark's own table.

    Args:
        benchmark: one of ``BENCHMARKS``.
        result: what a result file of it holds.

    Returns:
        Markdown.
    """
    if benchmark == "loss":
        return loss_table(result["rows"])
    module = importlib.import_module(f"mnmt_ds.bench.{benchmark}")
    return str(module.table(result if benchmark in ("throughput", "linear") else result["rows"]))


def loss_table(rows: Sequence[Result]) -> str:
    """Renders the table of the fused loss and other implementations.

    Args:
        rows: one a problem and peer.

    Returns:
        Markdown; times in milliseconds, memory in MiB above the inputs.
    """
    lines = [
        "| N | d | V | task | peer | ms | best ms | times ours | peak MiB | of floor |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['tokens']} | {r['width']} | {r['vocabulary']} | {r['task']} | {r['peer']} | {r['milliseconds']:.0f} |"
        f" {r['best']:.0f} | {r['times_ours']:.2f} | {r['peak_mib']:.0f} | {100 * r['share_of_floor']:.0f} % |"
        for r in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page's tables anew, or checks them.

    Args:
        arguments: command line; None: the process's.

    Returns:
        Exit code: 1 where ``--check`` finds the page out of date.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("page", type=Path, help="Markdown page, such as docs/benchmarks.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page is out of date")
    args = parser.parse_args(arguments)
    text = args.page.read_text(encoding="utf-8")
    made = filled(text)
    if args.check:
        if made != text:
            print(f"{args.page}: out of date; run python -m mnmt_ds.bench.results_page {args.page}", file=sys.stderr)
        return int(made != text)
    write_text(args.page, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
