"""Teachers' states remembered along pipeline stages and beside a split vocabulary: the plain run's losses, with what it
remembers and computes.

All remember alike; so the references are runs without stages or shards, on as many data-parallel ranks, under the same
``teachers`` settings.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.config import dump
from mnmt_ds.tracking import read_records
from tests.engine import test_pipeline as layered
from tests.engine import test_resume as resumed
from tests.engine.test_pipeline import PASSES, Case, Found, digest, place, same
from tests.engine.test_tensor import trained
from tests.spawn import on_ranks
from tests.tiny import ROOT

EXPERTS = {"name": "multi_distill", "rule": "fix"}
RUNS: dict[str, dict[str, Any]] = {
    "ram": {"name": "lssd", "variant": "adaptive", "teachers": {"cache": "ram"}},
    "disk": {"name": "lssd", "teachers": {"cache": "disk"}},
    "small": {"name": "lssd", "teacher": "overall", "teachers": {"cache": "ram", "memory_gib": 1e-5}},
    "passes": {**PASSES, "base": {"name": "lssd", "teachers": {"cache": "ram", "weights_gib": 0.0, "read": "mapped"}}},
    "several": {"name": "several", "methods": [
        {"name": "lssd", "teachers": {"cache": "off"}}, {**EXPERTS, "teachers": {"cache": "ram"}},
    ]},
    "experts": {**EXPERTS, "teachers": {"cache": "auto"}},
}  # fmt: skip
"""Methods; small: room for some blocks alone; experts: remembered since an epoch lies between two validations."""
UPDATES = {"several": 14, "experts": 14}
"""An epoch has 10."""
COMPUTED, HELD = "runtime/teacher_computed", "memory/teacher_states"


def settings(corpus: str, directory: str, case: Case, updates: int = 0, vocabulary: int = 1, **train: Any) -> Any:
    updates = updates or UPDATES.get(case.run, 10)
    made = layered.settings(corpus, directory, case._replace(run="translation"), updates, train=train)
    method: dict[str, Any] = {**RUNS[case.run]}
    if case.run == "disk":
        method["teachers"] = {**method["teachers"], "disk": f"{directory}-states"}
    for one in (method, *method.get("methods", ())):
        if one["name"] == "multi_distill":
            one["experts"] = {pair: f"{corpus}-expert" for pair in ("bs-en", "hi-en", "fr-en")}
    every = 10 if case.run == "experts" else 2
    sections = made.model_dump(mode="json")
    sections["validation"]["every"] = every
    if case.stages:
        sections["pipeline"]["balance"] = "parameters"  # the same cut each time
    if vocabulary > 1:
        sections["tensor"] = {"vocabulary": vocabulary}
    return made.model_validate({**sections, "method": method})


def train(corpus: str, folder: str, cases: list[Case], lose: int = 0, vocabulary: int = 1) -> list[list[int]]:
    """Runs the cases, whose vaults (of ranks that share a vocabulary, the last one's alone) ``lose`` every so manieth
    block that they are asked for. Of each, how many batches have passed this rank's layers of a teacher outside of
    training, and how often it fetched one."""
    from mnmt_ds.distributed import vocab_parallel_rank
    from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
    from mnmt_ds.teachers.state_storage import StateStorage
    from mnmt_ds.teachers.teacher_forward import PipelineForward

    known, counts = (
        {holder: getattr(holder, name) for holder, name in ((PipelineForward, "states"), (ShardedTeachers, "fetch"))},
        [0, 0],
    )
    get, asked = StateStorage.get, [0]

    def passed(*arguments: Any) -> Any:
        counts[0] += 1
        return known[PipelineForward](*arguments)

    def fetched(teachers: ShardedTeachers, wanted: Any) -> Any:
        counts[1] += wanted[teachers.ranks.rank] is not None
        return known[ShardedTeachers](teachers, wanted)

    def lost(state_storage: StateStorage, key: Any) -> Any:
        asked[0] += 1
        return (
            None
            if lose and asked[0] % lose == 0 and vocab_parallel_rank() == vocabulary - 1
            else get(state_storage, key)
        )

    PipelineForward.states, ShardedTeachers.fetch, StateStorage.get = passed, fetched, lost  # type: ignore[method-assign,assignment]
    found = []
    for case in cases:
        counts[:] = [0, 0]
        trained(settings(corpus, place(folder, case), case, vocabulary=vocabulary), resume=False)
        found.append(counts[:])
    return found


def found(folder: str, case: Case) -> Found:
    """Losses and weights; beside them what was computed and what is held."""
    records = read_records(Path(place(folder, case)) / "metrics.jsonl")
    told = {key: [record[key] for record in records if key in record] for key in (COMPUTED, HELD)}
    known = layered.found(folder, case)
    return known._replace(values=known.values | told)


def alike(wanted: Found, folder: str, case: Case) -> Found:
    got = found(folder, case)
    same(case, wanted, got)
    for key in (COMPUTED, HELD):
        assert got.values[key] == wanted.values[key], (case, key)
    return got


def test_two_stages_remember_as_the_plain_model_does(tiny_corpus: Path, tmp_path: Path) -> None:
    """LSSD: past both stages' layers go blocks that are new, and for them alone the first stage fetches a teacher."""
    plain, case = Case("ram", 0, 1), Case("ram", 2, 1)
    counts = on_ranks(2, train, str(tiny_corpus), str(tmp_path), [case])
    on_ranks(1, train, str(tiny_corpus), str(tmp_path), [plain])
    values = alike(found(str(tmp_path), plain), str(tmp_path), case).values
    assert values["train/kd_loss"] and max(values[HELD]) > 0 and 0 < values[COMPUTED][-1] < 1
    (first, needed), (last, taught) = (one[0] for one in counts)
    assert 0 < first == last, "batches that passed"
    assert 0 < needed < taught, "fetched"


def expert(corpus: str, folder: str) -> None:
    """Where ``RUNS`` look for their experts: one short run's model."""
    import shutil

    from mnmt_ds.engine.loop import train

    train(layered.settings(corpus, folder, Case("translation", 0, 1)))
    shutil.copytree(f"{folder}/best", f"{corpus}-expert", dirs_exist_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "stages", "names"),
    [(1, 2, ["disk", "small", "passes", "several", "experts"]), (2, 2, ["ram", "disk", "small"]), (1, 4, ["ram"])],
)
def test_methods_and_layouts(columns: int, stages: int, names: list[str], tiny_corpus: Path, tmp_path: Path) -> None:
    """p = 2, 4 and 2 x 2 data-parallel; memory, disk, too little room, two copies of rows, two kinds of teachers."""
    on_ranks(1, expert, str(tiny_corpus), str(tmp_path / "expert"))
    cases = [Case(name, stages, 1) for name in names]
    plain = [case._replace(stages=0) for case in cases]
    on_ranks(columns, train, str(tiny_corpus), str(tmp_path), plain)
    on_ranks(columns * stages, train, str(tiny_corpus), str(tmp_path), cases)
    for one, case in zip(plain, cases, strict=True):
        values = alike(found(str(tmp_path), one), str(tmp_path), case).values
        told = "expert_loss" if case.run in ("several", "experts") else "kd_loss"
        assert values[f"train/{told}"] and max(values[COMPUTED]) > 0, case
    if "experts" in names:
        assert found(str(tmp_path), Case("experts", stages, 1)).values[COMPUTED] == [1.0], "of an epoch, each once"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "case"),
    [(1, Case("ram", 0, 1)), (2, Case("ram", 0, 1)), (2, Case("ram", 0, 0)), (1, Case("passes", 2, 1))],
    ids=lambda value: value if isinstance(value, int) else "-".join(map(str, value)),
)
def test_ranks_that_share_a_vocabulary_remember_alike(
    columns: int, case: Case, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Two of them, with data parallelism and two stages beside it."""
    plain, split = case._replace(stages=0), max(1, case.stages)
    on_ranks(columns, train, str(tiny_corpus), str(tmp_path / "plain"), [plain])
    on_ranks(columns * split * 2, train, str(tiny_corpus), str(tmp_path / "split"), [case], 0, 2)
    values = alike(found(str(tmp_path / "plain"), plain), str(tmp_path / "split"), case).values
    assert values["train/kd_loss"] and max(values[HELD]) > 0 and min(values[COMPUTED]) < 1


@pytest.mark.slow
@pytest.mark.parametrize("stages", [0, 2])
def test_a_block_that_one_of_them_lost_is_made_again_by_all(stages: int, tiny_corpus: Path, tmp_path: Path) -> None:
    case = Case("disk", stages, 1)
    runs = [str(tmp_path / name) for name in ("whole", "lossy")]
    for folder, lose in zip(runs, (0, 4), strict=True):
        on_ranks(2 * max(1, stages), train, str(tiny_corpus), folder, [case], lose, 2)
    whole, lossy = (found(folder, case) for folder in runs)
    assert lossy.values["train/loss"] == whole.values["train/loss"]
    assert sum(lossy.values[COMPUTED]) > sum(whole.values[COMPUTED])


@pytest.mark.slow
def test_lost_blocks_are_made_again_along_all_stages(tiny_corpus: Path, tmp_path: Path) -> None:
    """2 x 2, files: columns and stages hear of it, and the losses are those of a run that lost none."""
    case = Case("disk", 2, 1)
    runs = [str(tmp_path / name) for name in ("whole", "lossy")]
    for folder, lose in zip(runs, (0, 4), strict=True):
        on_ranks(4, train, str(tiny_corpus), folder, [case], lose)
    whole, lossy = (found(folder, case) for folder in runs)
    assert lossy.values["train/loss"] == whole.values["train/loss"]
    assert sum(lossy.values[COMPUTED]) > sum(whole.values[COMPUTED])


def leg(corpus: str, folder: str, case: Case, ends: list[int]) -> list[str]:
    """Digests of the weights after each leg of a run."""
    return [digest(trained(settings(corpus, folder, case, end, save_every=2), resume=True)) for end in ends]


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_the_whole_one(tiny_corpus: Path, tmp_path: Path) -> None:
    """It stops while a teacher's states are remembered, and begins with none."""
    case = Case("ram", 2, 1)
    whole = on_ranks(2, leg, str(tiny_corpus), str(tmp_path / "whole"), case, [10])
    parts = on_ranks(2, leg, str(tiny_corpus), str(tmp_path / "parts"), case, [8, 10])
    assert parts[0][1] == whole[0][0]
    losses = [[r["train/loss"] for r in read_records(tmp_path / name / "metrics.jsonl") if "train/loss" in r]
              for name in ("whole", "parts")]  # fmt: skip
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    ["mnmt_ds.teachers.teacher_forward:PipelineForward.states:9", "mnmt_ds.teachers.state_storage:StateStorage.put:9"],
)
def test_killed_in_the_filling_and_resumed(point: str, tiny_corpus: Path, tmp_path: Path) -> None:
    """SIGKILL of one stage between two blocks, through the real launcher."""
    paths = []
    for name in ("whole", "run"):
        made = settings(str(tiny_corpus), str(tmp_path / name), Case("ram", 2, 1), save_every=2)
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(dump(made), encoding="utf-8")
    resumed.finish(paths[0])
    died = subprocess.run(
        resumed.command(paths[1], script="tests/engine/dying.py"), cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "DIE_AT": point},
    )  # fmt: skip
    assert died.returncode != 0, "the call was never reached"
    assert not (tmp_path / "run" / "last").exists()
    resumed.finish(paths[1], "--resume")
    resumed.assert_same(tmp_path / "run", tmp_path / "whole")
