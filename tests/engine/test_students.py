"""Several students: the same losses on every layout, searches that leave no trace, exact resume, one's own files."""

import json
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mnmt_ds.tracking import read_records
from tests.engine.test_pipeline import keys
from tests.fp16 import needs_fp16
from tests.spawn import on_ranks
from tests.tiny import PAIRS, recipe, zero

STUDENTS = [{"sampler": {"temperature": 1}}, {"sampler": {"temperature": 5}}]
METHODS: dict[str, dict[str, Any]] = {
    "uni": {"name": "pareto", "rule": "uni"},
    "bi": {"name": "pareto", "rule": "bi", "extra_updates": True, "trials": {"rho": 0.2}},
    "auto": {"name": "pareto", "rule": "auto", "trials": {"rho": 0.2}},
    "around_lssd": {
        "name": "pareto",
        "rule": "dynamic",
        "trials": {"rho": 0.2},
        "base": {"name": "lssd", "variant": "adaptive", "gate_student": "eval"},
    },
    "id_around": {
        "name": "intra_distillation",
        "passes": 2,
        "base": {"name": "pareto", "rule": "auto", "trials": {"rho": 0.2}},
    },
    "released": {"name": "pareto", "profile": "released", "start_epoch": 1, "trials": {"rho": 0.3}},
    "beside_cd": {
        "name": "by_task",
        "tasks": {"translation": {"name": "pareto", "rule": "bi"}, "cd": {"name": "denoising"}},
    },
}
BESIDE: dict[str, dict[str, Any]] = {
    "beside_cd": {
        "denoising": {"tasks": [{"name": "cd"}], "unit": "block", "block_tokens": 30},
        "framing": {"encoder_langtok_position": "end"},
    }
}
"""What a method needs besides its own section."""
STEPS = {"around_lssd": 8}
"""Updates, where 6 are too few: LSSD's switches go on at the sixth."""
SPREAD = [("auto", 1), ("uni", 3), ("bi", 3), ("around_lssd", 3), ("around_lssd", 0), ("released", 2)]
SPREAD += [("id_around", stage) for stage in (1, 2, 3)] + [("beside_cd", 3)]
KEYS = ("train/loss", "train/peer_loss", "train/kd_loss", "valid/avg/macro", *(f"alpha/{pair}" for pair in PAIRS))
Records = list[dict[str, float]]


def run_recipe(corpus: str, directory: str, method: str, stage: int, **sections: Any) -> Any:
    """Two students; at ZeRO-3 the embedding is partitioned and the rest small enough to stay whole on every rank."""
    base: dict[str, Any] = {
        "deepspeed": zero(stage, directory, whole=3000),
        "method": METHODS[method],
        "students": STUDENTS,
        "model": {"dropout": 0.1},
        "validation": {"every": 2},
        "train": {"max_steps": STEPS.get(method, 6), "lr": 4e-2, "warmup_steps": 2},
        **BESIDE.get(method, {}),
    }
    merged = {key: {**base.get(key, {}), **value} for key, value in sections.items()}
    return recipe(Path(corpus), Path(directory), **{**base, **merged})


def train_all(
    corpus: str, directory: str, cases: list[tuple[str, int]], stages: Sequence[int] = ()
) -> list[list[Records]]:
    """``stages``: of each case's pipelines; 0, and where there is none: without."""
    from mnmt_ds.engine.loop import train

    results = []
    for (method, stage), count in zip_longest(cases, stages, fillvalue=0):
        pipeline = {"pipeline": {"stages": count}} if count else {}
        run = train(run_recipe(corpus, f"{directory}/{method}{stage}{'p' * count}", method, stage, **pipeline))
        results.append([read_records(path) for path in sorted(run.glob("students/*/metrics.jsonl"))])
    return results


@pytest.fixture(scope="module")
def alone(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Records]]]:
    """Each method on one process at ZeRO-0."""
    folder = tmp_path_factory.mktemp("alone")
    runs = on_ranks(1, train_all, str(tiny_corpus), str(folder), [(method, 0) for method in METHODS])[0]
    return folder, dict(zip(METHODS, runs, strict=True))


