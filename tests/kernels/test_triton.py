"""The Triton implementation without a GPU: its kernels in Triton's interpreter, and compiled for one that is not there.

What only a GPU can show, timing and asynchronous copies, is left to launchers/gpu_checks.sh.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.sass import cuobjdump

ROOT = Path(__file__).parents[2]
pytest.importorskip("triton")


def test_in_the_interpreter() -> None:
    file = "tests/kernels/triton_in_interpreter.py"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", file]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


@pytest.mark.skipif(cuobjdump() is None, reason="no cuobjdump here, not even Triton's")
def test_compiled_for_a_gpu_nothing_spills() -> None:
    """For sm_90, at the tiles of training; products by wgmma, fed and stored by the tensor memory accelerator."""
    command = [sys.executable, "-m", "tests.kernels.triton_sass"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    kernels = json.loads(done.stdout)
    assert len(kernels) == 7
    for name, figures in kernels.items():
        assert figures["stack"] == figures["local"] == figures["spill_instructions"] == 0, (name, figures)
        assert figures["registers"] <= 255, (name, figures)
    for name in ("logits", "logits, T"):
        assert kernels[name]["products"] >= 4 and kernels[name]["tma_loads"] and kernels[name]["tma_stores"]
