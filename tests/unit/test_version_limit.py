"""How the distinct models of pairs' bests are kept within a bound: by hand, against all choices, over a checkpoint."""

import itertools
import json
import random

import pytest

from mnmt_ds.best_values import BestValues
from mnmt_ds.engine.checkpointing.best_checkpoints import BestCheckpoints
from mnmt_ds.engine.settings import ValidationSettings
from mnmt_ds.engine.students.records import given_up_line
from mnmt_ds.methods.method import ValidationReport
from mnmt_ds.version_limit import Moved, VersionLimit

PAIRS = ("a-en", "b-en", "c-en")


def validate(limit: VersionLimit, best: BestValues, update: int, *dev: float) -> list[Moved]:
    losses = dict(zip(best, dev, strict=True))
    best.update_lowest(losses, update)
    return limit.apply(best, losses, update)


def versions(best: BestValues) -> tuple[int, ...]:
    return tuple(value.update for value in best.values())


def test_by_hand() -> None:
    """The version whose pairs lose least goes, be it the newest; lowest losses stay what improvement is measured by."""
    best, limit = BestValues(PAIRS), VersionLimit(2)
    assert validate(limit, best, 1, 3.0, 3.0, 3.0) == [] and versions(best) == (1, 1, 1)
    assert validate(limit, best, 2, 2.0, 3.1, 2.9) == [] and versions(best) == (2, 1, 2)
    # b improves: its former one would be given up for nothing, were it not for its bound; c's stays
    assert validate(limit, best, 3, 2.5, 2.8, 3.0) == [] and versions(best) == (2, 3, 2)
    # c improves by little: under 2 it is worse by 0.1, under 3 by 0.2; b would lose 0.3 under 2, a 0.5 under 3
    [moved] = validate(limit, best, 4, 2.6, 3.2, 2.8)
    assert moved == Moved("c-en", 4, 2, pytest.approx(0.1)) and versions(best) == (2, 3, 2)
    assert best["c-en"].value == 2.8 and set(limit.dev) == {2, 3}
    assert validate(limit, best, 5, 9.0, 9.0, 2.85) == [] and versions(best) == (2, 3, 2)
    # a and c improve by much: b goes along, since it loses least
    [moved] = validate(limit, best, 6, 2.1, 2.85, 1.0)
    assert moved.pair == "b-en" and moved.given_up == 3 and versions(best) == (2, 6, 6)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_the_choice_is_the_best_one(most: int) -> None:
    """Of all versions that could be given up, the one that goes raises the sum of dev losses least."""
    maker = random.Random(most)
    pairs = [f"p{i}-en" for i in range(12)]
    best, limit = BestValues(pairs), VersionLimit(most)
    for update in range(1, 60):
        dev = {pair: maker.uniform(1, 3) - update / 100 for pair in pairs}
        known = {**limit.dev, update: dev}
        best.update_lowest(dev, update)
        before = BestValues(best)
        moved = limit.apply(best, dev, update)
        assert len(best.updates()) <= most and {pair: v.value for pair, v in best.items()} == {
            pair: v.value for pair, v in before.items()
        }
        used = before.updates()
        if len(used) <= most:
            assert moved == [] and best == before
            continue
        sums = [
            sum(min(known[v][pair] for v in kept) if value.update not in kept else known[value.update][pair]
                for pair, value in before.items())
            for kept in itertools.combinations(sorted(used), most)
        ]  # fmt: skip
        now = sum(known[value.update][pair] for pair, value in best.items())
        assert now == pytest.approx(min(sums))


def test_what_is_said_of_models_that_are_given_up() -> None:
    """A pair that moves twice at one validation has risen by both; the dev loss under a later model may be lower."""
    best, limit = BestValues(PAIRS), VersionLimit(3)
    for update, dev in enumerate(((1.0, 4.0, 4.0), (2.0, 1.0, 14.0), (3.0, 3.0, 1.0)), start=1):
        assert validate(limit, best, update, *dev) == []
    limit.most = 1  # as on resume with another value
    moved = validate(limit, best, 4, 5.0, 6.0, 0.5)
    assert moved == [Moved("a-en", 1, 4, pytest.approx(4.0)), Moved("b-en", 2, 4, pytest.approx(5.0))]
    assert given_up_line(4, moved).endswith("of 2 pair(s) are now those of 4, dev loss +5.0000 at most (b-en)")
    moved = validate(limit, best, 5, 4.5, 5.5, 0.4)
    assert [(move.pair, move.given_up, move.update) for move in moved] == [("a-en", 4, 5), ("b-en", 4, 5)]
    assert given_up_line(5, moved).endswith("dev loss -0.5000 at most (a-en)")


def test_without_a_bound_and_with_one_that_comes_later() -> None:
    """Versions from before the bound have dev losses of their own pairs alone; what is not known is not guessed."""
    best, limit = BestValues(PAIRS), VersionLimit(0)
    for update, dev in enumerate(((1.0, 2.0, 3.0), (2.0, 1.0, 3.0), (2.0, 2.0, 1.0)), start=1):
        assert validate(limit, best, update, *dev) == []
    assert versions(best) == (1, 2, 3) and limit.state() == []
    bound = VersionLimit(2)
    bound.restore(limit.state())
    assert validate(bound, best, 4, 1.1, 1.1, 1.2) == [] and versions(best) == (1, 2, 3)
    assert validate(bound, best, 5, 1.1, 0.9, 1.2) == [Moved("a-en", 1, 5, pytest.approx(0.1))]
    assert versions(best) == (5, 5, 3)


def test_a_checkpoint_goes_on_alike() -> None:
    maker = random.Random(3)
    whole = BestCheckpoints(PAIRS, ValidationSettings(max_best_versions=2), dict.fromkeys(PAIRS, 1))
    again = BestCheckpoints(PAIRS, whole.settings, whole.tokens)
    for update in range(1, 30):
        report = ValidationReport(update, float(update), {pair: maker.random() for pair in PAIRS})
        whole.update(report, {})
        again.restore(json.loads(json.dumps(again.state())))
        again.update(report, {})
        assert (again.pair, again.moved, again.state()) == (whole.pair, whole.moved, whole.state())
        assert len(whole.snapshots(per_pair=True) - {whole.overall.update}) <= 2
