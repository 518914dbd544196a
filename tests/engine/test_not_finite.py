"""A gradient or weight that is not finite ends a run by name, on every rank, before anything is updated or kept."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
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


EVERYDAY = [Case("fp32", 0), Case("bf16", 0), Case("bf16", 1, 1.0), Case("fp32", 0, 1.0, "pipeline")]
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


def _late(corpus: str, folder: str, cases: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """The whole loop, in whose third update a loss or gradient breaks on the last rank; a checkpoint every so often."""
    from mnmt_ds.distributed import rank, world_size
    from mnmt_ds.engine.loop import advance, student_loops
    from mnmt_ds.engine.training import Training
    from mnmt_ds.errors import RunError
    from mnmt_ds.private_apis import weight_and_master_tensors

    results = []
    for number, (what, precision, every) in enumerate(cases):
        run = f"{folder}/{number}"
        training = Training(
            recipe(Path(corpus), Path(run), train={"precision": precision, "save_every": every, "clip_norm": 1.0},
                   deepspeed=zero(1, run), tracking={"log_every": 1000}), resume=False,
        )  # fmt: skip
        loops, engine = student_loops(training), training.first.engine
        tensors = lambda engine=engine: list(weight_and_master_tensors(engine.deepspeed_engine))  # noqa: E731
        message, updates = "", 0
        try:
            for updates in range(1, 7):
                if updates == 3:
                    before = [tensor.clone() for tensor in tensors()]
                    forward_backward = training.first.forward_backward

                    def broken(update: Any, run: Any = forward_backward) -> Any:
                        return [{**one, "loss": one["loss"] * float("nan")} for one in run(update)]

                    if rank() == world_size() - 1 and what == "loss":
                        training.first.forward_backward = broken
                    elif rank() == world_size() - 1:
                        next(iter(engine.model.parameters())).register_hook(lambda gradient: gradient * float("inf"))
                advance(training, loops, stop=False)
                if training.is_save_due():
                    training.save()
        except RunError as error:
            message = str(error)
        same = all(torch.equal(a, b) for a, b in zip(before, tensors(), strict=True))
        training.close()
        training.lock and training.lock.close()
        kept = sorted(path.name for path in Path(run).glob("checkpoints/step_*"))
        results.append({"message": message, "launched": updates, "same": same, "kept": kept})
    return results


def test_a_host_that_runs_ahead_hears_of_it_an_update_later(tiny_corpus: Path, tmp_path: Path) -> None:
    """Nothing is updated by it or by the one that was launched meanwhile; a checkpoint that is due is not written."""
    cases = [("gradient", "bf16", 0), ("loss", "fp32", 0), ("gradient", "fp32", 3), ("loss", "fp32", 1)]
    for found in on_ranks(2, _late, str(tiny_corpus), str(tmp_path), cases):
        for case, result in zip(cases, found, strict=True):
            assert result["message"].startswith(f"update 3: the {case[0]} is not finite (pairs: "), (case, result)
            assert result["same"], (case, "weights were updated")
            assert result["launched"] == (3 if case[2] else 4), case
            assert result["kept"] == (["step_1", "step_2"] if case[2] == 1 else []), case


def _tensors(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """All tensors in a checkpoint's file, with the keys that lead to them."""
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        yield from _tensors(item, (*path, str(key)))


def _spoilt(corpus: str, folder: str, case: Case, names: list[str]) -> list[str]:
    """A checkpoint with a number that is not finite in one of its tensors, as earlier versions saved; the refusals."""
    from mnmt_ds.distributed import is_main
    from mnmt_ds.engine.checkpointing.verification import write_manifest
    from mnmt_ds.engine.loop import train
    from mnmt_ds.engine.training import Training
    from mnmt_ds.errors import UserError
    from mnmt_ds.files import sha256

    made = recipe(Path(corpus), Path(folder), train={"precision": case.precision, "max_steps": 2},
                  deepspeed=zero(case.stage, folder), **LAYOUTS[case.layout])  # fmt: skip
    train(made, resume=False)
    refusals = []
    for number, name in enumerate(names):
        if is_main():
            path = (Path(folder) / "checkpoints" / "last").resolve()
            for file in path.rglob("*.pt"):
                content = torch.load(file, weights_only=False)
                found = [value for keys, value in _tensors(content) if name in keys]
                if found:
                    found[0].detach().view(-1)[0] = float("nan") if number % 2 else float("inf")
                    before = file.read_bytes()
                    torch.save(content, file)
                    break
            write_manifest(path, {str(p.relative_to(path)): sha256(p) for p in path.rglob("*")
                                  if p.is_file() and p.name != "manifest.json"})  # fmt: skip
        try:
            Training(made, resume=True).close()
            refusals.append("")
        except UserError as error:
            refusals.append(str(error))
        if is_main():
            file.write_bytes(before)
    return refusals


@pytest.mark.parametrize(
    ("case", "names"),
    [
        (Case("fp32", 1), ["exp_avg_sq"]),
        pytest.param(Case("fp32", 0), ["module", "exp_avg", "exp_avg_sq"], marks=pytest.mark.slow),
        pytest.param(Case("bf16", 2), ["single_partition_of_fp32_groups", "exp_avg"], marks=pytest.mark.slow),
        pytest.param(Case("fp32", 3), ["fp32_flat_groups", "exp_avg_sq"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_checkpoint_that_is_not_finite_is_named(
    case: Case, names: list[str], tiny_corpus: Path, tmp_path: Path
) -> None:
    """Its manifest is right; only its numbers are not."""
    for refusals in on_ranks(1, _spoilt, str(tiny_corpus), str(tmp_path / "run"), case, names):
        for name, refusal in zip(names, refusals, strict=True):
            assert f"{tmp_path}/run/checkpoints/step_2: NaN or Inf in its weights" in refusal, name
            assert "remove it" in refusal and "\n" not in refusal


def test_a_dev_loss_that_is_not_finite_is_one_line() -> None:
    """The checkpoint that was saved before the validation would meet it again: the line says to remove it."""
    from mnmt_ds.engine.validation_round import _report
    from mnmt_ds.errors import RunError

    layout = SimpleNamespace(is_main=True)
    student: Any = SimpleNamespace(name="student", engine=SimpleNamespace(layout=layout))
    training: Any = SimpleNamespace(update=6, progress=SimpleNamespace(epochs=1.0), directory=Path("runs/x"))
    losses = {"student": {"bs-en": float("inf"), "fr-en": 1.0, "hi-en": float("nan")}}
    with pytest.raises(RunError) as caught:
        _report(training, student, losses, {})
    assert str(caught.value) == (
        "update 6: the dev loss of bs-en, hi-en is not finite; remove runs/x/checkpoints/step_6 and resume from the one"
        " before with a lower train.lr"
    )
