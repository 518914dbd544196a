"""Six hundred language pairs with few open files: LSSD, killed and resumed, is the run that nothing disturbed."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mnmt_ds.bench.scale import write_corpora
from mnmt_ds.tracking import read_records
from tests.spawn import PATIENCE

PAIRS, UPDATES, DESCRIPTORS = 600, 300, 256
TOOL = "ulimit -n {limit}; exec {python} -m mnmt_ds.cli.main "


def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A command that may have few files open."""
    text = TOOL.format(limit=DESCRIPTORS, python=sys.executable) + " ".join(words)
    return subprocess.Popen(["bash", "-c", text], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=1800 * PATIENCE)
    assert process.returncode == 0, said.decode()[-2000:]


@pytest.mark.slow
def test_six_hundred_pairs_with_few_descriptors(tmp_path: Path) -> None:
    recipe = str(write_corpora(tmp_path, PAIRS, 30))
    finish(start(["prepare", recipe]))
    settings = [
        f"train.max_steps={UPDATES}", "train.save_every=50", "validation.every=100", "train.lr=5e-3",
        "validation.keep_best_per_pair=false",
    ]  # fmt: skip
    train = ["train", recipe, "--resume", *settings]
    runs = [tmp_path / name for name in ("whole", "killed")]
    finish(start([*train, f"directory={runs[0]}"]))
    process = start([*train, f"directory={runs[1]}"])
    end = time.monotonic() + 1800 * PATIENCE
    while not (runs[1] / "checkpoints" / "step_150").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start([*train, f"directory={runs[1]}"]))
    whole, killed = (load_file(run / "last" / "model.safetensors") for run in runs)
    assert whole.keys() == killed.keys() and all(whole[name].equal(killed[name]) for name in whole)
    logs = [[one for one in read_records(run / "metrics.jsonl") if one["kind"] == "valid"] for run in runs]
    kept = [
        [{k: v for k, v in one.items() if k.split("/")[0] in ("valid", "teacher", "data")} for one in log]
        for log in logs
    ]
    assert kept[0] == kept[1] and [one["update"] for one in logs[0]] == [100, 200, 300]
    assert sum(key.endswith("/nll") and "-en" in key for key in logs[0][0]) == PAIRS
    assert any(
        key.startswith("teacher/") and key.endswith("/version") and value > 0 for key, value in logs[0][2].items()
    )
