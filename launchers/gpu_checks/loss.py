"""The loss against its peers: time, memory, ratio to ours; the most telling shapes first, until the time is out.

WARM_ONLY=1: fills the compilers' caches beside steps that are not timed.
"""

import os
import sys
from collections.abc import Sequence

import torch
from common import DEVICE, DRY_RUN, device_is_lost, emit, fault_text, kernels, peak_mib, seconds_left, timed
from torch import Tensor

from mnmt_ds.bench.loss import TASKS
from mnmt_ds.bench.loss_baselines import BASELINES, KL_BASELINES, Inputs, Unsupported, make_inputs, teacher_entropy

BASE = [(64, 16, 96)] if DRY_RUN else [(8192, 512, 32000), (8192, 1024, 64000)]
MORE = [] if DRY_RUN else [
    (1024, 512, 32000), (8192, 512, 64000), (8192, 1024, 32000), (4096, 512, 32000), (16384, 512, 32000),
    (16384, 1024, 64000), (4096, 1024, 256206), (1024, 1024, 64000),
]  # fmt: skip
"""Tokens, width, vocabulary."""


def given(shape: tuple[int, int, int], task: str) -> Inputs:
    return make_inputs(*shape, *TASKS[task], DEVICE.type, "bfloat16")


def outcome(peer: str, x: Inputs) -> list[Tensor]:
    loss = BASELINES[peer](x)
    return [loss.detach().float(), *(g.float() for g in torch.autograd.grad(loss, (x.hidden_ND, x.projection_VD)))]


def difference(peer: str, x: Inputs, expected: Sequence[Tensor]) -> float:
    """The largest relative difference of loss and gradients from the chunked path's."""
    found = outcome(peer, x)
    if peer in KL_BASELINES:
        found[0] = found[0] + teacher_entropy(x)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def compare(shape: tuple[int, int, int], task: str, peers: Sequence[str]) -> None:
    """Times peers on one problem, ours first."""
    x = given(shape, task)
    expected = outcome("chunked", x)
    tflop = (8 if x.weight else 6) * shape[0] * shape[1] * shape[2] / 1e9
    problem = dict(zip(("tokens", "width", "words"), shape, strict=True))
    own = 0.0
    for peer in peers:
        if seconds_left() < 4:
            return
        try:
            off = difference(peer, x, expected)

            def step(peer: str = peer) -> None:
                x.hidden_ND.grad = x.projection_VD.grad = None
                BASELINES[peer](x).backward()  # type: ignore[no-untyped-call]

            found = timed(step, repeats=2 if DRY_RUN else 10)
            own = found["ms"] if peer == "ours" else own
            emit("loss", task=task, **problem, peer=peer, **found, times_ours=found["ms"] / own if own else 0.0,
                 peak_mib=peak_mib(step), off=off, tflops=tflop / found["ms"])  # fmt: skip
        except Unsupported:
            continue
        except Exception as fault:
            emit("loss", task=task, **problem, peer=peer, fault=fault_text(fault))
            if device_is_lost(fault):
                sys.exit(1)
            if not DRY_RUN:
                torch.cuda.empty_cache()


def where_the_time_goes(shape: tuple[int, int, int], task: str, peer: str) -> None:
    """One of ours by kernel: what decides between them."""
    x = given(shape, task)

    def step() -> None:
        x.hidden_ND.grad = x.projection_VD.grad = None
        BASELINES[peer](x).backward()  # type: ignore[no-untyped-call]

    try:
        step()
        emit("loss kernels", task=task, shape=shape, peer=peer, **kernels(step))
    except Unsupported:
        return
    except Exception as fault:
        emit("loss kernels", task=task, shape=shape, peer=peer, fault=fault_text(fault))
        if device_is_lost(fault):
            sys.exit(1)


def main() -> None:
    if os.environ.get("WARM_ONLY"):
        for shape in BASE:
            for task in ("ce", "kd"):
                for peer in ("triton", "compiled_whole", "liger_cross_entropy"):
                    try:
                        outcome(peer, given(shape, task))
                    except Exception as fault:
                        print(task, peer, fault_text(fault))
        return
    for shape in BASE:
        for task in ("ce", "kd"):
            compare(shape, task, ("ours", "triton", "eager", "liger_cross_entropy"))
        for task in ("ce", "kd"):
            for peer in ("ours", "triton"):
                where_the_time_goes(shape, task, peer)
    for shape in BASE:
        compare(shape, "ce-plain", ("ours", "cut_cross_entropy", "cut_cross_entropy_filtered", "quack"))
    for shape in MORE[:4]:
        for task in ("ce", "kd"):
            compare(shape, task, ("ours", "triton", "eager"))
    for shape in BASE:
        compare(shape, "kd-plain", ("ours", "trl"))
    for shape in [*BASE, *MORE[:1]]:  # late: a compilation that is not in the cache may take half a minute
        for task in ("ce", "kd"):
            compare(shape, task, ("ours", "compiled_whole"))
    compare(BASE[0], "kd-plain", ("ours", "liger"))  # it compiles, too
    for shape in (*BASE, *MORE[1:2]):  # late: were a copy never to arrive, the step would end here
        for task in ("ce", "kd"):
            compare(shape, task, ("ours", "bulk_copies"))
    for shape in MORE[4:]:
        for task in ("ce", "kd"):
            compare(shape, task, ("ours", "triton", "eager", "liger_cross_entropy"))
    emit("loss", what="done", seconds_left=seconds_left())


main()
