"""Dynamic samplers against numbers worked out by hand; their states through JSON; bad baselines.

Shape letters: B sentences, T target positions, D width, V vocabulary.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mnmt_ds.errors import UserError
from mnmt_ds.samplers.actor import ActorSettings
from mnmt_ds.samplers.ccl_m import CclMSettings, ccl_m
from mnmt_ds.samplers.chi_ibr import ChiIbrSettings, best_response, chi_ibr, tilted
from mnmt_ds.samplers.multidds import MultiDdsSettings, multidds
from mnmt_ds.samplers.multiuat import MultiUatSettings, multiuat
from mnmt_ds.samplers.registry import build
from mnmt_ds.samplers.sampler import Sampler
from mnmt_ds.samplers.temperature import TemperatureSettings, counts
from mnmt_ds.samplers.uncertainty import REWARDS, token_statistics

PAIRS = ("bs-en", "hi-en", "fr-en")


class KnownStudent:
    """A student whose measurements are given."""

    def __init__(self, alignments: Sequence[float] = (), uncertainties: Sequence[float] = ()) -> None:
        self.numbers = (alignments, uncertainties)
        self.asked: tuple[str, int, int] | None = None

    def alignments(self, max_tokens: int) -> list[float]:
        return list(self.numbers[0])

    def uncertainties(self, reward: str, passes: int, max_tokens: int) -> list[float]:
        self.asked = (reward, passes, max_tokens)
        return list(self.numbers[1])


def test_multidds_first_step_by_hand() -> None:
    """p = (1/4, 3/4), r = (1, -1): d loss / d psi = -r + p sum r = (-1, 1); Adam's first step is its rate against the
    sign, so psi_0 - psi_1 = log(1/3) + 0.2, and p_0 = 1 / (1 + 3 exp(-0.2))."""
    sampler = multidds(MultiDdsSettings(steps=1, lr=0.1), ("a-en", "b-en"), (100, 300))
    sampler.measure(KnownStudent(alignments=(1.0, -1.0)))
    assert sampler.probabilities == pytest.approx([0.289336, 0.710664], abs=1e-6)
    assert (
        sampler.report()["data/a-en/reward"] == 1.0 and sampler.report()["data/b-en/prob"] == sampler.probabilities[1]
    )


def test_the_actor_takes_its_adam_steps_and_keeps_the_moments() -> None:
    """200 steps at 1e-4, twice, against Adam written out; the second measurement goes on from the first's moments."""
    sampler = multidds(MultiDdsSettings(), PAIRS, (60, 120, 240))
    psi, m, v, t = [math.log(n / 420) for n in (60, 120, 240)], [0.0] * 3, [0.0] * 3, 0
    for rewards in ((0.5, 0.3, -0.1), (0.2, 0.6, 0.1)):
        sampler.measure(KnownStudent(alignments=rewards))
        for _ in range(200):
            t += 1
            total = sum(math.exp(x) for x in psi)
            g = [-r + math.exp(x) / total * sum(rewards) for r, x in zip(rewards, psi, strict=True)]
            m = [0.9 * a + 0.1 * b for a, b in zip(m, g, strict=True)]
            v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g, strict=True)]
            step = [(a / (1 - 0.9**t)) / ((b / (1 - 0.999**t)) ** 0.5 + 1e-8) for a, b in zip(m, v, strict=True)]
            psi = [x - 1e-4 * s for x, s in zip(psi, step, strict=True)]
        total = sum(math.exp(x) for x in psi)
        assert sampler.probabilities == pytest.approx([math.exp(x) / total for x in psi], rel=1e-9)
    before = list(sampler.probabilities)
    sampler.measure(KnownStudent(alignments=(0.1, math.nan, 0.2)))  # an fp16 gradient that overflowed
    assert sampler.probabilities == before


def test_multiuat_hands_its_reward_to_the_same_actor() -> None:
    student = KnownStudent(alignments=(0.0,) * 3, uncertainties=(0.9, 0.2, 0.4))
    sampler = multiuat(MultiUatSettings(reward="vartp", passes=7, max_tokens=64), PAIRS, (60, 120, 240))
    other = multidds(MultiDdsSettings(), PAIRS, (60, 120, 240))
    sampler.measure(student)
    other.measure(KnownStudent(alignments=(0.9, 0.2, 0.4)))
    assert student.asked == ("vartp", 7, 64)
    assert sampler.probabilities == other.probabilities and sampler.probabilities[0] > 60 / 420


BY_HAND = {  # sentences (0.5, 0.25, 0.25) (0.8, 0.1, 0.1) and (0.6, 0.2, 0.2); gold 0 2, 0
    "pretp": 1 - (0.4 + 0.6) / 2,
    "exptp": 1 - (0.632456 + 0.6) / 2,
    "vartp": 0.0552257 / 2,
    "comtp": (0.886440 + 1) / 2,
    "enttp": (1.039721 + 0.639032 + 0.950271) / 3,
    "enteos": (0.639032 + 0.950271) / 2,
    "xentropy": (0.739357 + 2.233270 + 0.584066) / 3,
}


