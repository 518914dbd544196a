"""Pareto mutual distillation (paper 2, Algorithms 1 and 2): students that teach each other, a weight a language pair.

loss_i = (1 - alpha_i[l]) * CE(B_l; theta_i) + alpha_i[l] * KD(B_l; theta_i, theta_peer)          (Equation 4)
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mnmt_ds.batch import Batch
from mnmt_ds.config import FilePath, PaperDifference, Settings
from mnmt_ds.errors import UserError
from mnmt_ds.kernels.types import Teacher
from mnmt_ds.methods.alpha_rules import (
    AlphaSearch,
    best_of_all,
    best_of_each,
    better_peers,
    read_weights,
    search_space,
    step_size,
    step_size_by_epoch,
)
from mnmt_ds.methods.entry import MethodEntry, RunFacts
from mnmt_ds.methods.lssd import LssdSettings
from mnmt_ds.methods.method import Method, MethodContext, ValidationReport
from mnmt_ds.methods.peer_weights import PeerWeights
from mnmt_ds.methods.peers import Peers, TrialSettings
from mnmt_ds.methods.translation import TranslationSettings
from mnmt_ds.requirements import Requirements

TRIALS = 3
"""Trials of a search: keep, raise, lower."""


class ParetoSettings(Settings):
    """Settings of Pareto-MD: who learns from whom, and how much. ``profile`` fills whatever is not given."""

    later = ("interval_counts", "schedule_unit")
    differences: ClassVar = {
        "alpha": PaperDifference(
            "of UNI and BI searched in 0.2, 0.4, 0.6, 0.8 (2, 4.1)",
            "UNI, BI: WMT into English 0.6, 0.6, out of it 0.2, 0.4; TED-8 0.6, 0.8 and 0.4, 0.4",
            "one value for runs without a search; the paper's study sweeps, that of released code has the scripts'",
        ),
        "fixed_start": PaperDifference(
            "after_interval: α = 0 until t % T = 0 (2, Algorithm 1)", "no matter: distillation starts in epoch 5",
            "older runs go on as they were; the papers' studies set after_interval",
        ),
        "peer_dropout": PaperDifference("off (2, Equation 4)", "in training, not in trials", "the paper's"),
        "start_epoch": PaperDifference("1 (2, Algorithm 1)", "", "the paper's"),
        "tolerance_bits": PaperDifference("exactly the worse student learns (2, Equation 5)", "", "the paper's"),
        "interval": PaperDifference(
            "every epoch (2, 4.1)", "UNI 3; AUTO 2 on WMT into English", "the paper's; the study has the scripts'"
        ),
        "interval_counts": PaperDifference(
            "past (2, Algorithm 1)", "UNI changes before epochs 6, 9, 12", "the paper's"
        ),
        "schedule_unit": PaperDifference(
            "√((T − t)/T) by updates (2, Equation 12)", "√((E − e)/(E − 5)), e the coming epoch", "the paper's"
        ),
        "ties": PaperDifference("not said", "", "no change without a reason"),
        "clip": PaperDifference("no bound (2, Equations 10 and 11)", "", "the paper's"),
    }  # fmt: skip

    name: Literal["pareto"] = "pareto"
    """The method's name."""
    profile: Literal["paper", "released"] = "paper"
    """paper: the equations; released: what the authors' code does."""
    rule: Literal["uni", "bi", "auto", "dynamic", "lsmd", "vanilla"] = "auto"
    """uni: the worse student of a pair learns; bi: both; auto: searched for each pair; dynamic: searched, one action
    for all pairs; lsmd: fixed ``weights``; vanilla: bi between students with one sampler."""
    alpha: float = Field(0.4, ge=0, le=1)
    """Weight of uni, bi and vanilla (the paper searches 0.2, 0.4, 0.6, 0.8)."""
    fixed_start: Literal["at_once", "after_interval"] = "at_once"
    """bi and vanilla. at_once: alpha counts from the first update; after_interval: it is 0 until the weights are set
    after the first ``interval`` (paper 2, Algorithm 1; the papers' studies)."""
    initial: float = Field(0.1, ge=0, le=1)
    """First weight of auto and dynamic."""
    weights: FilePath | None = None
    """lsmd: the directory of an AUTO-PMD run (its last weights), or JSON {student: {pair: alpha}}."""
    interval: int = Field(1, ge=1)
    """Validations from one adjustment of the weights to the next (released, uni: 3)."""
    interval_counts: Literal["past", "coming"] = "past"
    """past: the weights change after every ``interval``-th validation; coming: a validation earlier, that is, before
    epochs 3, 6, 9 for 3 (released coming)."""
    start_epoch: int = Field(1, ge=1)
    """The epoch, counted from 1, in which distillation starts (released 5)."""
    tolerance_bits: float = Field(0.0, ge=0)
    """uni: dev losses that differ by less, in bits a token, count as equal, and both learn (released 0.05)."""
    peer_dropout: bool = False
    """The peer teaches with its dropout on (released true; in trials it is always off)."""
    schedule: Literal[1, 2, 3, 4] = 4
    """Step size mu: 1: 1; 2: sqrt((T - 0.8 t) / T); 3: sqrt(max(T - 1.2 t, 0) / T); 4: sqrt((T - t) / T)."""
    schedule_unit: Literal["update", "epoch"] = "update"
    """What schedule 4 counts. epoch: sqrt((E - e) / (E - start_epoch)), e the coming one of E epochs (released
    epoch)."""
    ties: Literal["keep", "raise", "lower"] = "keep"
    """The action that wins where trials are equally good (the paper does not say; released raise)."""
    clip: float = Field(1.0, ge=0, le=1)
    """Greatest weight that is fed to the logit (released 0.98)."""
    trials: TrialSettings = TrialSettings()
    """How weights are tried."""
    extra_updates: bool = False
    """The control: at each adjustment as many updates on the trial set as a search takes, with the weights as they
    are, kept."""
    base: TranslationSettings | LssdSettings = Field(default_factory=TranslationSettings, discriminator="name")
    """What a student learns besides: plain translation, or LSSD with teachers of its own."""

    @classmethod
    def released(cls, explicit: Mapping[str, Any]) -> dict[str, Any]:
        """Lists what ``profile: released`` sets, where the authors' code departs from their paper.

        Args:
            explicit: the section's values as they were given; ``interval`` depends on ``rule``, ``schedule_unit`` on
                ``schedule``.

        Returns:
            Values by name.
        """
        return {
            "peer_dropout": True, "start_epoch": 5, "tolerance_bits": 0.05, "ties": "raise", "clip": 0.98,
            "interval": 3 if explicit.get("rule") == "uni" else 1, "interval_counts": "coming",
            "trials": {"data": "coming", "after": "keep"},
            **({"schedule_unit": "epoch"} if explicit.get("schedule") in (None, 4) else {}),
        }  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> "ParetoSettings":
        if self.schedule_unit == "epoch" and self.schedule != 4:
            raise ValueError("schedule_unit: epoch is for schedule 4")
        if (self.rule == "lsmd") != (self.weights is not None):
            raise ValueError("weights and rule: lsmd belong together; give both or neither")
        return self

    @property
    def searched(self) -> bool:
        """Whether the weights are found by trials."""
        return self.rule in ("auto", "dynamic")


