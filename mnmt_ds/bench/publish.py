"""Where a benchmark's results go: its table is printed; a dated JSON file has them with the command and the machine."""

import sys
import time
from pathlib import Path
from typing import Any

from mnmt_ds.files import write_json


def publish(name: str, table: str, results: dict[str, Any], out: Path | None) -> int:
    """Prints the table and writes the result file.

    Args:
        name: the benchmark's.
        table: Markdown.
        results: what the file holds besides command, date, device, threads and torch's version.
        out: the file; None: runs/bench/NAME-DATE-DEVICE.json.

    Returns:
        The exit code 0.
    """
    import torch

    from mnmt_ds.distributed import uses_gpu

    gpu, date = uses_gpu(), time.strftime("%Y-%m-%d")
    content = {
        "command": "mnmt-ds " + " ".join(sys.argv[1:]),
        "date": date,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **results,
    }
    print(table)
    out = out or Path("runs/bench") / f"{name}-{date}-{'gpu' if gpu else 'cpu'}.json"
    write_json(out, content)
    print(f"written to {out}")
    return 0
