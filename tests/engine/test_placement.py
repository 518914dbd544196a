"""Split students: the losses of students together, on any ranks; searches without a trace; one failure ends all."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mnmt_ds.errors import UserError
from mnmt_ds.methods.peers import TrialSettings
from mnmt_ds.tracking import read_records
from tests.engine.test_students import (
    KEYS,
    METHODS,
    Records,
    _killed_in_a_search,
    _photograph,
    _same,
    history,
    run_recipe,
    values,
)
from tests.spawn import on_ranks
from tests.tiny import PAIRS, recipe

MORE: dict[str, dict[str, Any]] = {
    "kept": {"trials": TrialSettings(rho=0.2, after="keep")},
    "forgetful": {"trials": TrialSettings(rho=0.2, cache_gib=0)},
}
"""Of AUTO-PMD: trials that are kept; trials for which all states are made anew."""
AT_ONCE, IN_TURN = {"simultaneous": True}, {"simultaneous": False}
TWO = [("auto", 0, AT_ONCE), ("auto", 3, IN_TURN), ("uni", 3, AT_ONCE), ("bi", 2, AT_ONCE), ("around_lssd", 3, AT_ONCE)]
TWO += [("released", 1, IN_TURN), ("id_around", 1, AT_ONCE), ("kept", 1, AT_ONCE), ("forgetful", 3, AT_ONCE)]
TWO += [("beside_cd", 1, AT_ONCE), ("beside_cd", 3, AT_ONCE)]
FOUR = [("auto", 1, AT_ONCE), ("released", 3, IN_TURN), ("around_lssd", 2, AT_ONCE)]
Case = tuple[str, int, dict[str, bool]]
"""Method, ZeRO stage, whether all students step at once."""


def given(corpus: str, directory: str, case: Case, placement: str, until: int = 0, **more: Any) -> Any:
    """A recipe; ``more`` settings of its method, ``until`` another number of updates."""
    method, stage, steps = case
    base = run_recipe(corpus, directory, method if method in METHODS else "auto", stage)
    own = base.method.model_copy(update={**MORE.get(method, {}), **more})
    train = base.train.model_copy(update={"max_steps": until or base.train.max_steps})
    return base.model_copy(update={"placement": placement, "method": own, "train": train, **steps})


def train_all(corpus: str, directory: str, cases: list[Case], placement: str) -> list[list[Records]]:
    from mnmt_ds.engine.loop import train

    results = []
    for number, case in enumerate(cases):
        run = train(given(corpus, f"{directory}/{number}", case, placement))
        results.append([read_records(path) for path in sorted(run.glob("students/*/metrics.jsonl"))])
    return results


def close(ours: list[Records], theirs: list[Records]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for key in KEYS:
            assert values(a, key) == pytest.approx(values(b, key), rel=1e-5, abs=1e-5), key
        assert len(values(a, "train/loss")) > 5 and any(values(a, "train/peer_loss"))


def fails(corpus: str, directory: str) -> str:
    """What each rank hears where the second student fails at its third step."""
    from mnmt_ds.engine.loop import train
    from mnmt_ds.engine.parallel.zero_engine import ZeroEngine

    training, original, calls = given(corpus, directory, ("bi", 1, AT_ONCE), "split"), ZeroEngine.step, []

    def breaks(engine: Any, learning_rate: float) -> Any:
        calls.append(None)
        if engine.layout.team == 1 and len(calls) == 3:
            raise RuntimeError("the disk is full")
        return original(engine, learning_rate)

    ZeroEngine.step = breaks  # type: ignore[method-assign]
    try:
        train(training)
    except RuntimeError as error:
        return str(error)
    finally:
        ZeroEngine.step = original  # type: ignore[method-assign]
    return "all was well"


def everyday(corpus: str, directory: str) -> dict[str, Any]:
    case = ("bi", 1, AT_ONCE)
    results = {place: train_all(corpus, f"{directory}/{place}", [case], place)[0] for place in ("split", "together")}
    return {**results, "failed": fails(corpus, f"{directory}/failed")}


def test_split_students_have_the_losses_of_students_together(tiny_corpus: Path, tmp_path: Path) -> None:
    """One log of all, a checkpoint of all; and where one fails, all hear why."""
    results = on_ranks(2, everyday, str(tiny_corpus), str(tmp_path))
    close(results[0]["split"], results[0]["together"])
    assert [rank_result["failed"] for rank_result in results] == [
        "student model_2 failed: the disk is full",
        "the disk is full",
    ]
    split, together = (tmp_path / place / "0" for place in ("split", "together"))
    assert [(r["kind"], r["update"], sorted(r)) for r in read_records(split / "metrics.jsonl")] == [
        (r["kind"], r["update"], sorted(r)) for r in read_records(together / "metrics.jsonl")
    ]
    names = [
        {str(path.relative_to(run)) for path in run.rglob("*") if "optim_states" not in path.name}
        for run in (split, together)
    ]
    assert names[0] == names[1]


@pytest.fixture(scope="module")
def alone(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Records]]:
    """Each case on one process at ZeRO-0."""
    cases = {f"{method}{steps}": (method, 0, steps) for method, _, steps in [*TWO, *FOUR]}
    folder = str(tmp_path_factory.mktemp("alone"))
    runs = on_ranks(1, train_all, str(tiny_corpus), folder, list(cases.values()), "together")[0]
    return dict(zip(cases, runs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "placement"), [(2, "split"), (4, "split"), (4, "together")])
def test_losses_do_not_depend_on_ranks_or_placement(
    alone: dict[str, list[Records]], tiny_corpus: Path, tmp_path: Path, ranks: int, placement: str
) -> None:
    cases = TWO if ranks == 2 else FOUR
    runs = on_ranks(ranks, train_all, str(tiny_corpus), str(tmp_path), cases, placement)[0]
    for (method, _, steps), run in zip(cases, runs, strict=True):
        close(run, alone[f"{method}{steps}"])


@pytest.mark.slow
def test_steps_at_once_are_not_steps_in_turn(alone: dict[str, list[Records]]) -> None:
    """The second student's first update is taught by another first student; the cases tell them apart."""
    at_once, in_turn = (values(alone[f"auto{steps}"][1], "train/peer_loss") for steps in (AT_ONCE, IN_TURN))
    assert abs(at_once[0] - in_turn[0]) > 1e-3