def check(settings: ParetoSettings, facts: RunFacts) -> None:
    """Checks that a run has what Pareto-MD needs: several students, and trial sets that are not empty.

    Args:
        settings: the method's settings.
        facts: what is known of the run.

    Raises:
        UserError: where there is one student, rule vanilla has unequal samplers, weights do not fit the run, or a
            pair's trial set would be empty.
    """
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


def pareto(settings: ParetoSettings, context: MethodContext, inside: Mapping[str, Method]) -> Method:
    """Makes a student of Algorithm 1: (1 - alpha) of its base method's loss, and alpha from its peers (Equation 4).

    Differs: more than two students; paper: possible, not said how; released: two; ours: the peers that teach a pair
    share alpha evenly; why: gold keeps its weight.

    Args:
        settings: the method's settings.
        context: what methods may use of the run.
        inside: what the student learns besides, as ``base``.

    Returns:
        The method.

    Raises:
        UserError: where the run has one student only.
    """
    peers = context.peers
    if peers is None:
        raise UserError("method pareto: one student only; list two or more under 'students', each with its sampler")
    base = inside["base"]
    weights = first_weights(settings, context.pairs, peers)

    def teach(batch: Batch) -> Batch:
        batch = base.teach(batch)
        alpha, names = weights.of(context.pairs[batch.pair])
        if not names or not batch.tokens:
            return batch
        states = peers.states(names, batch)
        teachers = {name: t._replace(weight=(1 - alpha) * t.weight) for name, t in batch.teachers.items()}
        for name in names:
            teachers["peer" if len(peers.others) == 1 else f"peer_{name}"] = Teacher(*states[name], alpha / len(names))
        return batch._replace(gold_weight=(1 - alpha) * batch.gold_weight, teachers=teachers)

    def after_validation(report: ValidationReport) -> None:
        """Algorithm 1, lines 7 to 9: the rule, every ``interval`` validations, once distillation has started."""
        base.after_validation(report)
        weights.validations, weights.seconds, weights.search = weights.validations + 1, 0.0, None
        weights.active = report.epoch + 1 >= settings.start_epoch
        counted = weights.validations + (settings.interval_counts == "coming")
        if counted % settings.interval or not weights.active or report.update >= peers.last_update:
            return
        began = time.monotonic()
        if settings.rule in ("bi", "vanilla"):
            weights.teachers = {pair: list(peers.others) for pair in context.pairs}
        elif settings.rule == "uni":
            weights.teachers = better_peers(report.dev, report.others, settings.tolerance_bits * math.log(2))
        elif settings.searched:
            search(settings, weights, peers, report)
        if settings.extra_updates:
            peers.run_trials(settings.trials.model_copy(update={"after": "keep"}), [_change_nothing] * TRIALS)
        weights.seconds = time.monotonic() - began

    peers.subscribe(lambda pair: weights.of(pair)[1], settings.peer_dropout)
    return base._replace(teach=teach, after_validation=after_validation, state={**base.state, "weights": weights})


