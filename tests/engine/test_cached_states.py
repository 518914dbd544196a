"""Teacher states cached along pipeline stages and beside a split vocabulary: losses as of a run without either.

All layouts cache the same states; so the references are runs without stages or a split vocabulary, on as many
data-parallel ranks, with the same ``teachers`` settings.
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
from tests.engine.test_pipeline import PASSES, Case, RunResults, digest, place, same
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
"""Methods; small: room for some blocks alone; experts: cached since an epoch lies between two validations."""
UPDATES = {"several": 14, "experts": 14}
"""An epoch has 10."""
COMPUTED, CACHED = "runtime/teacher_computed", "memory/teacher_states"


def settings(corpus: str, directory: str, case: Case, updates: int = 0, vocabulary: int = 1, **train: Any) -> Any:
    updates = updates or UPDATES.get(case.run, 10)
    made = layered.settings(corpus, directory, case._replace(run="translation"), updates, train=train)
    method: dict[str, Any] = {**RUNS[case.run]}
    if case.run == "disk":
        method["teachers"] = {**method["teachers"], "disk": f"{directory}-states"}
    for section in (method, *method.get("methods", ())):
        if section["name"] == "multi_distill":
            section["experts"] = {pair: f"{corpus}-expert" for pair in ("bs-en", "hi-en", "fr-en")}
    every = 10 if case.run == "experts" else 2
    sections = made.model_dump(mode="json")
    sections["validation"]["every"] = every
    if case.stages:
        sections["pipeline"]["balance"] = "parameters"  # the same cut each time
    if vocabulary > 1:
        sections["tensor"] = {"vocabulary": vocabulary}
    return made.model_validate({**sections, "method": method})


def train(corpus: str, folder: str, cases: list[Case], lose_every: int = 0, vocabulary: int = 1) -> list[list[int]]:
    """Runs the cases on this rank.

    Args:
        corpus: directory of the prepared data.
        folder: where the runs go.
        cases: the runs.
        lose_every: every so many reads of a cached block, the block is lost; of ranks that share a vocabulary, on the
            last one alone; 0: none is lost.
        vocabulary: ranks that share a vocabulary.

    Returns:
        Of each run: batches that passed this rank's layers of a teacher outside of training, and teachers fetched.
    """
    from mnmt_ds.distributed import job_ranks
    from mnmt_ds.teachers.sharded_teachers import ShardedTeachers
    from mnmt_ds.teachers.state_storage import StateStorage
    from mnmt_ds.teachers.teacher_forward import PipelineForward

    forward, fetch, get = PipelineForward.states, ShardedTeachers.fetch, StateStorage.get
    counts, reads = [0, 0], [0]

    def counted_forward(self: PipelineForward, *arguments: Any) -> Any:
        counts[0] += 1
        return forward(self, *arguments)

    def counted_fetch(self: ShardedTeachers, requests: Any) -> Any:
        counts[1] += requests[self.ranks.rank] is not None
        return fetch(self, requests)

    def lossy_get(self: StateStorage, key: Any) -> Any:
        reads[0] += 1
        loses = lose_every and reads[0] % lose_every == 0 and job_ranks().rank % vocabulary == vocabulary - 1
        return None if loses else get(self, key)

    PipelineForward.states, ShardedTeachers.fetch = counted_forward, counted_fetch  # type: ignore[method-assign,assignment]
    StateStorage.get = lossy_get  # type: ignore[method-assign]
    counts_by_case = []
    for case in cases:
        counts[:] = [0, 0]
        trained(settings(corpus, place(folder, case), case, vocabulary=vocabulary), resume=False)
        counts_by_case.append(counts[:])
    return counts_by_case


def outcome(folder: str, case: Case) -> RunResults:
    """Losses and weights of a run, with what was computed and what was cached."""
    records = read_records(Path(place(folder, case)) / "metrics.jsonl")
    teachers = {key: [record[key] for record in records if key in record] for key in (COMPUTED, CACHED)}
    run = layered.run_results(folder, case)
    return run._replace(values=run.values | teachers)


def assert_same_outcome(expected: RunResults, folder: str, case: Case) -> RunResults:
    """A run has the expected losses, weights and cached states; gives what it has."""
    actual = outcome(folder, case)
    same(case, expected, actual)
    for key in (COMPUTED, CACHED):
        assert actual.values[key] == expected.values[key], (case, key)
    return actual


def test_two_stages_cache_what_one_rank_caches(tiny_corpus: Path, tmp_path: Path) -> None:
    """LSSD: only new blocks pass both stages' layers, and for them alone the first stage fetches a teacher."""
    plain, case = Case("ram", 0, 1), Case("ram", 2, 1)
    counts = on_ranks(2, train, str(tiny_corpus), str(tmp_path), [case])
    on_ranks(1, train, str(tiny_corpus), str(tmp_path), [plain])
    values = assert_same_outcome(outcome(str(tmp_path), plain), str(tmp_path), case).values
    assert values["train/kd_loss"] and max(values[CACHED]) > 0 and 0 < values[COMPUTED][-1] < 1
    (first_passed, first_fetched), (last_passed, last_fetched) = (cases[0] for cases in counts)
    assert 0 < first_passed == last_passed
    assert 0 < first_fetched < last_fetched


