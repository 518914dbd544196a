"""Dynamic samplers on engines: cosines of whole gradients at every ZeRO stage, no trace, any layout, exact resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mnmt_ds.tracking import read_records
from tests.engine.test_students import _photograph, _same
from tests.spawn import on_ranks
from tests.tiny import PAIRS, recipe, zero

SAMPLERS: dict[str, dict[str, Any]] = {
    "multidds": {"name": "multidds", "every": 3, "lr": 1e-2, "steps": 20},
    "multiuat": {"name": "multiuat", "every": 3, "lr": 1e-2, "steps": 20, "passes": 2, "reward": "enttp"},
    "chi_ibr": {"name": "chi_ibr"},
    "ccl_m": {"name": "ccl_m", "ready": 0.05, "stagger": 0.5, "latest": 3},
}


def run_recipe(corpus: str, directory: str, sampler: str, stage: int, **sections: Any) -> Any:
    settings = dict(SAMPLERS[sampler])
    if sampler == "chi_ibr":
        path = Path(directory).with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict.fromkeys(PAIRS, 1.0)))
        settings["baseline"] = str(path)
    base: dict[str, Any] = {
        "deepspeed": zero(stage, directory),
        "sampler": settings,
        "model": {"dropout": 0.1},
        "validation": {"every": 4},
        "train": {"max_steps": 12, "lr": 2e-2, "warmup_steps": 2},
    }
    merged = {key: {**base.get(key, {}), **value} for key, value in sections.items()}
    return recipe(Path(corpus), Path(directory), **{**base, **merged})


def steps(training: Any, count: int) -> None:
    from mnmt_ds.engine.loop import student_loops, train_update

    student = training.first
    loops = student_loops(training, next_evaluation=lambda student: 10**6)
    for _ in range(count):
        result = train_update(loops[student.name], student.data_iterator.next_update())
        student.data_iterator.update_done(result.losses)


def by_definition(training: Any, weights: dict[str, torch.Tensor]) -> list[float]:
    """Every gradient whole, in float64, on one process without DeepSpeed; L x L cosines."""
    from mnmt_ds.data.loader import RankBatches
    from mnmt_ds.engine.parallel.student_module import StudentModule
    from mnmt_ds.methods.translation import translation_loss
    from mnmt_ds.models.transformer import Transformer

    measuring, student = training.sampler_updates.measurements["student"], training.first
    scored = StudentModule(Transformer(student.recipe.model, training.corpus.tokenizer.size).double())
    scored.model.load_state_dict({name: value.double() for name, value in weights.items()}, strict=False)
    plain = translation_loss(student.recipe.train.label_smoothing, "reference")

    def gradient(side: str, pair: int) -> torch.Tensor:
        scored.zero_grad()
        splits = measuring.dev if side == "dev" else student.training_data.splits
        batches = RankBatches(measuring._plan(side, pair, 0), splits, student.training_data.frames, 0, 1)
        tokens = 0
        for index in range(len(batches)):
            scored(batches[index], plain)[0].backward()
            tokens += batches[index].tokens
        return torch.cat([parameter.grad.flatten() for parameter in scored.parameters()]) / tokens

    dev = [gradient("dev", i) for i in range(len(PAIRS))]
    train = [gradient("train", j) for j in range(len(PAIRS))]
    cosine = torch.nn.functional.cosine_similarity
    return [sum(float(cosine(d, t, dim=0)) for d in dev) / len(dev) for t in train]


def _measured(corpus: str, directory: str, stage: int) -> dict[str, Any]:
    """Three updates, both measurements, two updates; and the five updates alone."""
    from mnmt_ds.engine.training import Training

    settings: dict[str, Any] = {"model": {"dropout": 0.0}}
    training = Training(run_recipe(corpus, f"{directory}-measured", "multidds", stage, **settings), resume=False)
    steps(training, 3)
    measuring, before = training.sampler_updates.measurements["student"], _photograph(training)
    results = measuring.alignments(0)
    unsure = measuring.uncertainties("enteos", 2, 0)
    after = _photograph(training)
    expected = by_definition(training, training.first.engine.gather_weights())
    steps(training, 2)
    other = Training(run_recipe(corpus, f"{directory}-plain", "multidds", stage, **settings), resume=False)
    steps(other, 5)
    return {
        "measured": results,
        "wanted": expected,
        "unsure": unsure,
        "as before": _same(before, after),
        "goes on alike": _same(_photograph(training), _photograph(other)),
    }


def _all_stages(corpus: str, directory: str) -> list[dict[str, Any]]:
    return [_measured(corpus, f"{directory}/{stage}", stage) for stage in range(4)]


def test_cosines_are_those_of_whole_gradients_and_leave_no_trace(tiny_corpus: Path, tmp_path: Path) -> None:
    """Two ranks, two micro-batches each, ZeRO 0 to 3: rewards by shards against L^2 cosines of whole gradients."""
    ranks = on_ranks(2, _all_stages, str(tiny_corpus), str(tmp_path))
    for stage, results in enumerate(ranks[0]):
        assert results["measured"] == pytest.approx(results["wanted"], abs=1e-5), stage
        assert results["measured"] == ranks[1][stage]["measured"], stage
        assert results["unsure"] == pytest.approx(ranks[0][0]["unsure"], rel=1e-5), stage
        assert results["as before"], stage
        assert results["goes on alike"], stage
    assert max(results["wanted"]) - min(results["wanted"]) > 0.02  # the comparison means something


def train_twice(corpus: str, directory: str, samplers: list[str], stage: int, updates: int) -> list[list[str]]:
    """Each sampler's run without a pause, and one that was stopped in the middle and resumed."""
    from mnmt_ds.engine.loop import train

    results = []
    for name in samplers:
        settings = {"train": {"max_steps": updates, "save_every": 5}}
        whole = train(run_recipe(corpus, f"{directory}/{name}-whole", name, stage, **settings))
        short = run_recipe(corpus, f"{directory}/{name}-resumed", name, stage, **settings)
        train(short.model_copy(update={"train": short.train.model_copy(update={"max_steps": updates // 2})}))
        results.append([str(whole), str(train(short, resume=True))])
    return results


def assert_same_run(whole: Path, resumed: Path) -> None:
    from safetensors.torch import load_file

    from mnmt_ds.engine.checkpointing import checkpoint

    left, right = (checkpoint.read_state(checkpoint.complete(path)[0]) for path in (resumed, whole))
    assert left == right
    assert histories(resumed) == histories(whole)
    a, b = (load_file(path / "last" / "model.safetensors") for path in (resumed, whole))
    assert all(torch.equal(a[name], b[name]) for name in b)


def histories(run: Path) -> list[dict[str, Any]]:
    """Everything that was logged, the samplers' records too, less clocks and memory."""
    return [
        {key: value for key, value in record.items() if not key.startswith(("time", "runtime", "memory"))}
        for record in read_records(run / "metrics.jsonl")
        if record["kind"] in ("train", "valid", "sampler")
    ]


def assert_it_moved(run: Path) -> None:
    records = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "sampler"]
    shares = [[record[f"data/{pair}/prob"] for pair in PAIRS] for record in records]
    assert len(shares) >= 3 and shares[0] != shares[1] and shares[-1] != shares[1]
    assert all(sum(row) == pytest.approx(1) for row in shares)


def test_multidds_resumes_bit_for_bit(tiny_corpus: Path, tmp_path: Path) -> None:
    """Also what it does to the order of the data: both runs' later epochs were planned anew at each measurement."""
    whole, resumed = map(Path, on_ranks(1, train_twice, str(tiny_corpus), str(tmp_path), ["multidds"], 2, 16)[0][0])
    assert_same_run(whole, resumed)
    assert_it_moved(whole)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_every_sampler_resumes_bit_for_bit_on_two_ranks(tiny_corpus: Path, tmp_path: Path, stage: int) -> None:
    for whole, resumed in on_ranks(2, train_twice, str(tiny_corpus), str(tmp_path), list(SAMPLERS), stage, 26)[0]:
        assert_same_run(Path(whole), Path(resumed))
        assert_it_moved(Path(whole))


TOGETHER: dict[str, dict[str, Any]] = {
    "lssd": {"sampler": SAMPLERS["multidds"], "method": {"name": "lssd", "teachers": {"cache": "ram"}}},
    "passes": {
        "sampler": SAMPLERS["multiuat"],
        "method": {"name": "intra_distillation", "base": {"name": "lssd", "variant": "adaptive"}},
    },
    "students": {
        "students": [{"sampler": SAMPLERS["ccl_m"]}, {"sampler": {**SAMPLERS["multidds"], "temperature": 5}}],
        "method": {"name": "pareto", "rule": "auto", "trials": {"rho": 0.2}, "base": {"name": "lssd"}},
    },
    "tasks": {
        "sampler": SAMPLERS["multidds"],
        "method": {"name": "by_task", "tasks": {"translation": {"name": "lssd"}, "cd": {"name": "denoising"}}},
        "denoising": {"tasks": [{"name": "cd"}]},
        "framing": {"encoder_langtok_position": "end"},
    },
}
"""Samplers under other methods."""


def train_together(corpus: str, directory: str, stage: int) -> dict[str, list[dict[str, float]]]:
    from mnmt_ds.engine.loop import train

    results = {}
    for name, sections in TOGETHER.items():
        run = f"{directory}/{name}{stage}"
        student = recipe(
            Path(corpus), Path(run), deepspeed=zero(stage, run, whole=3000), model={"dropout": 0.1},
            validation={"every": 4}, train={"max_steps": 14, "lr": 4e-2, "warmup_steps": 2}, **sections,
        )  # fmt: skip
        results[name] = histories(train(student))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_they_combine_with_every_method_on_any_layout(tiny_corpus: Path, tmp_path: Path, stage: int) -> None:
    """LSSD with cached states, passes, students with samplers of their own, tasks: two ranks see what one sees."""
    alone = on_ranks(1, train_together, str(tiny_corpus), str(tmp_path / "alone"), 0)[0]
    spread = on_ranks(2, train_together, str(tiny_corpus), str(tmp_path / "spread"), stage)[0]
    for name, records in alone.items():
        assert len(records) == len(spread[name])
        moved = set()
        for ours, theirs in zip(spread[name], records, strict=True):
            keys = [key for key in theirs if key.endswith(("train/loss", "kd_loss", "peer_loss", "macro", "/prob"))]
            assert [ours[key] for key in keys] == pytest.approx([theirs[key] for key in keys], rel=1e-5, abs=1e-5), name
            moved |= {round(theirs[key], 6) for key in keys if key.endswith("bs-en/prob")}
        assert len(moved) > 2, name
        assert any(record.get("train/kd_loss") or record.get("model_1/train/kd_loss") for record in records), name