def searched_and_not(corpus: str, directory: str, stage: int) -> dict[str, Any]:
    """Three updates, a search of both students at the same time, two updates; and the five updates alone."""
    from mnmt_ds.engine.parallel.zero_engine import ZeroEngine
    from mnmt_ds.engine.training import Training
    from mnmt_ds.methods.method import ValidationReport
    from mnmt_ds.private_apis import weight_and_master_tensors

    case = ("auto", stage, AT_ONCE)
    training = Training(given(corpus, f"{directory}-searched", case, "split"), resume=False)
    steps(training, 3)
    before, moved = _photograph(training), []
    original = ZeroEngine.restore_state

    def watched(engine: Any, kept: Any) -> None:
        present = weight_and_master_tensors(engine.deepspeed_engine)
        moved.append(not all(torch.equal(a, b) for a, b in zip(present, kept.tensors, strict=True)))
        original(engine, kept)

    ZeroEngine.restore_state = watched  # type: ignore[method-assign]
    held = training.first.method.state["weights"]
    alpha = dict(held.alpha)
    try:
        training.first.method.after_validation(ValidationReport(3, 0.3, dict.fromkeys(PAIRS, 1.0), {}))
    finally:
        ZeroEngine.restore_state = original  # type: ignore[method-assign]
    moved.append(held.alpha != alpha)
    held.replace(alpha)
    after = _photograph(training)
    steps(training, 2)
    other = Training(given(corpus, f"{directory}-plain", case, "split"), resume=False)
    steps(other, 5)
    return {
        "moved": moved,
        "as before": _same(before, after),
        "goes on alike": _same(_photograph(training), _photograph(other)),
    }