@pytest.mark.parametrize("reward", BY_HAND)
def test_each_multiuat_reward_by_hand(reward: str) -> None:
    """Logits are log-probabilities under an identity projection; one position is padding, with values that must not
    count."""
    p_BTV = torch.tensor([[[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]], [[0.6, 0.2, 0.2], [0.01, 0.98, 0.01]]])
    target_BT = torch.tensor([[0, 2], [0, -1]])
    statistics = token_statistics(p_BTV.log() + 3.0, torch.eye(3), target_BT, 0.1, -1)
    total, count = REWARDS[reward](statistics).tolist()
    assert total / count == pytest.approx(BY_HAND[reward], abs=2e-6)
    assert set(BY_HAND) == set(REWARDS)


def test_uncertainty_holds_few_rows_and_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from mnmt_ds.samplers import uncertainty

    torch.manual_seed(3)
    hidden_BTD, projection_VD = torch.randn(5, 4, 6), torch.randn(11, 6)
    target_BT = torch.randint(2, 11, (5, 4))
    target_BT[1, 2:] = target_BT[3, 1:] = 1
    whole = token_statistics(hidden_BTD, projection_VD, target_BT, 0.1, 1)
    monkeypatch.setattr(uncertainty, "ROWS", 3)
    parts = [token_statistics(hidden_BTD[i : i + 1], projection_VD, target_BT[i : i + 1], 0.1, 1) for i in range(5)]
    for name, reward in REWARDS.items():
        assert torch.allclose(sum(map(reward, parts)), reward(whole)), name  # type: ignore[arg-type]
    certain = token_statistics(torch.tensor([[[200.0, 0.0]]]), torch.eye(2), torch.tensor([[0]]), 0.1, 1)
    assert REWARDS["comtp"](certain).tolist() == [1.0, 1.0] and REWARDS["vartp"](certain).tolist() == [0.0, 1.0]


def test_chi_ibr_bisection_by_hand() -> None:
    """p = (1/2, 1/2), l = (1, 3): q = 1/2 -+ d/2 with d = 1 / (2 - eta), the distance d^2 / 2 = 0.05, so d = sqrt(0.1);
    then both are raised to min p = 1/2 and normalised."""
    q = (1 - 0.1**0.5) / 2, (1 + 0.1**0.5) / 2
    assert tilted((0.5, 0.5), (1.0, 3.0), 2 - 10**0.5, 0.2) == pytest.approx(q)
    assert best_response((0.5, 0.5), (1.0, 3.0), 0.05, 0.2, 1e-12) == pytest.approx([0.431737, 0.568263], abs=1e-6)


def test_chi_ibr_keeps_the_ball_and_its_edges() -> None:
    shares, losses = (0.6, 0.3, 0.1), (0.2, 0.5, 0.9)
    q = best_response(shares, losses, 0.05, 0.2, 1e-10)
    kept = [x for x, p in zip(q, shares, strict=True) if x > min(shares) * 1.0001]
    assert len(kept) == 3  # nothing was raised, so the distance is rho itself
    assert sum(p * (x / p - 1) ** 2 for x, p in zip(q, shares, strict=True)) / 2 == pytest.approx(0.05, abs=1e-8)
    assert q[2] / 0.1 > q[1] / 0.3 > q[0] / 0.6
    # all weight on the large pair is nearer than rho: q = (1, 0.2 * 0.1) / 1.02, then the small one is raised to 0.1
    assert best_response((0.9, 0.1), (3.0, 1.0), 0.05, 0.2, 1e-4) == pytest.approx([0.907441, 0.092559], abs=1e-6)
    assert best_response(shares, (2.0, 2.0, 2.0), 0.05, 0.2, 1e-4) == list(shares)


def started_chi_ibr(tmp_path: Path, **baseline: float) -> Any:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"a-en": 1.0, "b-en": 1.0, **{k.replace("_", "-"): v for k, v in baseline.items()}}))
    made = chi_ibr(ChiIbrSettings(baseline=path, tolerance=1e-12), ("a-en", "b-en"), (100, 100))
    made.start()
    return made


def test_chi_ibr_averages_and_baseline(tmp_path: Path) -> None:
    sampler = started_chi_ibr(tmp_path)
    for losses in ([(20.0, 10.0), (0.0, 0.0)], [(30.0, 10.0), (80.0, 20.0)]):
        sampler.on_update(losses)
    assert sampler.memory.losses == pytest.approx([0.9 * 2 + 0.1 * 3, 4.0])
    assert sampler.probabilities == [0.5, 0.5]
    sampler.on_epoch_end()
    assert sampler.probabilities == pytest.approx(best_response((0.5, 0.5), (1.1, 3.0), 0.05, 0.2, 1e-12))
    sampler.on_update([(50.0, 10.0), (0.0, 0.0)])
    assert sampler.memory.losses == pytest.approx([5.0, 4.0])  # a new epoch: the first loss starts the average

    easy = started_chi_ibr(
        tmp_path, a_en=9.0, b_en=9.0
    )  # everything better than the baseline: the losses themselves count
    easy.on_update([(20.0, 10.0), (40.0, 10.0)])
    easy.on_epoch_end()
    assert easy.probabilities == pytest.approx(best_response((0.5, 0.5), (2.0, 4.0), 0.05, 0.2, 1e-12))


