"""Whose products a run uses: settled by its first rank, kept by its checkpoints, said in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mnmt_ds.distributed import ALONE, RankGroup
from mnmt_ds.engine.checkpointing import checkpoint
from mnmt_ds.engine.loop import train
from mnmt_ds.engine.parallel import linear_products
from mnmt_ds.engine.parallel.linear_products import STATE
from mnmt_ds.engine.settings import TrainSettings
from mnmt_ds.errors import UserError
from mnmt_ds.kernels import linear
from mnmt_ds.kernels.linear_choice import Choice
from tests.spawn import on_ranks
from tests.tiny import recipe

CPU = torch.device("cpu")


class TwoRanks(RankGroup):
    """The first of two ranks; what the second one says stands in ``answer``."""

    answer = ""

    def gather(self, value: Any) -> list[Any]:
        return [value, self.answer]


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine where the kernels are faster."""
    before = linear.chosen()
    monkeypatch.setattr(linear_products, "measured_choice", lambda: Choice("cpu", "faster here"))
    yield
    linear.use(before)


def settle(
    kept: str | None = None, group: RankGroup = ALONE, device: torch.device = CPU, **train: Any
) -> tuple[str, str]:
    return linear_products.settle(
        TrainSettings.model_validate(train), device, None if kept is None else {STATE: kept}, group
    )


def test_a_new_run_takes_the_faster_and_a_resumed_one_what_it_had() -> None:
    assert settle() == ("cpu", "linear layers: the C++ kernels' products (faster here)")
    assert linear.chosen() == "cpu"
    assert settle("torch") == ("torch", "linear layers: torch's products (as the run began)")
    assert linear.chosen() == "torch"
    assert linear_products.settle(TrainSettings(), CPU, {}, ALONE)[0] == "torch"  # an older run's checkpoint
    assert settle("torch", linear_implementation="cpu")[0] == linear.chosen() == "cpu"
    assert settle("cpu", linear_implementation="torch")[0] == linear.chosen() == "torch"


def test_other_types_and_devices_are_torchs() -> None:
    linear.use("cpu")
    assert settle(precision="bf16") == ("torch", "") and linear.chosen() == "torch"
    assert settle(device=torch.device("cuda")) == ("torch", "")
    assert settle(torch_compile=True) == ("torch", "")
    with pytest.raises(UserError, match=r"train\.linear_implementation: cpu computes in float32 on a CPU; .* bf16"):
        settle(precision="bf16", linear_implementation="cpu")
    with pytest.raises(UserError, match="this run is compiled on cpu; leave it at auto"):
        settle(torch_compile=True, linear_implementation="cpu")


def test_all_ranks_or_none() -> None:
    ranks = TwoRanks()
    assert settle(group=ranks)[0] == "cpu"
    TwoRanks.answer = "no C++ compiler"
    try:
        name, line = settle(group=ranks)
        assert (name, linear.chosen()) == ("torch", "torch") and line.endswith("not the kernels': no C++ compiler")
        assert "used so far; its sums are rounded otherwise" in settle("cpu", ranks)[1]
        with pytest.raises(UserError, match=r"linear_implementation: cpu cannot run here: no C\+\+ compiler"):
            settle(group=ranks, linear_implementation="cpu")
    finally:
        TwoRanks.answer = ""


def run(corpus: str, directory: str, parts: list[tuple[str, int]]) -> None:
    """Trains in parts: whose products are the faster ones, and the update until which it goes."""
    for number, (name, updates) in enumerate(parts):
        linear_products.measured_choice = lambda name=name: Choice(name, "measured")
        train(recipe(Path(corpus), Path(directory), train={"max_steps": updates}), resume=number > 0)


def test_a_run_keeps_its_products(tiny_corpus: Path, tmp_path: Path) -> None:
    """Resumed where the other products would be chosen, a run goes on bit for bit as if it had not stopped."""

    on_ranks(1, run, str(tiny_corpus), str(tmp_path / "whole"), [("cpu", 8)])
    on_ranks(1, run, str(tiny_corpus), str(tmp_path / "resumed"), [("cpu", 4), ("torch", 8)])
    on_ranks(1, run, str(tiny_corpus), str(tmp_path / "other"), [("torch", 8)])
    for name, kept in (("whole", "cpu"), ("resumed", "cpu"), ("other", "torch")):
        state = checkpoint.read_state(checkpoint.complete(tmp_path / name)[0])
        assert state["linear_implementation"] == kept
    whole, resumed, other = (
        (tmp_path / name / "last" / "model.safetensors").read_bytes() for name in ("whole", "resumed", "other")
    )
    assert resumed == whole != other
