"""The learned distribution that MultiDDS-S and MultiUAT share: p = softmax(psi), psi moved by rewards (REINFORCE).

Shape letters: L language pairs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field

from mnmt_ds.config import Settings
from mnmt_ds.requirements import Requirements
from mnmt_ds.samplers.sampler import Distribution, Measurements, Sampler, SamplerMemory
from mnmt_ds.samplers.temperature import probabilities


class ActorSettings(Settings):
    """Settings of an actor, which learns a distribution from rewards by policy gradient."""

    temperature: float = Field(default=1.0, ge=0.05)
    """T of the shares that it starts with, p proportional to n^(1/T)."""
    every: int = Field(default=1000, ge=1)
    """Updates between two measurements of the rewards."""
    steps: int = Field(default=200, ge=1, le=10**6)
    """Adam steps on psi after each."""
    lr: float = Field(default=1e-4, gt=0, le=100)
    """Adam's rate of these steps."""
    max_tokens: int = Field(default=0, ge=0, le=10**9)
    """Padded tokens of a measurement's micro-batch (an update's number of them a pair); 0: train.max_tokens."""


@dataclass
class ActorMemory(SamplerMemory):
    """State of an actor between measurements: its parameters and Adam's moments."""

    rewards: list[float]
    """The last measurement's, one a pair."""
    psi: list[float]
    """Logits of the distribution."""
    adam: dict[str, Any] = field(default_factory=dict)
    """Adam's step and moments; empty before its first step."""


def actor(
    settings: ActorSettings,
    pairs: Sequence[str],
    sizes: Sequence[int],
    rewards_of: Callable[[Measurements], Sequence[float]],
) -> Sampler:
    """Makes a sampler that learns its distribution from rewards.

    Args:
        settings: the sampler's settings.
        pairs: names of the language pairs.
        sizes: training sentences of each pair.
        rewards_of: measures the student: one reward a pair.

    Returns:
        The sampler; float64 on the CPU, the same on every rank.
    """
    distribution = Distribution(tuple(pairs), probabilities(sizes, settings.temperature))
    memory = ActorMemory([0.0] * len(pairs), [math.log(p) for p in distribution.probabilities])

    def measure(student: Measurements) -> None:
        rewards = rewards_of(student)
        if not all(math.isfinite(reward) for reward in rewards):  # fp16 gradients that overflowed teach nothing
            return
        memory.rewards = list(rewards)
        distribution.set(learn(memory, settings.steps, settings.lr))

    return Sampler(
        distribution, memory, every=settings.every, measure=measure, scores=lambda: {"reward": memory.rewards}
    )


def learn(memory: ActorMemory, steps: int, lr: float) -> list[float]:
    """Takes Adam steps on the loss sum_j - r_j log p_j of the last rewards.

    Args:
        memory: parameters, moments and rewards; parameters and moments are moved.
        steps: Adam steps.
        lr: Adam's rate.

    Returns:
        The new distribution, softmax(psi).
    """
    psi_L = torch.tensor(memory.psi, dtype=torch.float64, requires_grad=True)
    reward_L = torch.tensor(memory.rewards, dtype=torch.float64)
    optimizer = torch.optim.Adam([psi_L], lr=lr)
    if memory.adam:
        optimizer.state[psi_L] = {
            key: torch.tensor(value, dtype=torch.float32 if key == "step" else torch.float64)
            for key, value in memory.adam.items()
        }
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -(reward_L * psi_L.log_softmax(0)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    memory.psi = psi_L.tolist()
    memory.adam = {key: value.tolist() for key, value in optimizer.state[psi_L].items()}
    return list(psi_L.detach().softmax(0).tolist())


def measures_student(settings: Any) -> Requirements:
    """Declares a sampler that measures the student between validations.

    Args:
        settings: the sampler's settings.

    Returns:
        What the sampler needs of a run.
    """
    return Requirements(measured_by=(settings.name,))