def search(settings: ParetoSettings, weights: PeerWeights, peers: Peers, report: ValidationReport) -> None:
    """Searches one student's weights (Algorithm 2): trials from where it stands, then each pair takes its best action.

    Args:
        settings: the method's settings.
        weights: the student's weights; they are set to the result.
        peers: the run's other students, and the way to run trials.
        report: the validation after which the search takes place.
    """
    mu = step_size(settings.schedule, report.update, peers.last_update)
    if settings.schedule_unit == "epoch":
        epochs = report.epoch * peers.last_update / report.update
        mu = step_size_by_epoch(report.epoch + 1, epochs, settings.start_epoch)
    if mu == 0:
        return
    before = dict(weights.alpha)
    space = search_space(before, mu, settings.ties, settings.clip)
    losses = peers.run_trials(settings.trials, [partial(weights.replace, alpha) for alpha in space.values()])
    trials = dict(zip(space, losses, strict=True))
    actions = (best_of_each if settings.rule == "auto" else best_of_all)(trials)
    weights.search = AlphaSearch(mu, before, trials, actions)
    weights.replace({pair: space[action][pair] for pair, action in actions.items()})


def first_weights(settings: ParetoSettings, pairs: Sequence[str], peers: Peers) -> PeerWeights:
    """Makes the weights of the first update: 0 (nobody teaches) until the first adjustment, where they wait for that.

    Args:
        settings: the method's settings.
        pairs: the run's language pairs.
        peers: the run's other students.

    Returns:
        The student's weights.
    """
    if settings.weights is not None:
        alpha = read_weights(settings.weights, pairs, [peers.name, *peers.others])[peers.name]
    else:
        alpha = dict.fromkeys(pairs, settings.initial if settings.searched else settings.alpha)
    is_fixed = settings.rule in ("bi", "vanilla")
    waits = settings.rule == "uni" or (is_fixed and settings.fixed_start == "after_interval")
    teachers = dict.fromkeys(pairs, [] if waits else list(peers.others))
    return PeerWeights(alpha, teachers, settings.start_epoch <= 1, settings.searched)


def _change_nothing() -> None:
    """The change of a trial that keeps the weights."""


def requirements(settings: ParetoSettings) -> Requirements:
    """Declares the peers' states, and the trials or extra updates at validations.

    Args:
        settings: the method's settings.

    Returns:
        What the method needs of a run, the inner one's needs left out.
    """
    return Requirements(peers=True, weight_search=settings.searched, extra_updates=settings.extra_updates)


def sections_inside(settings: ParetoSettings) -> dict[str, Settings]:
    """Lists the settings of the method that students learn by besides.

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
