"""Pipeline stages see the plain run's losses, dev losses, gradient norms and weights.

Every run is in fp32 with clipping at work, tied embeddings, dropout, micro-batches of many shapes, and activation
checkpointing where stages are; a run without stages is the reference.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mnmt_ds.errors import UserError
from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import recipe, zero

PASSES = {"name": "intra_distillation", "passes": 2}
RUNS: dict[str, dict[str, Any]] = {
    "translation": {"method": {"name": "translation"}},
    "lssd": {"method": {"name": "lssd", "variant": "adaptive"}},
    "stsd": {"method": {"name": "lssd", "teacher": "overall"}},
    "quiet": {"method": {"name": "lssd", "variant": "adaptive", "gate_student": "eval"}},
    "experts": {"method": {"name": "multi_distill", "rule": "fix"}},
    "several": {"method": {"name": "several", "methods": [{"name": "lssd"}, {"name": "multi_distill", "rule": "fix"}]}},
    "own_embeddings": {"model": {"share_embeddings": "decoder"}, "method": {"name": "lssd", "variant": "selective"}},
    "id_lssd": {"method": {**PASSES, "memory": "first", "base": {"name": "lssd", "variant": "adaptive"}}},
    "id_cd": {
        "model": {"encoder_projection": "own"},
        "framing": {"encoder_langtok_position": "end"},
        "denoising": {"tasks": [{"name": "cd"}], "unit": "block", "block_tokens": 30},
        "method": {
            "name": "by_task",
            "tasks": {
                "translation": {**PASSES, "base": {"name": "lssd"}},
                "cd": {**PASSES, "alpha": 2.0, "base": {"name": "denoising"}},
            },
        },
    },
}
UPDATES = 8
BF16 = {"method": {"name": "lssd", "variant": "adaptive"}, "train": {"precision": "bf16"}}


class Case(NamedTuple):
    """A run of ``RUNS`` on some layout; 0 stages: without a pipeline."""

    run: str
    stages: int
    zero: int


ALL = [
    (1, [Case("translation", 1, 0), Case("lssd", 1, 1)]),
    (2, [Case(name, 2, 1) for name in list(RUNS)[:5]]),
    (2, [Case(name, 2, 1) for name in list(RUNS)[5:]]),
    (2, [Case("translation", 2, 0), Case("lssd", 2, 0)]),
    (4, [Case("lssd", 2, 1), Case("lssd", 2, 0), Case("quiet", 2, 1)]),
    (4, [Case("id_cd", 2, 1)]),
    (4, [Case("lssd", 4, 1)]),
]
"""Ranks and what runs on them."""
KEYS = ("train/loss", "train/gnorm", "train/kd_loss", "train/kd_gate", "train/expert_loss", "train/id_loss",
        "train/cd_encoder_loss", "train/cd_decoder_id_loss", "valid/avg/macro", "valid/deficit")  # fmt: skip


def settings(corpus: str, directory: str, case: Case, updates: int = UPDATES, **more: Any) -> Any:
    sections = {name: dict(values) for name, values in {**RUNS, "bf16": BF16}[case.run].items()}
    for method in (sections["method"], *sections["method"].get("methods", ())):
        if method["name"] == "multi_distill":
            method["experts"] = {pair: f"{corpus}-expert" for pair in ("bs-en", "hi-en", "fr-en")}
    shape = {"dropout": 0.1, "encoder_layers": 2, "decoder_layers": 2, "activation_checkpointing": case.stages > 0}
    sections["model"] = {**shape, **sections.get("model", {})}
    if case.stages:
        sections["pipeline"] = {"stages": case.stages}
    train = {"max_steps": updates, "lr": 4e-2, "warmup_steps": 2, "clip_norm": 0.5}
    train |= more.pop("train", {}) | sections.pop("train", {})
    every = {"every": 2}
    return recipe(
        Path(corpus), Path(directory), deepspeed=zero(case.zero, directory), validation=every, train=train, **sections
    )


def run_all(corpus: str, folder: str, cases: list[Case]) -> list[float]:
    """Runs the cases one after another; of each, this rank's part of an LSSD teacher, in parameters."""
    from mnmt_ds.engine.loop import Training, stopping, train_epochs

    sizes = []
    for case in cases:
        training = Training(settings(corpus, place(folder, case), case), resume=False)
        with stopping() as stop:
            train_epochs(training, stop)
        training.close()
        bank = training.first.method.state.get("teachers")
        held = bank.snapshots() if bank is not None else set()
        sizes.append(bank.pool.teachers.shard_storage.memory_bytes() / 2 / len(held) if held else 0.0)  # in float16
    return sizes


