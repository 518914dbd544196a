"""Pareto mutual distillation (paper 2, Algorithms 1 and 2): students that teach each other, a weight a language pair.

loss_i = (1 - alpha_i[l]) * CE(B_l; theta_i) + alpha_i[l] * KD(B_l; theta_i, theta_peer)          (Equation 4)
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mnmt_ds import metric_keys
from mnmt_ds.batch import Batch
from mnmt_ds.config import Settings
from mnmt_ds.errors import UserError
from mnmt_ds.kernels.types import Teacher
from mnmt_ds.methods.alpha_rules import (
    Weights,
    best_of_all,
    best_of_each,
    better_peers,
    read_weights,
    search_space,
    step_size,
)
from mnmt_ds.methods.entry import MethodEntry, RunFacts
from mnmt_ds.methods.lssd import LssdSettings
from mnmt_ds.methods.method import Method, MethodContext, ValidationReport
from mnmt_ds.methods.peers import Peers, TrialSettings
from mnmt_ds.methods.translation import TranslationSettings
from mnmt_ds.requirements import Requirements

TRIALS = 3
"""Trials of a search: keep, raise, lower."""


class ParetoSettings(Settings):
    """Who learns how much from whom. ``profile`` fills whatever is not given."""

    name: Literal["pareto"] = "pareto"
    """The method's name."""
    profile: Literal["paper", "released"] = "paper"
    """paper: the equations; released: what the authors' code does."""
    rule: Literal["uni", "bi", "auto", "dynamic", "lsmd", "vanilla"] = "auto"
    """uni: the worse student of a pair learns; bi: both; auto: searched for each pair; dynamic: searched, one action
    for all pairs; lsmd: fixed ``weights``; vanilla: bi between students with one sampler."""
    alpha: float = 0.4
    """Weight of uni, bi and vanilla (the paper searches 0.2, 0.4, 0.6, 0.8)."""
    initial: float = 0.1
    """First weight of auto and dynamic."""
    weights: Path | None = None
    """lsmd: the directory of an AUTO-PMD run (its last weights), or JSON {student: {pair: alpha}}."""
    interval: int = 1
    """Validations from one adjustment of the weights to the next (released, uni: 3)."""
    start_epoch: int = 1
    """The epoch, counted from 1, in which distillation starts (released 5)."""
    tolerance_bits: float = 0.0
    """uni: dev losses that differ by less, in bits a token, count as equal, and both learn (released 0.05)."""
    peer_dropout: bool = False
    """The peer teaches with its dropout on (released true; in trials it is always off)."""
    schedule: Literal[1, 2, 3, 4] = 4
    """Step size mu: 1: 1; 2: sqrt((T - 0.8 t) / T); 3: sqrt(max(T - 1.2 t, 0) / T); 4: sqrt((T - t) / T)."""
    ties: Literal["keep", "raise", "lower"] = "keep"
    """The action that wins where trials are equally good (the paper does not say; released raise)."""
    clip: float = 1.0
    """Greatest weight that is fed to the logit (released 0.98)."""
    trials: TrialSettings = TrialSettings()
    """How weights are tried."""
    extra_updates: bool = False
    """The control: at each adjustment as many updates on the trial set as a search takes, with the weights as they
    are, kept."""
    base: TranslationSettings | LssdSettings = Field(default_factory=TranslationSettings, discriminator="name")
    """What a student learns besides: plain translation, or LSSD with teachers of its own."""

    @classmethod
    def released(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Lists what ``profile: released`` sets, where the authors' code departs from their paper.

        Args:
            given: the section's values as they were given; ``interval`` depends on ``rule``.

        Returns:
            Values by name.
        """
        return {
            "peer_dropout": True, "start_epoch": 5, "tolerance_bits": 0.05, "ties": "raise", "clip": 0.98,
            "interval": 3 if given.get("rule") == "uni" else 1, "trials": {"data": "coming", "after": "keep"},
        }  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> "ParetoSettings":
        for name in ("alpha", "initial", "clip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.interval < 1:
            raise ValueError("interval must be at least 1")
        if (self.rule == "lsmd") != (self.weights is not None):
            raise ValueError("weights and rule: lsmd belong together; give both or neither")
        return self

    @property
    def searched(self) -> bool:
        """Whether the weights are found by trials."""
        return self.rule in ("auto", "dynamic")


def check(settings: ParetoSettings, facts: RunFacts) -> None:
    """UserError for what would fail in mid-training."""
    if len(facts.students) < 2:
        raise UserError("method pareto: one student only; list two or more under 'students', each with its sampler")
    if settings.rule == "vanilla" and any(sampler != facts.samplers[0] for sampler in facts.samplers):
        raise UserError("method pareto: rule vanilla is for students with one sampler; use bi, or equal samplers")
    if settings.weights is not None:
        read_weights(settings.weights, facts.pairs, facts.students)
    if settings.searched or settings.extra_updates:
        for pair, size in facts.sizes.items() if settings.trials.data == "sample" else ():
            if int(settings.trials.rho * size) < 1:
                raise UserError(
                    f"method pareto: trials.rho {settings.trials.rho:g} leaves {pair}'s trial set empty (it has {size}"
                    f" sentences); set at least {1 / size:.2g}"
                )


class PeerWeights:
    """alpha_i[l] of one student and who teaches it; state of Algorithm 1."""

    def __init__(self, alpha: Weights, teachers: Mapping[str, list[str]], active: bool) -> None:
        self.alpha, self.active = dict(alpha), active
        self.teachers = {pair: list(names) for pair, names in teachers.items()}
        """The peers that teach each pair; alpha is shared evenly between them."""
        self.validations = 0
        self.seconds = 0.0

    def of(self, pair: str) -> tuple[float, list[str]]:
        """The weight in use and the peers it is shared between."""
        names = self.teachers[pair]
        return (self.alpha[pair], names) if self.active and names and self.alpha[pair] > 0 else (0.0, [])

    def put(self, alpha: Weights) -> None:
        self.alpha = dict(alpha)

    def state(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha, "teachers": self.teachers, "active": self.active, "validations": self.validations,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["alpha"].keys() != self.alpha.keys():
            raise UserError(
                f"weights: the checkpoint's pairs {sorted(state['alpha'])} are not the run's {sorted(self.alpha)}"
            )
        self.alpha, self.teachers = dict(state["alpha"]), {pair: list(n) for pair, n in state["teachers"].items()}
        self.active, self.validations = bool(state["active"]), int(state["validations"])

    def snapshots(self) -> set[int]:
        return set()

    def report(self, update: int) -> dict[str, float]:
        """Metric keys: the weights in use from here on, and the seconds that finding them took."""
        keys = {metric_keys.ALPHA.of(pair): self.of(pair)[0] for pair in self.alpha}
        return keys | {metric_keys.SEARCH_SECONDS: self.seconds}


def pareto(settings: ParetoSettings, context: MethodContext, inside: Mapping[str, Method]) -> Method:
    """A student of Algorithm 1 around any ``base``: (1 - alpha) of the base's loss, alpha from the peer.

    Differs: with more than two students, the peers that teach a pair share alpha evenly (the paper has two).
    """
    peers = context.peers
    if peers is None:
        raise UserError("method pareto: one student only; list two or more under 'students', each with its sampler")
    base = inside["base"]
    held = first_weights(settings, context.pairs, peers)

    def teach(batch: Batch) -> Batch:
        batch = base.teach(batch)
        alpha, names = held.of(context.pairs[batch.pair])
        if not names or not batch.tokens:
            return batch
        states = peers.states(names, batch)
        lessons = {name: t._replace(weight=(1 - alpha) * t.weight) for name, t in batch.teachers.items()}
        for name in names:
            lessons["peer" if len(peers.others) == 1 else f"peer_{name}"] = Teacher(*states[name], alpha / len(names))
        return batch._replace(gold_weight=(1 - alpha) * batch.gold_weight, teachers=lessons)

    def adjust(report: ValidationReport) -> None:
        """Algorithm 1, lines 7 to 9: the rule, every ``interval`` validations, once distillation has started."""
        base.adjust(report)
        held.validations, held.seconds = held.validations + 1, 0.0
        held.active = report.epoch + 1 >= settings.start_epoch
        if held.validations % settings.interval or not held.active or report.update >= peers.last_update:
            return
        began = time.monotonic()
        if settings.rule == "uni":
            held.teachers = better_peers(report.dev, report.others, settings.tolerance_bits * math.log(2))
        elif settings.searched:
            search(settings, held, peers, report)
        if settings.extra_updates:
            peers.trial(settings.trials.model_copy(update={"after": "keep"}), [_as_it_is] * TRIALS)
        held.seconds = time.monotonic() - began

    peers.want(lambda pair: held.of(pair)[1], settings.peer_dropout)
    return base._replace(teach=teach, adjust=adjust, state={**base.state, "weights": held})


def search(settings: ParetoSettings, held: PeerWeights, peers: Peers, report: ValidationReport) -> None:
    """Algorithm 2 for one student: each trial trains it from where it stands, then each pair takes its best action."""
    mu = step_size(settings.schedule, report.update, peers.last_update)
    if mu == 0:
        return
    space = search_space(held.alpha, mu, settings.ties, settings.clip)
    losses = peers.trial(settings.trials, [lambda alpha=alpha: held.put(alpha) for alpha in space])  # type: ignore[misc]
    held.put((best_of_each if settings.rule == "auto" else best_of_all)(space, losses))


def first_weights(settings: ParetoSettings, pairs: Any, peers: Peers) -> PeerWeights:
    """The weights of the first update: uni waits for dev losses (Algorithm 1 starts at 0), the others know theirs."""
    if settings.weights is not None:
        alpha = read_weights(settings.weights, pairs, [peers.me, *peers.others])[peers.me]
    else:
        alpha = dict.fromkeys(pairs, settings.initial if settings.searched else settings.alpha)
    nobody: list[str] = []
    teachers = dict.fromkeys(pairs, nobody if settings.rule == "uni" else list(peers.others))
    return PeerWeights(alpha, teachers, settings.start_epoch <= 1)


def _as_it_is() -> None:
    """The change of a trial that changes nothing."""


def requirements(settings: ParetoSettings) -> Requirements:
    """Declares the peers' states, and the trials or extra updates at validations.

    Args:
        settings: the method's settings.

    Returns:
        What the method needs of a run, the inner one's needs left out.
    """
    return Requirements(peers=True, weight_search=settings.searched, extra_updates=settings.extra_updates)


def sections_inside(settings: ParetoSettings) -> dict[str, Settings]:
    """Names what a student learns besides.

    Args:
        settings: the method's settings.

    Returns:
        Its section, as ``base``.
    """
    return {"base": settings.base}


ENTRY = MethodEntry(
    ParetoSettings,
    pareto,
    requirements,
    sections_inside,
    check,
    example={
        "method": {"name": "pareto", "trials": {"rho": 0.2}},
        "students": [{}, {"sampler": {"temperature": 5}}],
        "validation": {"every": 4},
    },
)