def steps(training: Any, count: int) -> None:
    from mnmt_ds.engine.loop import forward_backward, step, student_loops

    for _ in range(count):
        (loop,) = student_loops(training, next_evaluation=lambda student: 10**6).values()
        with training.peer_exchange.requests_served():
            gradient = forward_backward(loop, loop.student.data_iterator.next_update())
        step(loop, gradient, stop=False)
        loop.student.data_iterator.update_done()


def traces(corpus: str, directory: str) -> list[dict[str, Any]]:
    return [searched_and_not(corpus, f"{directory}/{stage}", stage) for stage in range(4)]


@pytest.mark.slow
def test_searches_at_the_same_time_leave_no_trace(tiny_corpus: Path, tmp_path: Path) -> None:
    for rank in on_ranks(4, traces, str(tiny_corpus), str(tmp_path)):
        for stage, results in enumerate(rank):
            assert results["moved"] == [True] * 4, stage
            assert results["as before"] and results["goes on alike"], stage


@pytest.mark.slow
def test_a_split_run_that_ends_within_a_search_resumes_bit_for_bit(tiny_corpus: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    results = on_ranks(2, _killed_in_a_search, str(tiny_corpus), str(tmp_path), "auto", "split", 5)[0]
    whole, run = Path(results["whole"]), Path(results["resumed"])
    for student in ("model_1", "model_2"):
        ours, theirs = (path / "students" / student for path in (run, whole))
        assert history(ours) == history(theirs)
        a, b = (load_file(path / "last" / "model.safetensors") for path in (ours, theirs))
        assert all(torch.equal(a[name], b[name]) for name in b)


def scored(corpus: str, directory: str, placement: str) -> None:
    from mnmt_ds.engine.loop import train

    training = given(corpus, directory, ("bi", 3, AT_ONCE), placement)
    validation = training.validation.model_copy(update={"bleu_every": 1, "bleu_sentences": 6})
    train(training.model_copy(update={"validation": validation}))


@pytest.mark.slow
def test_dev_sets_are_scored_as_those_of_students_together(tiny_corpus: Path, tmp_path: Path) -> None:
    """BLEU and chrF while training, each student's by its own ranks."""
    on_ranks(4, scored, str(tiny_corpus), str(tmp_path / "split"), "split")
    on_ranks(1, scored, str(tiny_corpus), str(tmp_path / "together"), "together")
    for student in ("model_1", "model_2"):
        split, together = (
            read_records(tmp_path / place / "students" / student / "metrics.jsonl") for place in ("split", "together")
        )
        for key in ("valid/avg/bleu", "valid/avg/chrf", *(f"valid/{pair}/chrf" for pair in PAIRS)):
            assert values(split, key) == pytest.approx(values(together, key), abs=1e-6), key
        assert values(split, "valid/avg/chrf")[-1] > 0


LEGS = {1: [(2, 1, "together"), (4, 2, "split"), (1, 1, "together")], 3: [(2, 3, "split"), (1, 3, "together")]}


def leg(corpus: str, run: str, stage: int, placement: str, until: int) -> None:
    from mnmt_ds.engine.loop import train

    # schedule 1: a step size that does not depend on where a leg ends
    train(given(corpus, run, ("auto", stage, IN_TURN), placement, until, schedule=1), resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", LEGS)
def test_students_move_between_ranks_and_placements(family: int, tiny_corpus: Path, tmp_path: Path) -> None:
    """Each leg ends between two validations, since none is searched at after a run's last update."""
    last = 2 * len(LEGS[family]) + 1
    on_ranks(1, leg, str(tiny_corpus), str(tmp_path / "whole"), family, "together", last)
    for number, (ranks, stage, placement) in enumerate(LEGS[family], start=1):
        on_ranks(ranks, leg, str(tiny_corpus), str(tmp_path / "moved"), stage, placement, 2 * number + 1)
    for student in ("model_1", "model_2"):
        whole, moved = (
            read_records(tmp_path / run / "students" / student / "metrics.jsonl") for run in ("whole", "moved")
        )
        for key in KEYS:
            assert values(moved, key) == pytest.approx(values(whole, key), rel=5e-5, abs=1e-5), key
        assert len({tuple(values(whole, f"alpha/{pair}")) for pair in PAIRS}) > 1 or values(whole, KEYS[-1])[-1] != 0.1


def test_what_cannot_be_split_is_refused(tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mnmt_ds.engine.parallel.run_layout import check_run_layout

    case, where = ("auto", 0, AT_ONCE), (str(tiny_corpus), str(tmp_path / "run"))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"3 rank\(s\) cannot be shared by 2 students; start a multiple of 2"):
        check_run_layout(given(*where, case, "split"), {})
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_run_layout(given(*where, case, "split"), {})
    with pytest.raises(UserError, match="extra_updates beside a searched rule"):
        check_run_layout(given(*where, case, "split", extra_updates=True), {})
    with pytest.raises(ValueError, match="placement: split is for several students"):
        recipe(tiny_corpus, tmp_path / "run", placement="split")


def test_requests_are_read_as_they_were_written() -> None:
    """Two micro-batches for different members, and one between them that asks nobody."""
    from mnmt_ds.batch import Batch
    from mnmt_ds.engine.students.peer_requests import (
        EVAL_MODE,
        PeerRequest,
        WantedStates,
        decode_requests,
        encode_requests,
    )

    def batch(rows: int, source: int, target: int) -> Batch:
        texts = [torch.randint(4, 99, (rows, length)) for length in (source, target)]
        return Batch(*texts, texts[1], 0, torch.arange(rows), rows, rows)

    first, last = batch(2, 3, 5), batch(4, 6, 1)
    expected = [
        WantedStates(["c"], first, 2**63 - 1), WantedStates([], batch(3, 3, 3), 5),
        WantedStates(["a", "c"], last, EVAL_MODE),
    ]  # fmt: skip
    results = decode_requests(encode_requests(["a", "b", "c"], expected))
    assert [request for request, _ in results] == [
        PeerRequest(0b100, 2, 3, 5, 2**63 - 1), PeerRequest(), PeerRequest(0b101, 4, 6, 1, EVAL_MODE)
    ]  # fmt: skip
    for (_, read), written in zip(results[::2], (first, last), strict=True):
        assert torch.equal(read.source_BS, written.source_BS) and torch.equal(read.decoder_BT, written.decoder_BT)
    assert decode_requests(encode_requests(["a", "b", "c"], [])) == []


def test_what_comes_is_what_then_comes(tiny_corpus: Path, tmp_path: Path) -> None:
    """Within an epoch, at its end and past it, also after the sampler has moved."""
    from mnmt_ds.engine.build import open_corpus, open_training_data
    from mnmt_ds.engine.dataloading.data_iterator import DataIterator
    from mnmt_ds.engine.students.weight_search import DataPosition, next_updates
    from mnmt_ds.parallel_layout import ParallelLayout

    settings = recipe(tiny_corpus, tmp_path / "run")
    stream = open_training_data(settings, open_corpus(settings)[0], ParallelLayout())[0]
    data_iterator = DataIterator(stream)

    def planned(rho: float) -> list[Any]:
        place = DataPosition(data_iterator.position, data_iterator.trained, tuple(stream.sampler.probabilities))
        parts = next_updates(stream, place, rho)
        batches = [part.training_data.batches(part.plan) for part in parts]
        return [
            [(b.pair, b.sentence_B.tolist()) for b in (rows[n * rows.steps + k] for k in range(rows.steps))]
            for part, rows in zip(parts, batches, strict=True)
            for n in range(part.first, part.first + part.updates)
        ]

    def done() -> Any:
        results = [(batch.pair, batch.sentence_B.tolist()) for batch in data_iterator.next_update()]
        data_iterator.update_done()
        return results

    length = data_iterator.plan.updates
    for _ in range(2):
        done()
    stream.sampler.distribution.set([0.6, 0.3, 0.1])
    data_iterator.replan()
    for rho in (0.3, 0.9):
        expected = planned(rho)
        assert len(expected) == round(rho * data_iterator.epoch_length) > 1
        assert [done() for _ in expected] == expected
    while not data_iterator.epoch_ended:
        done()
    expected = planned(0.2)
    assert [done() for _ in expected] == expected
    assert data_iterator.position.update > length