def place(folder: str, case: Case) -> str:
    return f"{folder}/{'-'.join(map(str, case))}"


class RunResults(NamedTuple):
    """What a run left behind."""

    values: dict[str, list[float]]
    last: dict[str, Tensor]


def run_results(folder: str, case: Case) -> RunResults:
    records = read_records(Path(place(folder, case)) / "metrics.jsonl")
    values = {key: [record[key] for record in records if key in record] for key in KEYS}
    return RunResults(values, load_file(Path(place(folder, case)) / "last" / "model.safetensors"))


def same(case: Case, expected: RunResults, actual: RunResults) -> None:
    for key in KEYS:
        assert actual.values[key] == pytest.approx(expected.values[key], rel=1e-5, abs=1e-5), (case, key)
    assert actual.last.keys() == expected.last.keys()
    for name, value in expected.last.items():
        far = (actual.last[name] - value).abs() > 1e-5 + 1e-5 * value.abs()
        far &= ~keys(name, value)
        assert not far.any(), (case, name, int(far.sum()))


def keys(name: str, value: Tensor) -> Tensor:
    """The biases of attention's keys: no loss depends on them, so they hold rounding, which Adam magnifies."""
    place = torch.zeros(len(value), *[1] * (value.dim() - 1), dtype=torch.bool)
    if name.endswith("qkv.bias"):
        place[len(value) // 3 : 2 * len(value) // 3] = True
    elif name.endswith("kv.bias"):
        place[: len(value) // 2] = True
    return place


def test_two_stages_train_as_the_plain_model_does(tiny_corpus: Path, tmp_path: Path) -> None:
    """LSSD: plain translation until the first switch is on, then a teacher whose layers stand on both stages; its gate
    by the student's pass in training, and by one without dropout."""
    plain, case = Case("lssd", 0, 1), Case("lssd", 2, 1)
    eval_gate = [each._replace(run="quiet") for each in (plain, case)]
    sizes = on_ranks(2, run_all, str(tiny_corpus), str(tmp_path), [plain, case, *eval_gate])
    expected, other = (run_results(str(tmp_path), each) for each in (plain, eval_gate[0]))
    same(case, expected, run_results(str(tmp_path), case))
    same(eval_gate[1], other, run_results(str(tmp_path), eval_gate[1]))
    assert other.values["train/kd_gate"] != expected.values["train/kd_gate"]
    assert len(expected.values["train/loss"]) == UPDATES
    assert max(expected.values["train/gnorm"]) > 0.5, "nothing was clipped"
    assert 0 < len(expected.values["train/kd_loss"]) < UPDATES
    whole = sum(value.numel() for value in expected.last.values())
    tied = expected.last["embedding.weight"].numel()
    first, last = sizes[0][1], sizes[1][1]
    assert first + last == whole + tied, "each stage holds its own layers of a teacher, and the tied matrix"
    assert max(first, last) < whole, "a stage holds a whole teacher"


def plain_runs(corpus: str, folder: str) -> None:
    """All of ``RUNS`` on one rank; the first one's best checkpoint is the expert of the others."""
    import shutil

    from mnmt_ds.engine.loop import train

    for name in RUNS:
        case = Case(name, 0, 1)
        train(settings(corpus, place(folder, case), case))
        if name == "translation":
            shutil.copytree(f"{place(folder, case)}/best", f"{corpus}-expert", dirs_exist_ok=True)


@pytest.mark.slow
def test_all_methods_and_layouts(tiny_corpus: Path, tmp_path: Path) -> None:
    """p = 1, 2, 4 and 2 x 2 data-parallel, ZeRO 0 and 1, every method that a pipeline takes."""
    on_ranks(1, plain_runs, str(tiny_corpus), str(tmp_path))
    expected = {name: run_results(str(tmp_path), Case(name, 0, 1)) for name in RUNS}
    for number, (ranks, cases) in enumerate(ALL):
        folder = f"{tmp_path}/{number}"
        on_ranks(ranks, run_all, str(tiny_corpus), folder, cases)
        for case in cases:
            same(case, expected[case.run], run_results(folder, case))
    for name, key in {"lssd": "kd_loss", "stsd": "kd_loss", "experts": "expert_loss", "several": "kd_loss",
                      "id_lssd": "id_loss", "id_cd": "cd_decoder_id_loss"}.items():  # fmt: skip
        assert any(expected[name].values.get(f"train/{key}", [])), name


@pytest.mark.slow
def test_bf16(tiny_corpus: Path, tmp_path: Path) -> None:
    """Under ZeRO-1 bf16 stages see the plain run's losses to bf16's precision."""
    cases = [Case("bf16", 0, 1), Case("bf16", 2, 1)]
    on_ranks(2, run_all, str(tiny_corpus), str(tmp_path), cases)
    plain, staged = (run_results(str(tmp_path), case).values for case in cases)
    for key in ("train/loss", "train/gnorm", "train/kd_loss", "valid/avg/macro"):
        assert staged[key] == pytest.approx(plain[key], rel=2e-2), key
    assert plain["train/kd_loss"]


def leg(corpus: str, run: str, case: Case, until: int) -> tuple[str, str]:
    """Trains on to an update; digests of all weights at its start and at its end."""
    from mnmt_ds.engine.loop import Training, stopping, train_epochs

    training = Training(settings(corpus, run, case, until, train={"save_every": 2}), resume=True)
    begin = digest(training)
    with stopping() as stop:
        train_epochs(training, stop)
    training.close()
    return begin, digest(training)


def digest(training: Any) -> str:
    import hashlib

    digest_of_all = hashlib.sha256()
    for name, value in sorted(training.first.engine.gather_weights().items()):
        digest_of_all.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest_of_all.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(
    "legs",
    [
        [(1, Case("lssd", 0, 1)), (2, Case("lssd", 2, 1)), (1, Case("lssd", 0, 2))],
        [(2, Case("lssd", 2, 1)), (2, Case("lssd", 2, 1)), (4, Case("lssd", 2, 1))],
        [(2, Case("lssd", 2, 0)), (2, Case("lssd", 2, 0))],
    ],
    ids=["plain-pipeline-plain", "resumed-then-data-parallel", "zero0"],
)
def test_a_run_moves_between_plain_and_pipeline(
    legs: list[tuple[int, Case]], tiny_corpus: Path, tmp_path: Path
) -> None:
    """Weights are bit-equal across each move, and the losses are those of one run that never moved."""
    size = 4
    on_ranks(1, leg, str(tiny_corpus), str(tmp_path / "whole"), legs[0][1]._replace(stages=0), size * len(legs))
    last = None
    for number, (ranks, case) in enumerate(legs, start=1):
        begin, end = on_ranks(ranks, leg, str(tiny_corpus), str(tmp_path / "moved"), case, size * number)[0]
        assert last in (None, begin)
        last = end
    whole, moved = (
        {(r["kind"], r["update"]): r for r in read_records(tmp_path / name / "metrics.jsonl") if r["kind"] != "run"}
        for name in ("whole", "moved")
    )
    assert moved.keys() >= whole.keys()
    for key, record in whole.items():
        for name in {"train/loss", "train/kd_loss", "valid/avg/macro", "valid/deficit"} & record.keys():
            assert moved[key][name] == pytest.approx(record[name], rel=5e-5, abs=1e-6), (key, name)


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "ZeRO 0 and 1, not 2": ({}, 2),
    "9 stages; the model has 9 places, give 1 to 6": ({"pipeline": {"stages": 9}}, 1),
    "bf16 needs ZeRO 1": ({"train": {"precision": "bf16"}}, 0),
    "fp16 is not done": ({"train": {"precision": "fp16"}}, 1),
    "on_device: layers": ({"method": {"name": "lssd", "teachers": {"on_device": "layers", "cache": "off"}}}, 1),
    "sampler multiuat measures the student": (
        {"method": {"name": "pareto"}, "students": [{}, {"sampler": {"name": "multiuat"}}]}, 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_a_pipeline_does_not_do_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mnmt_ds.engine.parallel import ds_config
    from mnmt_ds.engine.parallel.run_layout import check_run_layout

    monkeypatch.setenv("WORLD_SIZE", "2")
    sections, stage = REFUSED[text]
    model = {"encoder_layers": 2, "decoder_layers": 2}
    run_recipe = recipe(
        tmp_path, tmp_path / "run", model=model, deepspeed=zero(stage, tmp_path / "run"),
        **{"pipeline": {"stages": 2}, **sections},
    )  # fmt: skip
    with pytest.raises(UserError, match=text):
        check_run_layout(run_recipe, ds_config.read(run_recipe.deepspeed))


def test_the_dearest_stage_is_as_cheap_as_can_be() -> None:
    """Six places of 1 and an end of 6 in two stages: the end stands alone; and it is never torn apart."""
    from mnmt_ds.engine.parallel.pipeline_module import stage_bounds
    from mnmt_ds.models.layer_sequence import layer_entries

    run_recipe = recipe(Path("c"), Path("r"), model={"encoder_layers": 2, "decoder_layers": 2})
    entries = layer_entries(run_recipe.model, 50)
    assert [part.kind for part in entries] == [
        "source", "encoder", "encoder", "encoder_norm", "target", "decoder", "decoder", "decoder_norm", "head"
    ]  # fmt: skip
    assert stage_bounds(entries, [1] * 7 + [1, 6], 2) == [0, 7, 9]
    assert stage_bounds(entries, [1] * 7 + [0, 1], 2) == [0, 4, 9]
    assert stage_bounds(entries, [4, 1, 1, 1, 1, 1, 1, 0, 2], 3) == [0, 1, 5, 9]


def test_a_stage_draws_the_plain_models_weights() -> None:
    """Each chunk of two cuts, bit for bit, though no others are held meanwhile; some words alone, too."""
    from mnmt_ds.engine.parallel.pipeline_weights import initialise_stage
    from mnmt_ds.models.layer_sequence import ModelChunk, layer_entries
    from mnmt_ds.models.transformer import Transformer, initialise
    from mnmt_ds.models.vocab_parallel import VocabShard, shard_vocabulary

    model = recipe(Path("c"), Path("r"), model={"share_embeddings": "decoder", "encoder_projection": "own"}).model
    torch.manual_seed(3)
    plain = dict(initialise(Transformer(model, 50)).named_parameters())
    entries = layer_entries(model, 50)
    some: Any = VocabShard(None, 10, 30)  # type: ignore[arg-type]
    for begin, end in [(0, 4), (4, len(entries)), (0, 2), (2, len(entries))]:
        for words in (None, some):
            model_chunk = ModelChunk(model, 50, entries, begin, end)
            if words is not None:
                shard_vocabulary(model_chunk, words)
            torch.manual_seed(3)
            initialise_stage(model_chunk, words)
            for name, value in model_chunk.named_parameters():
                expected = plain[name][10:30] if words is not None and len(plain[name]) == 50 else plain[name]
                assert torch.equal(value, expected), (begin, end, words, name)


@pytest.mark.parametrize(("count", "many"), [(1, 4), (2, 4), (4, 8), (4, 16)])
def test_the_simulated_bubble_of_even_stages_is_the_ideal(count: int, many: int) -> None:
    """DeepSpeed's own order of passes, each of which takes as long: (m + p - 1) / m times a stage's own work."""
    from deepspeed.runtime.pipe import schedule

    from mnmt_ds.bench.stage_timing import StagePass, simulated_step

    seconds = {schedule.ForwardPass: ("forward", 1.0), schedule.BackwardPass: ("backward", 2.0)}
    stages = []
    for stage in range(count):
        steps = schedule.TrainSchedule(micro_batches=many, stages=count, stage_id=stage)
        stages.append(
            [StagePass(*seconds[type(command)]) for step in steps for command in step if type(command) in seconds]
        )
        assert len(stages[-1]) == 2 * many
    assert simulated_step(stages) == pytest.approx(3.0 * (many + count - 1))