@pytest.fixture(scope="module")
def spread(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Records]]:
    """Every case of SPREAD on two ranks."""
    return on_ranks(2, train_all, str(tiny_corpus), str(tmp_path_factory.mktemp("two")), SPREAD)[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", SPREAD, ids=lambda case: "-".join(map(str, case)))
def test_losses_do_not_depend_on_the_layout(
    alone: tuple[Path, dict[str, list[Records]]], spread: list[list[Records]], case: tuple[str, int]
) -> None:
    for ours, theirs in zip(spread[SPREAD.index(case)], alone[1][case[0]], strict=True):
        for key in KEYS:
            assert values(ours, key) == pytest.approx(values(theirs, key), rel=1e-5, abs=1e-5), key


PIPED = {
    1: [("auto", 1), ("uni", 0)],
    2: [("uni", 1), ("bi", 0), ("auto", 1), ("around_lssd", 1), ("id_around", 1), ("released", 1)],
    4: [("auto", 1), ("around_lssd", 0)],
}
"""By ranks: what runs there along pipelines of two stages (one, on one rank)."""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", PIPED)
def test_students_along_stages_train_as_they_do_without(
    alone: tuple[Path, dict[str, list[Records]]], tiny_corpus: Path, tmp_path: Path, ranks: int
) -> None:
    """Each student's own pipeline over the same ranks: losses, searched weights and final weights of one process."""
    count, cases = min(ranks, 2), PIPED[ranks]
    runs = on_ranks(ranks, train_all, str(tiny_corpus), str(tmp_path), cases, [count] * len(cases))[0]
    for (method, stage), results in zip(cases, runs, strict=True):
        for ours, theirs in zip(results, alone[1][method], strict=True):
            for key in KEYS:
                assert values(ours, key) == pytest.approx(values(theirs, key), rel=1e-5, abs=1e-5), (method, key)
        same_weights(tmp_path / f"{method}{stage}{'p' * count}", alone[0] / f"{method}0")


def same_weights(run: Path, other: Path) -> None:
    """Of all students in the end, to 1e-5."""
    for student in ("model_1", "model_2"):
        actual, expected = (
            load_file(path / "students" / student / "last" / "model.safetensors") for path in (run, other)
        )
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            far = (actual[name] - value).abs() > 1e-5 + 1e-5 * value.abs()
            assert not (far & ~keys(name, value)).any(), (run, student, name)


def test_two_students_along_two_stages(tiny_corpus: Path, tmp_path: Path) -> None:
    """Searched weights: trials train a student along its stages, under its peer along the same ones, and leave no
    trace; on the same two ranks without stages all is the same."""
    cases = [("auto", 1), ("auto", 1)]
    plain, piped = on_ranks(2, train_all, str(tiny_corpus), str(tmp_path), cases, [0, 2])[0]
    for ours, theirs in zip(piped, plain, strict=True):
        for key in KEYS:
            assert values(ours, key) == pytest.approx(values(theirs, key), rel=1e-5, abs=1e-5), key
        assert values(ours, "train/peer_loss") and len(set(values(ours, "alpha/fr-en"))) > 1
    same_weights(tmp_path / "auto1pp", tmp_path / "auto1")


def values(records: Records, key: str) -> list[float]:
    return [record[key] for record in records if key in record]


@pytest.mark.slow
def test_the_comparison_means_something(alone: tuple[Path, dict[str, list[Records]]]) -> None:
    """Peers taught in every run, searched weights moved and differ, LSSD's own teachers taught beside the peer."""
    folder, runs = alone
    for name, students in runs.items():
        assert all(len(values(records, "train/loss")) == STEPS.get(name, 6) for records in students)
        assert any(any(loss > 0 for loss in values(records, "train/peer_loss")) for records in students), name
    for name in ("auto", "released"):
        last = [[values(records, f"alpha/{pair}")[-1] for pair in PAIRS] for records in runs[name]]
        assert all(alpha != 0.1 for row in last for alpha in row[:1]) or last[0] != last[1]
        assert last[0] != last[1]
    around = [values(records, f"alpha/{pair}")[-1] for records in runs["around_lssd"] for pair in PAIRS]
    assert len(set(around[:3])) == len(set(around[3:])) == 1  # one action for all pairs
    assert values(runs["around_lssd"][0], "train/kd_loss") or values(runs["around_lssd"][1], "train/kd_loss")
    uni = [[values(records, f"alpha/{pair}")[-1] for pair in PAIRS] for records in runs["uni"]]
    dev = [[values(records, f"valid/{pair}/loss")[-2] for pair in PAIRS] for records in runs["uni"]]
    for a, b, x, y in zip(*uni, *dev, strict=True):  # set at the validation before the last
        assert (a, b) == ((0.4, 0.0) if x > y else (0.0, 0.4))
    run = folder / "auto0"
    both = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "valid"]
    assert len(both) == 6 and "model_2/valid/avg/macro" in both[1]
    for student in ("model_1", "model_2"):
        assert (run / "students" / student / "best" / "model.json").exists()
        assert (run / "students" / student / "recipe.yaml").exists()