def test_chi_ibr_reads_a_run(tmp_path: Path) -> None:
    """The training losses of the overall best validation, not the last's."""
    rows = [
        {"kind": "valid", "update": u, "valid/best/update": best, "data/a-en/loss": a, "data/b-en/loss": 2 * a}
        for u, best, a in ((10, 10, 5.0), (20, 20, 3.0), (30, 20, 2.0))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def started(path: Path, *pairs: str) -> Any:
        made = chi_ibr(ChiIbrSettings(baseline=path), pairs, (1,) * len(pairs))
        made.start()
        return made

    known = started(tmp_path, "b-en", "a-en")
    assert known.memory.baseline == [6.0, 3.0]
    with pytest.raises(UserError, match=r"no training loss of ko-en; .* train a plain run"):
        started(tmp_path, "a-en", "ko-en")
    with pytest.raises(UserError, match="cannot be read"):
        started(tmp_path / "no", "a-en")
    with pytest.raises(UserError, match="no validation in it"):
        started(tmp_path.parent, "a-en")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(UserError, match=r"bad.json: cannot be read"):
        started(tmp_path / "bad.json", "a-en")
    resumed: Any = chi_ibr(ChiIbrSettings(baseline=tmp_path / "gone"), ("b-en", "a-en"), (1, 1))
    resumed.restore(known.state())  # a checkpoint has the losses; where they came from may be gone
    assert resumed.memory.baseline == known.memory.baseline


def test_ccl_m_by_hand() -> None:
    """Sizes 100, 900, 200: above the mean stands 900 alone. At C = 0.45 the 200 joins (0.4), the 100 needs 0.5."""
    sampler: Any = ccl_m(CclMSettings(ready=0.4, stagger=0.1, latest=5), PAIRS, (100, 900, 200))
    assert sampler.probabilities == [0.0, 1.0, 0.0]
    sampler.on_validation([0.0, 0.3, 0.0])
    assert sampler.probabilities == [0.0, 1.0, 0.0]
    sampler.on_validation([0.0, 0.45, 0.1])
    assert sampler.probabilities == pytest.approx([0, 0.4125 / 0.5625, 0.15 / 0.5625])  # n (1 - c): 900 x .55, 200 x .9
    sampler.on_validation([0.0, 0.35, 0.1])  # who has joined stays
    assert sampler.memory.joined == [False, True, True]
    sampler.on_validation([0.2, 0.5, 0.1])
    assert sampler.probabilities == pytest.approx([80 / 710, 450 / 710, 180 / 710])
    late: Any = ccl_m(CclMSettings(ready=1.0, latest=2), PAIRS, (100, 900, 200))
    late.on_validation([0.0] * 3)
    assert not all(late.memory.joined)
    late.on_validation([0.0] * 3)
    assert late.probabilities == pytest.approx([100 / 1200, 900 / 1200, 200 / 1200])
    assert counts([0.0, 1.0, 0.0], 7) == [0, 7, 0]


def moved(sampler: Sampler) -> Sampler:
    """Everything that can move a sampler."""
    sampler.on_update([(30.0, 10.0), (20.0, 10.0), (50.0, 10.0)])
    sampler.measure(KnownStudent((0.3, 0.1, 0.2), (0.4, 0.1, 0.7)))
    sampler.on_validation([0.2, 0.5, 0.45])
    sampler.on_update([(10.0, 10.0), (0.0, 0.0), (20.0, 10.0)])
    sampler.on_epoch_end()
    return sampler


@pytest.mark.parametrize("name", ["temperature", "multidds", "multiuat", "chi_ibr", "ccl_m"])
def test_states_go_through_json_bit_for_bit(tmp_path: Path, name: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(dict.fromkeys(PAIRS, 1.5)))
    settings: dict[str, Any] = {
        "temperature": TemperatureSettings(temperature=5),
        "multidds": MultiDdsSettings(temperature=5),
        "multiuat": MultiUatSettings(),
        "chi_ibr": ChiIbrSettings(baseline=path),
        "ccl_m": CclMSettings(ready=0.1),
    }
    fresh = build(settings[name], PAIRS, (60, 120, 240))
    fresh.start()
    sampler = moved(fresh)
    other = build(settings[name], PAIRS, (60, 120, 240))
    start = list(other.probabilities)
    assert sum(sampler.probabilities) == pytest.approx(1)
    assert (sampler.probabilities != start) == sampler.dynamic
    other.restore(json.loads(json.dumps(sampler.state())))
    assert other.probabilities == sampler.probabilities
    assert json.dumps(moved(other).state()) == json.dumps(moved(sampler).state())
    assert set(sampler.report()) >= {f"data/{pair}/prob" for pair in PAIRS}


def test_settings_refuse_nonsense() -> None:
    for bad in ({"every": 0}, {"steps": 0}, {"lr": 0}, {"temperature": 0}):
        with pytest.raises(ValueError):
            ActorSettings.model_validate(bad)
