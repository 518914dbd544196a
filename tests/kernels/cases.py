"""Random problems for the fused loss, and runs of one implementation on them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnmt_ds.kernels.ce_with_teacher import Gate, LossSums, Teacher, ce_with_teacher

HAS_GPU = torch.cuda.device_count() > 0
"""Whether the CUDA implementation is tested, too."""


class Case(NamedTuple):
    hidden: Tensor
    projection: Tensor
    target: Tensor
    teachers: list[Teacher]
    options: dict[str, Any]

    def to(self, dtype: torch.dtype) -> "Case":
        teachers = [
            t._replace(hidden_BTE=t.hidden_BTE.to(dtype), projection_VE=t.projection_VE.to(dtype))
            for t in self.teachers
        ]
        return self._replace(hidden=self.hidden.to(dtype), projection=self.projection.to(dtype), teachers=teachers)


def case(
    sentences: int = 3,
    positions: int = 5,
    width: int = 7,
    words: int = 250,
    passes: int = 1,
    gates: tuple[Gate, ...] = (),
    temperature: float = 1.0,
    masked: bool = False,
    smoothing: float = 0.1,
    scale: float = 2.0,
    seed: int = 0,
) -> Case:
    """Ragged sentences, the last one all padding where there are several; weights of every shape."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    target = torch.randint(0, words, (sentences, positions), generator=generator)
    for i in range(1, sentences):
        target[i, max(0, positions - 2 * i) :] = 1
    if sentences > 1:
        target[-1] = 1
    weights: list[float | Tensor] = [0.6, torch.rand(sentences, positions, generator=generator)]
    teachers = [
        Teacher(
            normal(sentences, positions, 6),
            normal(words, 6),
            weights[j % 2],
            gate,
            temperature,
            torch.arange(words) % 3 != 1 if masked else None,
        )
        for j, gate in enumerate(gates)
    ]
    options = {
        "smoothing": smoothing,
        "gold_weight": torch.rand(sentences, generator=generator),
        "passes": passes,
        "divergence_weight": 5.0 if passes > 1 else 0.0,
    }
    projection = normal(words, width) * scale / width**0.5
    return Case(normal(passes * sentences, positions, width), projection, target, teachers, options)


def on_gpu(c: Case) -> Case:
    """The case with everything on the GPU."""
    teachers = [
        t._replace(
            hidden_BTE=t.hidden_BTE.cuda(),
            projection_VE=t.projection_VE.cuda(),
            weight=t.weight.cuda() if isinstance(t.weight, torch.Tensor) else t.weight,
            vocabulary_V=None if t.vocabulary_V is None else t.vocabulary_V.cuda(),
        )
        for t in c.teachers
    ]
    options = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in c.options.items()}
    return Case(c.hidden.cuda(), c.projection.cuda(), c.target.cuda(), teachers, options)


def outcome(c: Case, implementation: str) -> tuple[LossSums, Tensor, Tensor]:
    """LossSums and both gradients; "cuda" runs on the GPU, its gradients come back."""
    if implementation == "cuda":
        c = on_gpu(c)
    hidden = c.hidden.detach().clone().requires_grad_()
    projection = c.projection.detach().clone().requires_grad_()
    sums = ce_with_teacher(hidden, projection, c.target, c.teachers, **c.options, implementation=implementation)
    dhidden, dprojection = torch.autograd.grad(sums.loss, (hidden, projection))
    return sums._replace(loss=sums.loss.to("cpu")), dhidden.to("cpu"), dprojection.to("cpu")


def numbers(sums: LossSums) -> dict[str, Tensor]:
    """Every field that is there as one flat tensor."""
    values = {}
    for name, value in sums._asdict().items():
        if value is None:
            continue
        tensors = value if isinstance(value, tuple) else (value,)
        values[name] = (
            torch.cat([tensor.detach().cpu().double().reshape(-1) for tensor in tensors])
            if tensors
            else torch.zeros(0, dtype=torch.float64)
        )
    return values
