"""Teachers from other runs: a frozen expert for each pair, compared with the student by dev BLEU.

Source: Tan et al. 2019, "Multilingual Neural Machine Translation with Knowledge Distillation".
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mnmt_ds import metric_keys
from mnmt_ds.best_values import DevMetric
from mnmt_ds.distributed import RankGroup
from mnmt_ds.errors import UserError
from mnmt_ds.models.weights import describe_model
from mnmt_ds.teachers.teacher_pool import TeacherPool
from mnmt_ds.teachers.teacher_source import DevResults

LOG = logging.getLogger(__name__)
Rule = Literal["fix", "threshold", "adaptive"]
"""How an expert's share of alpha follows from dev BLEU."""


class Experts:
    """Teacher source of MULTI-DISTILL: an expert for each pair, and the share of alpha with which it still teaches."""

    dev_metrics = (DevMetric.DEV_BLEU,)
    """What it goes by."""

    def __init__(
        self,
        pool: TeacherPool,
        paths: Mapping[str, Path],
        rule: Rule,
        dev_bleu: Callable[[Mapping[str, Path]], dict[str, float]],
        ranks: RankGroup,
    ) -> None:
        """Reads the experts.

        Args:
            pool: holds the experts' weights.
            paths: each pair's model directory.
            rule: how the share of alpha is computed.
            dev_bleu: measures the BLEU of models on their pairs' dev sets; called by all ranks together, once for each
                model.
            ranks: the student's ranks.

        Raises:
            UserError: when an expert is missing, altered or does not fit the student.
        """
        self.pool, self.rule, self._ranks = pool, rule, ranks
        self.paths = {pair: str(path) for pair, path in paths.items()}
        self._dev_bleu = dev_bleu
        self.expert: dict[str, float] = {}
        """Each expert's own BLEU; empty until the student's is known."""
        self.student: dict[str, float] = {}
        """The student's BLEU on each pair, at the last validation that measured it."""
        pool.restore(self.paths.values())
        self.sha256 = {pair: describe_model(path).get("sha256") for pair, path in paths.items()}
        """SHA-256 of each expert's weights, so that a resumed run knows whether they are those that it measured."""

    def share(self, pair: str) -> float:
        """Computes how much of alpha a pair's expert has.

        Args:
            pair: such as ``de-en``.

        Returns:
            0 to 1; 1 until the student's BLEU was first measured.
        """
        if self.rule == "fix" or pair not in self.student:
            return 1.0
        return expert_share(self.rule, self.student[pair], self.expert[pair])

    def teacher_of(self, pair: str) -> str | None:
        """Returns the pair's expert, while it has a share of alpha.

        Args:
            pair: such as ``de-en``.

        Returns:
            Its model directory; None while the pair is not distilled.
        """
        return self.paths[pair] if pair in self.paths and self.share(pair) > 0 else None

    def update(self, report: DevResults) -> None:
        """Updates the experts' shares from a validation, where it measured BLEU.

        Args:
            report: the validation's results.
        """
        if self.rule == "fix" or not report.bleu:
            return
        if not self.expert:
            self.expert = self._dev_bleu({pair: Path(path) for pair, path in self.paths.items()})
        self.student = dict(report.bleu)

    def report(self, update: int) -> dict[str, float]:
        """Collects metrics of the pool and of every expert.

        Args:
            update: updates done so far.

        Returns:
            Values by metric key.
        """
        metrics = self.pool.report()
        metrics |= {metric_keys.EXPERT_BLEU.of(pair): bleu for pair, bleu in self.expert.items()}
        return metrics | {metric_keys.EXPERT_SHARE.of(pair): self.share(pair) for pair in self.paths}

    def snapshots(self) -> set[int]:
        """Lists the snapshots of this run that are in use.

        Returns:
            None: experts are files of other runs.
        """
        return set()

    def begin_anew(self) -> None:
        """Drops all BLEU: experts teach fully until it is measured."""
        self.expert, self.student = {}, {}

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint.

        Returns:
            Each pair's path and hash, the expert's and the student's BLEU.
        """
        return {"paths": self.paths, "sha256": self.sha256, "expert": self.expert, "student": self.student}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a checkpoint's state; experts whose weights have changed since are measured again.

        Args:
            state: what ``state`` gave.

        Raises:
        """
        self.expert, self.student = dict(state["expert"]), dict(state["student"])
        sha256_before = state.get("sha256", self.sha256)  # older checkpoints do not say
        changed = self._ranks.broadcast_from_main(
            [pair for pair in self.expert if sha256_before[pair] != self.sha256[pair]]
        )
        if changed:
            if self._ranks.is_main:
                LOG.warning(
                    "experts: %s: other weights than at the checkpoint; measuring dev BLEU again", ", ".join(changed)
                )
            self.expert |= self._dev_bleu({pair: Path(self.paths[pair]) for pair in changed})


def expert_share(rule: Rule, student_bleu: float, expert_bleu: float) -> float:
    """Computes an expert's share of alpha (Tan et al. 2019).

    Args:
        rule: threshold: 1 while the student is below the expert's BLEU + 1, then 0. adaptive: 1 while it is below the
            expert's BLEU - 2, then half for every further point. fix: 1.
        student_bleu: dev BLEU of the student, 0 to 100.
        expert_bleu: dev BLEU of the expert, 0 to 100.

    Returns:
        0 to 1.
    """
    if rule == "threshold":
        return 1.0 if student_bleu < expert_bleu + 1 else 0.0
    return 1.0 if rule == "fix" or student_bleu < expert_bleu - 2 else 0.5 ** (student_bleu - expert_bleu + 2)


def check_pairs(paths: Mapping[str, Path], pairs: Sequence[str]) -> None:
    """Checks that every pair has an expert and no other pair has one.

    Args:
        paths: the experts of ``method.experts``, by pair.
        pairs: the run's language pairs.

    Raises:
        UserError: when the two differ.
    """
    if odd := sorted(set(paths) ^ set(pairs)):
        raise UserError(
            f"method.experts: {', '.join(odd)}: one expert a pair of data.pairs is wanted, no more, no less"
        )
