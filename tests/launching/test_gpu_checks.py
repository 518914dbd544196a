"""The rehearsal of the GPU's checks without one: every step that needs none ends well."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_rehearsal(tmp_path: Path) -> None:
    environment = {**os.environ, "DRY_RUN": "1", "OUT": str(tmp_path / "out"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "launchers/gpu_checks.sh"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    log = (tmp_path / "out" / "log.txt").read_text()
    assert done.returncode == 0, log[-6000:]
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("what") == "done"] == ["check", "loss", "train", "decode"]
    assert not [line for line in lines if line.get("fault") or line.get("faults")]
