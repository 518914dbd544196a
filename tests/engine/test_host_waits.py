"""How often an update's host waits for the GPU, by who asks: counted on the CPU, see ``tests/host_waits.py``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mnmt_ds.batch import Batch
from mnmt_ds.engine.loop import advance, student_loops
from mnmt_ds.engine.parallel import engine
from mnmt_ds.engine.training import Training
from mnmt_ds.methods.method import ValidationReport
from tests.host_waits import host_waits
from tests.spawn import on_ranks
from tests.tiny import recipe


def waits(corpus: Path, run: Path, sections: dict[str, Any]) -> tuple[dict[str, int], int]:
    """Of an update of two micro-batches that is like the ones before it, by place; and reads one update late."""
    sections |= {"train": {"batches_per_update": 2}, "tracking": {"log_every": 1000, "wandb": "off"}}
    training = Training(recipe(corpus, run, **sections), resume=False)
    student = training.first
    assert not student.engine.deepspeed_engine.tput_timer.config.enabled  # it would wait for the whole device
    loops = student_loops(training, next_evaluation=lambda student: 1 << 60)
    for number in range(len(training.pairs) + 1):  # each pair its own teacher
        dev = {pair: 0.5 if k < number else 1.0 for k, pair in enumerate(training.pairs)}
        student.method.on_validation(ValidationReport(number + 1, 0.0, dev))
    student.method.on_validation(ValidationReport(9, 0.0, dict.fromkeys(training.pairs, 2.0)))  # all are taught

    def update() -> None:
        assert not advance(training, loops, stop=False)
        assert len(loops[student.name].under_way.gradient.update.micro_batches) == 2

    update()
    update()
    to_device = engine.to_device
    parameters = [p for p in student.engine.model.parameters()]
    with pytest.MonkeyPatch.context() as patch, host_waits(parameters) as counted:

        def moved(batch: Batch, device: torch.device) -> Batch:
            batch = to_device(batch, device)
            fields = [*batch, *(batch.target_rows or ()), *(batch.encoder_target_rows or ())]
            for field in fields:
                if isinstance(field, Tensor) and field is not batch.sentence_B:
                    counted.mark(field)
            return batch

        patch.setattr(engine, "to_device", moved)
        update()
    training.close()
    return dict(counted.places), counted.late_reads


@pytest.mark.parametrize(
    ("zero", "method"),
    [
        pytest.param("zero1", {"name": "translation"}, marks=pytest.mark.slow),
        ("zero1", {"name": "lssd", "variant": "adaptive", "teachers": {"cache": "off"}}),
        pytest.param(
            "zero2", {"name": "lssd", "variant": "selective", "teachers": {"cache": "ram"}}, marks=pytest.mark.slow
        ),
    ],
)
def test_waits_of_an_update(tiny_corpus: Path, tmp_path: Path, zero: str, method: dict[str, Any]) -> None:
    root = Path(__file__).parents[2]
    sections = {"method": method, "deepspeed": str(root / "ds_configs" / f"{zero}.json")}
    ((counted, late_reads),) = on_ranks(1, waits, tiny_corpus, tmp_path / "run", sections)
    counted.pop("autograd.py:backward", None)  # looks at the loss's factor on a CPU alone
    assert counted == {}
    assert late_reads == 1
