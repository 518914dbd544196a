"""Losses, norms and weights of a fixed list of small trainings, to prove that a change of the code changes no number.

``python -m tests.trace OUT.json [--only NAME ...] [--code DIRECTORY]`` runs the list and writes what the runs left
behind. ``python -m tests.trace --compare OLD.json NEW.json [--renamed OLD=NEW ...]`` prints the differences between two
such files and ends with 1 where any number differs. Floating-point results depend on the processor and on PyTorch, so
both files must come from the same machine and environment.

The runs go through the command line alone, and what is written comes from files that a run leaves: nothing of the
package is imported. One copy of these files can therefore trace any commit (``--code``: its checkout).
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.trace.cases import CASES, PAIRS, Sections
from tests.trace.compare import compare
from tests.trace.runs import check_code, collect, run, write_recipe, write_text


def trace(out: Path, only: list[str], code: Path, folder: Path) -> int:
    """Runs the list and writes what it left behind.

    Args:
        out: JSON file that is written, anew after each training.
        only: trainings to run; empty: all.
        code: the checkout whose package runs.
        folder: where the runs go.

    Returns:
        How many trainings failed.
    """
    check_code(code)
    data = {"directory": str(folder / "data"), "pairs": list(PAIRS), "corpora": write_text(folder), "max_train": PAIRS,
            "clean": {"min_script": 0.0}, "split": {"dev": 12, "test": 12},
            "tokenizer": {"size": 120, "hard_limit": False}}  # fmt: skip
    (folder / "prepare.yaml").write_text(json.dumps({"data": data}), encoding="utf-8")
    run(["prepare", str(folder / "prepare.yaml"), "--processes", "1"], code)
    (folder / "baseline.json").write_text(json.dumps(dict.fromkeys(PAIRS, 1.0)), encoding="utf-8")
    needed = {"translation"} if any("experts" in json.dumps(CASES[name].sections) for name in only) else set()
    failed, results = 0, dict[str, Sections]()
    for name, case in CASES.items():
        if only and name not in {*only, *needed}:
            continue
        began, recipe = time.monotonic(), str(write_recipe(folder, name, case))
        try:
            if case.stop_at:
                run(["train", recipe, f"train.max_steps={case.stop_at}"], code, case.ranks, case.launcher)
            run(["train", recipe, *(["--resume"] if case.stop_at else [])], code, case.ranks, case.launcher)
            if case.evaluated:
                run(["evaluate", str(folder / name), "--jobs", "1", "--beam", "2"], code)
            results[name] = collect(folder / name)
            print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
        except RuntimeError as error:
            failed += 1
            print(f"{name}: FAILED: {error}", flush=True)
        out.write_text(json.dumps({"runs": results}, indent=1), encoding="utf-8")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Traces or compares, as the command line says.

    Args:
        arguments: the command line's words; None: this process's.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.trace", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT.json", help="where the trace is written")
    parser.add_argument("--only", nargs="+", default=[], choices=list(CASES), metavar="NAME", help="these trainings")
    parser.add_argument("--code", type=Path, default=Path(__file__).parents[2], help="checkout whose package runs")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the runs there")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OLD.json", "NEW.json"), help="print the differences")
    parser.add_argument("--renamed", nargs="+", default=[], metavar="OLD=NEW", help="metric keys with another name")
    args = parser.parse_args(arguments)
    if args.compare:
        old, new = args.compare
        return int(compare(old, new, args.renamed, args.only) > 0)
    if args.out is None:
        parser.error("give OUT.json, or --compare OLD.json NEW.json")
    folder = args.keep or Path(tempfile.mkdtemp(prefix="trace-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return int(trace(args.out, args.only, args.code.resolve(), folder.resolve()) > 0)
    finally:
        if not args.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