def expert(corpus: str, folder: str) -> None:
    """Where ``RUNS`` look for their experts: one short run's model."""
    import shutil

    from mnmt_ds.engine.loop import train

    train(layered.settings(corpus, folder, Case("translation", 0, 1)))
    shutil.copytree(f"{folder}/best", f"{corpus}-expert", dirs_exist_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data_ranks", "stages", "names"),
    [(1, 2, ["disk", "small", "passes", "several", "experts"]), (2, 2, ["ram", "disk", "small"]), (1, 4, ["ram"])],
)
def test_methods_and_layouts(data_ranks: int, stages: int, names: list[str], tiny_corpus: Path, tmp_path: Path) -> None:
    """p = 2, 4 and 2 x 2 data-parallel; memory, disk, too little room, two copies of rows, two kinds of teachers."""
    on_ranks(1, expert, str(tiny_corpus), str(tmp_path / "expert"))
    cases = [Case(name, stages, 1) for name in names]
    plain = [case._replace(stages=0) for case in cases]
    on_ranks(data_ranks, train, str(tiny_corpus), str(tmp_path), plain)
    on_ranks(data_ranks * stages, train, str(tiny_corpus), str(tmp_path), cases)
    for reference, case in zip(plain, cases, strict=True):
        values = assert_same_outcome(outcome(str(tmp_path), reference), str(tmp_path), case).values
        loss = "expert_loss" if case.run in ("several", "experts") else "kd_loss"
        assert values[f"train/{loss}"] and max(values[COMPUTED]) > 0, case
    if "experts" in names:
        assert outcome(str(tmp_path), Case("experts", stages, 1)).values[COMPUTED] == [1.0], "of an epoch, each once"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data_ranks", "case"),
    [(1, Case("ram", 0, 1)), (2, Case("ram", 0, 1)), (2, Case("ram", 0, 0)), (1, Case("passes", 2, 1))],
    ids=lambda value: value if isinstance(value, int) else "-".join(map(str, value)),
)
def test_ranks_that_share_a_vocabulary_cache_the_same(
    data_ranks: int, case: Case, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Two of them, with data parallelism and two stages beside it."""
    plain, split = case._replace(stages=0), max(1, case.stages)
    on_ranks(data_ranks, train, str(tiny_corpus), str(tmp_path / "plain"), [plain])
    on_ranks(data_ranks * split * 2, train, str(tiny_corpus), str(tmp_path / "split"), [case], 0, 2)
    values = assert_same_outcome(outcome(str(tmp_path / "plain"), plain), str(tmp_path / "split"), case).values
    assert values["train/kd_loss"] and max(values[CACHED]) > 0 and min(values[COMPUTED]) < 1


@pytest.mark.slow
@pytest.mark.parametrize("stages", [0, 2])
def test_a_block_that_one_of_them_lost_is_computed_again_by_all(stages: int, tiny_corpus: Path, tmp_path: Path) -> None:
    case = Case("disk", stages, 1)
    runs = [str(tmp_path / name) for name in ("whole", "lossy")]
    for folder, lose_every in zip(runs, (0, 4), strict=True):
        on_ranks(2 * max(1, stages), train, str(tiny_corpus), folder, [case], lose_every, 2)
    whole, lossy = (outcome(folder, case) for folder in runs)
    assert lossy.values["train/loss"] == whole.values["train/loss"]
    assert sum(lossy.values[COMPUTED]) > sum(whole.values[COMPUTED])


@pytest.mark.slow
def test_lost_blocks_are_computed_again_along_all_stages(tiny_corpus: Path, tmp_path: Path) -> None:
    """2 x 2, files: all ranks learn of it, and the losses are those of a run that lost none."""
    case = Case("disk", 2, 1)
    runs = [str(tmp_path / name) for name in ("whole", "lossy")]
    for folder, lose_every in zip(runs, (0, 4), strict=True):
        on_ranks(4, train, str(tiny_corpus), folder, [case], lose_every)
    whole, lossy = (outcome(folder, case) for folder in runs)
    assert lossy.values["train/loss"] == whole.values["train/loss"]
    assert sum(lossy.values[COMPUTED]) > sum(whole.values[COMPUTED])


def train_legs(corpus: str, folder: str, case: Case, ends: list[int]) -> list[str]:
    """Digests of the weights after each leg of a run."""
    return [digest(trained(settings(corpus, folder, case, end, save_every=2), resume=True)) for end in ends]


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_the_whole_one(tiny_corpus: Path, tmp_path: Path) -> None:
    """It stops while a teacher's states are cached, and goes on with an empty cache."""
    case = Case("ram", 2, 1)
    whole = on_ranks(2, train_legs, str(tiny_corpus), str(tmp_path / "whole"), case, [10])
    parts = on_ranks(2, train_legs, str(tiny_corpus), str(tmp_path / "parts"), case, [8, 10])
    assert parts[0][1] == whole[0][0]
    losses = [[r["train/loss"] for r in read_records(tmp_path / name / "metrics.jsonl") if "train/loss" in r]
              for name in ("whole", "parts")]  # fmt: skip
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    ["mnmt_ds.teachers.teacher_forward:PipelineForward.states:9", "mnmt_ds.teachers.state_storage:StateStorage.put:9"],
)
def test_killed_while_the_cache_fills_and_resumed(point: str, tiny_corpus: Path, tmp_path: Path) -> None:
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
