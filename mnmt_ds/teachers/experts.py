"""Teachers from other runs: a frozen expert for each pair, held against the student before training starts."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mnmt_ds import metric_keys
from mnmt_ds.distributed import RankGroup
from mnmt_ds.errors import UserError
from mnmt_ds.models.weights import describe_model
from mnmt_ds.teachers.teacher_pool import TeacherPool

Rule = Literal["fix", "threshold", "adaptive"]
"""How much an expert teaches, from dev BLEU (Tan et al. 2019)."""


class Experts:
    """An expert for each pair, and how much of its teaching the student still takes."""

    def __init__(
        self,
        pool: TeacherPool,
        paths: Mapping[str, Path],
        rule: Rule,
        dev_bleu: Callable[[Mapping[str, Path]], dict[str, float]],
        ranks: RankGroup,
    ) -> None:
        """``dev_bleu``: BLEU of models on their pairs' dev sets; called on all ranks together, once for each model.
        ``ranks``: the student's."""
        self.pool, self.rule, self._ranks = pool, rule, ranks
        self.paths = {pair: str(path) for pair, path in paths.items()}
        self._dev_bleu = dev_bleu
        self.expert: dict[str, float] = {}
        """Each expert's own BLEU; empty until the student's is known."""
        self.student: dict[str, float] = {}
        pool.restore(self.paths.values())
        self.sha256 = {pair: describe_model(path).get("sha256") for pair, path in paths.items()}
        """Of each expert's weights, so that a resumed run knows whether they are still those that it measured."""

    def share(self, pair: str) -> float:
        """How much of alpha a pair's expert has; 1 until the student was first scored."""
        if self.rule == "fix" or pair not in self.student:
            return 1.0
        return share(self.rule, self.student[pair], self.expert[pair])

    def teacher_of(self, pair: str) -> str | None:
        """The pair's expert, while it has a share."""
        return self.paths[pair] if pair in self.paths and self.share(pair) > 0 else None

    def update(self, report: Any) -> None:
        """Takes a validation in; where it scored the dev sets, the shares are set anew."""
        if self.rule == "fix" or not report.bleu:
            return
        if not self.expert:
            self.expert = self._dev_bleu({pair: Path(path) for pair, path in self.paths.items()})
        self.student = dict(report.bleu)

    def report(self, update: int) -> dict[str, float]:
        keys = self.pool.report()
        keys |= {metric_keys.EXPERT_BLEU.of(pair): bleu for pair, bleu in self.expert.items()}
        return keys | {metric_keys.EXPERT_SHARE.of(pair): self.share(pair) for pair in self.paths}

    def snapshots(self) -> set[int]:
        """None of this run's: experts live elsewhere."""
        return set()

    def state(self) -> dict[str, Any]:
        return {"paths": self.paths, "sha256": self.sha256, "expert": self.expert, "student": self.student}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["paths"] != self.paths:
            raise UserError(f"experts: the checkpoint was taught by {state['paths']}, this run by {self.paths}")
        self.expert, self.student = dict(state["expert"]), dict(state["student"])
        before = state.get("sha256", self.sha256)  # older checkpoints do not say
        others = self._ranks.broadcast_from_main([pair for pair in self.expert if before[pair] != self.sha256[pair]])
        if others:
            if self._ranks.is_main:
                text = f"experts: {', '.join(others)}: other weights than at the checkpoint; measuring dev BLEU again"
                print(text, file=sys.stderr, flush=True)
            self.expert |= self._dev_bleu({pair: Path(self.paths[pair]) for pair in others})


def share(rule: Rule, student: float, expert: float) -> float:
    """Of alpha, from dev BLEU: threshold: 1 below the expert's + 1, then 0; adaptive: 1 below the expert's - 2, then
    half for every point more."""
    if rule == "threshold":
        return 1.0 if student < expert + 1 else 0.0
    return 1.0 if rule == "fix" or student < expert - 2 else 0.5 ** (student - expert + 2)


def check_pairs(paths: Mapping[str, Path], pairs: Sequence[str]) -> None:
    """UserError where experts and pairs are not the same set."""
    if odd := sorted(set(paths) ^ set(pairs)):
        raise UserError(
            f"method.experts: {', '.join(odd)}: one expert a pair of data.pairs is wanted, no more, no less"
        )
