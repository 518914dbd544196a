"""The learned distribution that MultiDDS-S and MultiUAT share: p = softmax(psi), psi moved by rewards (REINFORCE)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from mnmt_ds.config import Settings
from mnmt_ds.samplers.sampler import Sampler


class ActorSettings(Settings):
    """How a distribution learns from rewards."""

    temperature: float = Field(default=1.0, gt=0)
    """T of the shares that it starts with, p proportional to n^(1/T)."""
    every: int = Field(default=1000, ge=1)
    """Updates between two measurements of the rewards."""
    steps: int = Field(default=200, ge=1)
    """Adam steps on psi after each."""
    lr: float = Field(default=1e-4, gt=0)
    """Adam's rate of these steps."""
    max_tokens: int = Field(default=0, ge=0)
    """Padded tokens of a measurement's micro-batch (an update's number of them a pair); 0: train.max_tokens."""


class Actor(Sampler):
    """psi in R^L, float64 on the CPU, the same on every rank; Adam's moments live on from one measurement to the next.

    Subclasses ask for rewards in ``measure`` and hand them to ``learn``.
    """

    dynamic = True

    def __init__(self, settings: Any, pairs: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__(settings, pairs, sizes)
        self.every = settings.every
        self.psi_L = torch.tensor([math.log(p) for p in self.probabilities], dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.psi_L], lr=settings.lr)
        self.rewards = [0.0] * len(self.pairs)

    def learn(self, rewards: Sequence[float]) -> None:
        """``steps`` Adam steps on the loss sum_j - r_j log p_j; rewards that are not finite (fp16) teach nothing."""
        if not all(math.isfinite(reward) for reward in rewards):
            return
        self.rewards = list(rewards)
        reward_L = torch.tensor(self.rewards, dtype=torch.float64)
        for _ in range(self.settings.steps):
            self.optimizer.zero_grad()
            loss = -(reward_L * self.psi_L.log_softmax(0)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.set(self.psi_L.detach().softmax(0).tolist())

    def scores(self) -> dict[str, Sequence[float]]:
        return {"reward": self.rewards}

    def state(self) -> dict[str, Any]:
        moments = self.optimizer.state.get(self.psi_L, {})
        adam = {key: value.tolist() for key, value in moments.items()}
        return {**super().state(), "rewards": self.rewards, "psi": self.psi_L.tolist(), "adam": adam}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.rewards = list(state["rewards"])
        with torch.no_grad():
            self.psi_L.copy_(torch.tensor(state["psi"], dtype=torch.float64))
        self.optimizer.state.clear()
        if state["adam"]:
            step, rest = state["adam"]["step"], {k: v for k, v in state["adam"].items() if k != "step"}
            moments = {key: torch.tensor(value, dtype=torch.float64) for key, value in rest.items()}
            self.optimizer.state[self.psi_L] = {"step": torch.tensor(step, dtype=torch.float32), **moments}
