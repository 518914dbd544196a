"""The CUDA loss at real sizes against float64 on the same GPU; beside it the chunked PyTorch path in the same dtype."""

import itertools
import sys
from typing import Any, NamedTuple

import torch
from common import DEVICE, DRY_RUN, device_is_lost, emit, fault_text, seconds_left
from torch import Tensor

from mnmt_ds.kernels import cuda
from mnmt_ds.kernels.ce_with_teacher import Gate, LossSums, Teacher, ce_with_teacher

OURS = ("cpu",) if DRY_RUN else ("cuda", "triton", "bulk copies")
"""The last one: the CUDA kernels with rows by bulk copies, which would never end were a copy not to arrive."""
SHAPES = [(64, 16, 130)] if DRY_RUN else [
    (8192, 512, 32000), (16384, 512, 32000), (4096, 1024, 64000), (2048, 1024, 256206), (1000, 512, 32001), (37, 64, 7),
]  # fmt: skip
"""Tokens, width, vocabulary."""


class Task(NamedTuple):
    gates: tuple[Gate, ...] = ()
    passes: int = 1
    temperature: float = 1.0
    masked: bool = False


TASKS = {
    "ce": Task(), "kd whole": Task((Gate(),)), "kd adaptive token": Task((Gate("adaptive", "token"),)),
    "kd adaptive sentence": Task((Gate("adaptive"),)), "kd T=2 masked": Task((Gate(),), temperature=2.0, masked=True),
    "kd T=2": Task((Gate(),), temperature=2.0),
    "two teachers": Task((Gate(), Gate("selective", "token"))), "two passes": Task(passes=2),
    "two passes, teacher": Task((Gate(),), passes=2),
}  # fmt: skip
TASKS_OF = {
    "triton": ("ce", "kd whole", "kd adaptive token", "kd adaptive sentence", "kd T=2"),
    "bulk copies": ("ce", "kd whole", "kd adaptive token", "two passes"),
}
"""What some take in half precision; the rest they leave to others."""
BOUNDS = {torch.bfloat16: 1.2e-2, torch.float16: 2e-3, torch.float32: 1e-4}


class Problem(NamedTuple):
    hidden: Tensor
    projection: Tensor
    target: Tensor
    teachers: list[Teacher]
    passes: int


def problem(tokens: int, width: int, words: int, task: Task, dtype: torch.dtype) -> Problem:
    generator = torch.Generator(DEVICE).manual_seed(1)
    length = 32 if tokens % 32 == 0 else tokens
    rows = tokens // length

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator, device=DEVICE) * scale).to(dtype)

    target = torch.randint(2, words, (rows, length), generator=generator, device=DEVICE)
    if rows > 1:
        target[-1, length // 2 :] = 1
    if rows > 2:
        target[0, 5:] = 1
    mask = torch.arange(words, device=DEVICE) % 3 != 1 if task.masked else None
    teachers = [
        Teacher(
            normal(rows, length, width), normal(words, width, scale=2 * width**-0.5), 0.6, gate, task.temperature, mask
        )
        for gate in task.gates
    ]
    hidden = normal(task.passes * rows, length, width)
    return Problem(hidden, normal(words, width, scale=2 * width**-0.5), target, teachers, task.passes)


def outcome(given: Problem, implementation: str, dtype: torch.dtype | None = None) -> tuple[LossSums, Tensor, Tensor]:
    hidden, projection = (x.to(dtype or x.dtype).detach().requires_grad_() for x in (given.hidden, given.projection))
    teachers = [
        t._replace(hidden_BTE=t.hidden_BTE.to(hidden.dtype), projection_VE=t.projection_VE.to(hidden.dtype))
        for t in given.teachers
    ]
    sums = ce_with_teacher(
        hidden, projection, given.target, teachers, passes=given.passes,
        divergence_weight=5.0 if given.passes > 1 else 0.0, implementation=implementation,
    )  # fmt: skip
    return (sums, *torch.autograd.grad(sums.loss, (hidden, projection)))


def error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def errors(given: Problem, implementation: str) -> dict[str, list[float]]:
    """Relative errors of the loss and both gradients, ours and the chunked path's; of all other sums ours."""
    exact = outcome(given, "chunked", torch.float64)
    cuda.HAS_BULK_COPIES = implementation == "bulk copies"
    implementation = "cuda" if cuda.HAS_BULK_COPIES else implementation
    plain, ours = outcome(given, "chunked"), outcome(given, implementation)
    found = {
        name: [error(o, e), error(p, e)]
        for name, e, p, o in zip(
            ("loss", "dhidden", "dprojection"), (exact[0].loss, *exact[1:]), (plain[0].loss, *plain[1:]),
            (ours[0].loss, *ours[1:]), strict=True,
        )
    }  # fmt: skip
    for name in ("ce", "kd", "gate", "agreement", "divergence"):
        values: list[Any] = [getattr(sums, name) for sums in (ours[0], exact[0])]
        a, e = (value if isinstance(value, tuple) else (value,) for value in values)
        found[name] = [max((error(x, y) for x, y in zip(a, e, strict=True)), default=0.0)]
    return found


def main() -> int:
    bad = 0
    for ours, dtype, (task, settings), shape in itertools.product(OURS, BOUNDS, TASKS.items(), SHAPES):
        if seconds_left() < 3:
            emit("check", what="out of time")
            break
        if dtype != torch.bfloat16 and shape not in SHAPES[:1] + SHAPES[-2:]:
            continue
        if ours in TASKS_OF and (dtype == torch.float32 or task not in TASKS_OF[ours]):
            continue
        name = f"{ours} {str(dtype)[6:]} {task} N {shape[0]} d {shape[1]} V {shape[2]}"
        try:
            found = errors(problem(*shape, settings, dtype), ours)
            ok = all(found[key][0] <= BOUNDS[dtype] for key in ("loss", "dhidden", "dprojection"))
            bad += not ok
            emit("check", name=name, ok=ok, **{k: "/".join(f"{x:.1e}" for x in v) for k, v in found.items()})
        except Exception as fault:  # one shape's fault must not hide the others
            bad += 1
            emit("check", name=name, ok=False, fault=fault_text(fault))
            if device_is_lost(fault):
                break
    emit("check", what="done", bad=bad)
    return int(bad > 0)


sys.exit(main())
