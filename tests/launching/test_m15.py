"""The M15 preset along two stages, from its corpus to the run's own end: the shipped recipe, by ``deepspeed``."""

import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from mnmt_ds.data.settings import DataSettings
from mnmt_ds.engine.recipe import load_recipe
from mnmt_ds.planning.plan import make_plan
from mnmt_ds.tracking import read_records
from tests.spawn import PATIENCE
from tests.tiny import ROOT

RECIPE = ROOT / "launchers" / "recipes" / "m15_stages.yaml"
CATALOGS = DataSettings.model_fields["catalogs"].default
MEMORY, DISK = 20, 20
"""GiB that the run takes."""
MINUTES = 40


def why_not() -> str:
    """Empty where the run can be made here, else the reason."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(facts["MemAvailable"].split()[0]) >> 20
    if free < MEMORY:
        return f"the M15 preset wants {MEMORY} GiB of memory; {free} are free"
    here = [{file.parent.parent.name for file in Path(place).glob("*/LC_MESSAGES/*.mo")} for place in CATALOGS]
    missing = {"el", "bg", "fr", "ko"} - set().union(*here)
    return f"no gettext catalogs of {', '.join(sorted(missing))} in {', '.join(CATALOGS)}" if missing else ""


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A directory that is emptied afterwards: a checkpoint of this model is 6 GB."""
    if shutil.disk_usage(tmp_path).free >> 30 < DISK:
        pytest.skip(f"the M15 preset wants {DISK} GiB of disk for its checkpoint")
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_the_m15_preset_learns_with_teachers_along_two_stages(large: Path) -> None:
    """Six LSSD updates; teachers answer in those that follow a validation at which dev losses have risen."""
    words = [f"directory={large}/run", f"data.directory={large}/data"]
    call(sys.executable, "-m", "mnmt_ds.cli.main", "prepare", str(RECIPE), *words)
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    said = call(deepspeed, "--num_gpus", "2", str(ROOT / "launchers" / "train.py"), str(RECIPE), *words)
    assert "418.3M parameters, 2 rank(s) in 2 stage(s) of " in said
    run = large / "run"
    records = read_records(run / "metrics.jsonl")
    steps, dev = ([one for one in records if one["kind"] == kind] for kind in ("train", "valid"))
    assert [one["update"] for one in steps] == [one["update"] for one in dev] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(one["train/loss"]) and one["train/gnorm"] > 0 for one in steps)
    assert all(math.isfinite(one["valid/avg/macro"]) for one in dev)
    switched = [any(key.endswith("/switch") and value == 1 for key, value in one.items()) for one in dev]
    taught = [one.get("train/kd_loss", 0.0) > 0 for one in steps]
    assert any(taught), [one["valid/avg/macro"] for one in dev]
    assert all(switch for switch, teaches in zip([False, *switched], taught, strict=False) if teaches)
    assert (run / "last").resolve().name == "6" and (run / "checkpoints" / "last").resolve().name == "step_6"
    with safe_open(run / "last" / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    recipe = load_recipe(RECIPE, words)
    plan = make_plan(recipe, RECIPE, words, None, gpu=False, measure=True, calibrate=False)
    assert plan.parameters.total == sum(map(math.prod, shapes)) and round(plan.parameters.total / 1e6, 1) == 418.3
    assert len(plan.memories) == 2
    for number, planned in enumerate(plan.memories):
        taken = max(one[f"memory/cpu/stage_{number}"] for one in [*steps, *dev])
        assert 0.75 < taken / planned.device < 1.1, f"stage {number}: {taken / 1e9:.1f} GB"


def call(*words: str) -> str:
    """What a command says; it must end by itself, and well."""
    done = subprocess.run(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60 * MINUTES * PATIENCE
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
