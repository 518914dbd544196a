"""Benchmarks that start ranks of their own: the command starts itself again on each of them, as torchrun would."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnmt_ds.bench.measuring import set_threads
from mnmt_ds.errors import UserError


def rows_of_ranks(count: int, *words: str) -> list[Any]:
    """Starts ranks with this command's own arguments and some more, and collects the rows that they measure.

    Args:
        count: number of ranks.
        words: further arguments.

    Returns:
        The rows, as ``measure_on_rank`` wrote them.

    Raises:
        UserError: when a rank fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        arguments = [word for word in sys.argv[1:] if word != "--"]
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count),
            "-m", "mnmt_ds.cli.main", *arguments, "--result", str(result), *words,
        ]  # fmt: skip
        code = subprocess.run(command, check=False).returncode
        if code:
            raise UserError(f"bench: {count} rank(s) ended with {code}; their messages are above")
        return list(json.loads(result.read_text(encoding="utf-8")))


def measure_on_rank(args: argparse.Namespace, measure: Callable[[], list[Any]]) -> int:
    """Runs a measurement as one of the ranks; the main rank writes the rows to ``args.result``.

    Args:
        args: the rank's arguments.
        measure: joins in the measurement and gives the rows.

    Returns:
        The exit code 0.
    """
    from mnmt_ds.distributed import is_main, job
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    set_threads()
    with job():
        rows = measure()
        if is_main():
            args.result.write_text(json.dumps(rows), encoding="utf-8")
    return 0