def _photograph(training: Any) -> list[Any]:
    """Everything that a later update depends on, copied."""
    results: list[Any] = [torch.get_rng_state()]
    for student in training.students:
        engine = student.engine.deepspeed_engine
        counters = [engine.global_steps, engine.micro_steps, engine.global_samples, engine.skipped_steps]
        results += [student.engine.gather_weights(), _copied(engine.optimizer.state_dict()), counters]
        results += [student.data_iterator.position, list(student.data_iterator.trained), student.best.state()]
    return results


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(part) for part in value]
    if hasattr(value, "__dict__"):  # the loss scaler
        return {key: part for key, part in vars(value).items() if isinstance(part, int | float)}
    return value


def _steps(training: Any, count: int) -> None:
    from mnmt_ds.engine.loop import student_loops, train_update

    for _ in range(count):
        loops = student_loops(training, next_evaluation=lambda student: 10**6)
        for student in training.students:
            other = next(o for o in training.students if o is not student)
            before = other.engine.gather_weights()
            train_update(loops[student.name], student.data_iterator.next_update())
            student.data_iterator.update_done()
            assert _same(before, other.engine.gather_weights()), "a peer moved"


def _searched_and_not(corpus: str, directory: str, stage: int, precision: str) -> dict[str, Any]:
    """Three updates, a search of both students, two updates; and the five updates alone."""
    from mnmt_ds.engine.parallel.zero_engine import ZeroEngine
    from mnmt_ds.engine.training import Training
    from mnmt_ds.methods.method import ValidationReport
    from mnmt_ds.private_apis import weight_and_master_tensors

    settings = {"train": {"precision": precision}}
    training = Training(run_recipe(corpus, f"{directory}-searched", "auto", stage, **settings), resume=False)
    _steps(training, 3)
    before, moved = _photograph(training), []
    original: Callable[..., None] = ZeroEngine.restore_state

    def watched(engine: Any, kept: Any) -> None:
        present = weight_and_master_tensors(engine.deepspeed_engine)
        moved.append(not all(torch.equal(a, b) for a, b in zip(present, kept.tensors, strict=True)))
        original(engine, kept)

    ZeroEngine.restore_state = watched  # type: ignore[method-assign]
    try:
        for student in training.students:
            held = student.method.state["weights"]
            alpha = dict(held.alpha)
            student.method.after_validation(ValidationReport(3, 0.3, dict.fromkeys(PAIRS, 1.0), {}))
            moved.append(held.alpha != alpha)
            held.replace(alpha)
    finally:
        ZeroEngine.restore_state = original  # type: ignore[method-assign]
    after = _photograph(training)
    _steps(training, 2)
    other = Training(run_recipe(corpus, f"{directory}-plain", "auto", stage, **settings), resume=False)
    _steps(other, 5)
    return {
        "trials trained": moved,
        "as before": _same(before, after),
        "goes on alike": _same(_photograph(training), _photograph(other)),
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (hasattr(a, "__dict__") and _same(vars(a), vars(b)))


def _traces(corpus: str, directory: str, precision: str, stages: list[int]) -> list[dict[str, Any]]:
    return [_searched_and_not(corpus, f"{directory}/{stage}", stage, precision) for stage in stages]


@pytest.mark.parametrize(
    ("precision", "stages"),
    [
        ("fp32", [0, 1, 2, 3]),
        pytest.param("bf16", [0, 1, 2, 3], marks=pytest.mark.slow),
        pytest.param("fp16", [1, 2, 3], marks=[pytest.mark.slow, needs_fp16]),
    ],
)
def test_a_search_leaves_no_trace(precision: str, stages: list[int], tiny_corpus: Path, tmp_path: Path) -> None:
    """Weights, masters, moments, counters, random state, position: as before, and so is what comes after."""
    for stage, results in enumerate(on_ranks(2, _traces, str(tiny_corpus), str(tmp_path), precision, stages)[0]):
        assert len(results["trials trained"]) == 8 and all(results["trials trained"]), stage
        assert results["as before"] and results["goes on alike"], stage


def _killed_in_a_search(
    corpus: str, directory: str, method: str, placement: str = "together", at: int = 11
) -> dict[str, Any]:
    """A run that ends in the second search of its second student, resumed; and one that nothing disturbed."""
    from mnmt_ds.engine.loop import train
    from mnmt_ds.engine.students import weight_search

    settings = {"train": {"max_steps": 8, "save_every": 3}}
    place = {"placement": placement}
    whole = train(run_recipe(corpus, f"{directory}/whole", method, 1, **settings).model_copy(update=place))
    broken = run_recipe(corpus, f"{directory}/broken", method, 1, **settings).model_copy(update=place)
    original, calls = weight_search._train_on_trial_set, []

    def dies(*arguments: Any) -> None:
        calls.append(None)
        if len(calls) == at:  # 3 trials x 2 students, 3 of the first student, 2 of the second
            raise KeyboardInterrupt
        original(*arguments)

    weight_search._train_on_trial_set = dies
    try:
        train(broken)
    except KeyboardInterrupt:
        pass
    finally:
        weight_search._train_on_trial_set = original
    logged = len(read_records(broken.directory / "metrics.jsonl"))
    run = train(broken, resume=True)
    return {"whole": str(whole), "resumed": str(run), "calls": len(calls), "records when it broke": logged}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", "id_around"])
def test_a_run_that_ends_within_a_search_resumes_bit_for_bit(tiny_corpus: Path, tmp_path: Path, method: str) -> None:
    from mnmt_ds.engine.checkpointing import checkpoint

    results = on_ranks(2, _killed_in_a_search, str(tiny_corpus), str(tmp_path), method)[0]
    assert results["calls"] == 11
    whole, run = Path(results["whole"]), Path(results["resumed"])
    left, right = (checkpoint.read_state(checkpoint.complete(path)[0]) for path in (run, whole))
    assert left.pop("seconds")[1] > 0 < right.pop("seconds")[1]
    assert left == right and left["students"]["model_2"]["method"]["weights"]["validations"] == 4
    for student in ("model_1", "model_2"):
        ours, theirs = (path / "students" / student for path in (run, whole))
        assert history(ours) == history(theirs)
        a, b = (load_file(path / "last" / "model.safetensors") for path in (ours, theirs))
        assert all(torch.equal(a[name], b[name]) for name in b)


def history(run: Path) -> list[dict[str, Any]]:
    """Everything that was logged, less clocks and memory."""
    return [
        {
            key: value
            for key, value in record.items()
            if not key.startswith(("time", "runtime", "memory", "pareto/search_share", "pareto/trials_on_top"))
        }
        for record in read_records(run / "metrics.jsonl")
        if record["kind"] in ("train", "valid")
    ]


def test_refused_before_training(tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from mnmt_ds.cli.main import main
    from mnmt_ds.config import dump

    path = tmp_path / "recipe.yaml"
    path.write_text(dump(run_recipe(str(tiny_corpus), str(tmp_path / "run"), "auto", 0)))
    assert main(["train", str(path), "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert "student model_2" in out and "all is well" in out and "no effect" not in out
    assert main(["train", str(path), "--dry-run", "sampler.temperature=3.5"]) == 0
    out = capfd.readouterr().out
    assert "warning: sampler: no effect, since each of the students has its own; set it in" in out

    def refused(*overrides: str) -> str:
        assert main(["train", str(path), "--dry-run", *overrides]) == 2
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mnmt-ds train:")]
        return lines[0]

    assert "one student only; list two or more under 'students'" in refused("students=[]")
    assert "one alone is what 'sampler'" in refused("students=[{sampler: {temperature: 1}}]")
    assert "names must differ" in refused("students=[{name: a}, {name: a}]")
    assert "leaves bs-en's trial set empty" in refused("method.trials.rho=0.01")
    assert "method.initial: must be at least 0 and at most 1, not 1.5" in refused("method.initial=1.5")
    other = tmp_path / "weights.json"
    other.write_text(json.dumps({name: {"ko-en": 0.1} for name in ("model_1", "model_2")}))
    assert "weights for other pairs" in refused("method.rule=lsmd", f"method.weights={other}")
    assert not (tmp_path / "run").exists()
