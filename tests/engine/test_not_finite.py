"""A gradient or weight that is not finite ends a run by name, on every rank, before anything is updated or kept."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.spawn import on_ranks
from tests.tiny import recipe, zero


class Case(NamedTuple):
    """A layout of two ranks, and on which of them a gradient breaks."""

    precision: str
    stage: int
    clip_norm: float = 0.0
    layout: str = ""
    rank: int = 1


EVERYDAY = [Case("fp32", 0), Case("bf16", 0), Case("fp32", 0, 1.0, "pipeline")]
PLAIN = [Case(precision, stage, clip) for precision in ("fp32", "bf16") for stage in range(4) for clip in (0.0, 1.0)]
LAYERED = [
    Case(precision, stage, clip, layout, rank)
    for precision, stage in (("fp32", 0), ("fp32", 1), ("bf16", 1))
    for clip in (0.0, 1.0)
    for layout in ("pipeline", "tensor")
    for rank in (0, 1)
]
LAYOUTS: dict[str, dict[str, Any]] = {
    "": {},
    "pipeline": {"pipeline": {"stages": 2}},
    "tensor": {"tensor": {"vocabulary": 2}},
}


def _training(corpus: str, run: str, case: Case) -> Any:
    from mnmt_ds.engine.training import Training

    train = {"precision": case.precision, "clip_norm": case.clip_norm, "max_steps": 4}
    sections = {"train": train, "deepspeed": zero(case.stage, run), **LAYOUTS[case.layout]}
    return Training(recipe(Path(corpus), Path(run), **sections), resume=False)


def _broken(corpus: str, folder: str, cases: list[Case]) -> list[dict[str, Any]]:
    """Two updates, then one in which one rank's gradient of one parameter becomes ``value``; what came of it."""
    from mnmt_ds.distributed import rank
    from mnmt_ds.engine.loop import student_loops, train_update
    from mnmt_ds.errors import RunError
    from mnmt_ds.models.vocab_parallel import is_vocab_sharded
    from mnmt_ds.private_apis import weight_and_master_tensors

    results = []
    for number, case in enumerate(cases):
        training = _training(corpus, f"{folder}/{number}", case)
        student, (loop,) = training.first, student_loops(training).values()
        norms = []
        for _ in range(2):
            norms.append(train_update(loop, student.data_iterator.next_update()).norm)
            student.data_iterator.update_done()
        before = [tensor.clone() for tensor in weight_and_master_tensors(student.engine.deepspeed_engine)]
        if rank() == case.rank:
            value = float("nan") if number % 2 else float("inf")
            # among ranks that share a vocabulary DeepSpeed counts what all have once, on the first of them; a rank's
            # own is its share of the words
            own = [weight for weight in student.engine.model.parameters() if is_vocab_sharded(weight)]
            broken = own[0] if own else list(student.engine.model.parameters())[-2]
            broken.register_hook(lambda gradient: gradient * value)  # noqa: B023
        message = ""
        try:
            train_update(loop, student.data_iterator.next_update())
        except RunError as error:
            message = str(error)
        after = list(weight_and_master_tensors(student.engine.deepspeed_engine))
        same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        refused = ""
        try:
            if rank() == case.rank:
                after[0].view(-1)[0] = float("nan")
            training.save()
        except RunError as error:
            refused = str(error)
        training.close()
        training.lock and training.lock.close()
        kept = [path.name for path in Path(f"{folder}/{number}").glob("checkpoints/*")]
        results.append({"message": message, "same": same, "refused": refused, "kept": kept, "norms": norms})
    return results


@pytest.mark.parametrize(
    "cases",
    [
        EVERYDAY,
        pytest.param(PLAIN, marks=pytest.mark.slow),
        pytest.param(LAYERED, marks=pytest.mark.slow),
    ],
    ids=["everyday", "plain", "layered"],
)
def test_nothing_is_updated_or_kept(cases: list[Case], tiny_corpus: Path, tmp_path: Path) -> None:
    for found in on_ranks(2, _broken, str(tiny_corpus), str(tmp_path), cases):
        for case, result in zip(cases, found, strict=True):
            message = result["message"]
            assert message.startswith("update 3: the gradient is not finite (pairs: "), (case, message)
            assert "-en" in message and "nothing was updated" in message and "\n" not in message, case
            assert result["same"], (case, "weights were updated")
            assert result["refused"].startswith("update 2: weights are not finite; nothing was saved"), case
            assert not result["kept"], case
            assert all(norm > 0 for norm in result["norms"]), case
