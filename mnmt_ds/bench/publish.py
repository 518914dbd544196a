"""Where a benchmark's figures go: its table is printed, a dated JSON file has them with the command and the machine."""

import json
import sys
import time
from pathlib import Path
from typing import Any


def publish(name: str, table: str, figures: dict[str, Any], out: Path | None) -> int:
    """Prints the table and writes ``out`` (default: runs/bench/NAME-DATE-DEVICE.json); gives the exit code 0."""
    import torch

    gpu, date = torch.cuda.is_available(), time.strftime("%Y-%m-%d")
    result = {
        "command": "mnmt-ds " + " ".join(sys.argv[1:]),
        "date": date,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **figures,
    }
    print(table)
    out = out or Path("runs/bench") / f"{name}-{date}-{'gpu' if gpu else 'cpu'}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}")
    return 0
