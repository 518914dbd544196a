"""Updates of real training by DeepSpeed: tokens/s, MFU, memory, launches; plain, LSSD online and remembered."""

import gc
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import DATA, DRY_RUN, device_is_lost, emit, fault_text, kernels, seconds_left, wait_for_device

from mnmt_ds.distributed import job
from mnmt_ds.engine.dataloading.position import Position
from mnmt_ds.engine.loop import finish_reading, forward_backward, step, student_loops
from mnmt_ds.engine.monitoring.mfu import PEAK_FLOPS, training_flops
from mnmt_ds.engine.recipe import load_recipe
from mnmt_ds.engine.training import Training
from mnmt_ds.log import set_up_deepspeed
from mnmt_ds.methods.method import ValidationReport

UPDATES = 3 if DRY_RUN else 16
MINUTE = ("model.d_model=32", "model.ffn=32", "model.heads=2", "model.encoder_layers=1", "model.decoder_layers=1",
          "train.precision=fp32")  # fmt: skip


class Way(NamedTuple):
    preset: str
    max_tokens: int
    zero: str
    cache: str = "off"
    workers: int = 2
    extra: tuple[str, ...] = ()


COMPILED = ("train.torch_compile=true",)
WAYS = [
    Way("base", 512, "zero1"), Way("base", 512, "zero2", "ram", 2), Way("base", 512, "zero1", extra=COMPILED)
] if DRY_RUN else [
    Way("base", 8192, "zero1", workers=0), Way("base", 8192, "zero1"), Way("base", 32768, "zero1"),
    Way("big", 16384, "zero1"), Way("base", 8192, "zero1", "ram"), Way("big", 16384, "zero2", "ram"),
    Way("base", 8192, "zero1", "ram", extra=COMPILED), Way("base", 8192, "zero2"), Way("big", 32768, "zero1"),
]  # fmt: skip


class Bench:
    """A training, some updates at a time, with or without its teachers."""

    def __init__(self, way: Way, folder: str) -> None:
        pairs = list(json.loads((DATA / "manifest.json").read_text())["pairs"])
        self.recipe = load_recipe(Path("launchers/gpu_checks/gpu.yaml"), [
            f"data.directory={DATA}", f"data.pairs={json.dumps(pairs)}", f"model.preset={way.preset}",
            f"train.max_tokens={way.max_tokens}", f"train.workers={way.workers}", f"directory={folder}/run",
            f"deepspeed=ds_configs/{way.zero}.json", f"method.teachers.cache={way.cache}",
            *(MINUTE if DRY_RUN else ("method.teachers.memory_gib=16",)), *way.extra,
        ])  # fmt: skip
        self.training = Training(self.recipe, resume=False)
        self.student = self.training.first
        self.bank = self.student.method.state["teachers"]
        self.loop = student_loops(self.training, next_evaluation=lambda student: 1 << 60)[self.student.name]

    def give_each_pair_a_teacher(self) -> None:
        for number in range(len(self.training.pairs) + 1):
            dev = {pair: 0.5 if k < number else 1.0 for k, pair in enumerate(self.training.pairs)}
            self.student.method.on_validation(ValidationReport(number + 1, 0.0, dev))

    def run(self, updates: int, distilling: bool) -> dict[str, float]:
        """Takes updates; how fast they were."""
        for pair in self.training.pairs:
            self.bank.switch[pair] = distilling and self.bank.best[pair].is_set
        tokens = padded = 0
        flops, data = 0.0, self.student.data_iterator
        wait_for_device()
        began = time.perf_counter()
        for _ in range(updates):
            micro_batches = data.next_update()
            step(self.loop, forward_backward(self.loop, micro_batches), stop=False)
            data.update_done()
            tokens += micro_batches[0].divisor
            padded += sum(batch.target_BT.numel() for batch in micro_batches)
            for batch in micro_batches:
                flops += training_flops(self.recipe.model, self.training.corpus.tokenizer.size, batch)
        finish_reading(self.loop)
        wait_for_device()
        seconds = time.perf_counter() - began
        return {"step_ms": seconds / updates * 1e3, "target_tokens_s": tokens / seconds, "padded_s": padded / seconds,
                "mfu": flops / seconds / PEAK_FLOPS["H100"], "tokens_a_step": tokens / updates}  # fmt: skip

    def again(self) -> None:
        """Goes back to the epoch's beginning: the same micro-batches come once more."""
        data = self.student.data_iterator
        data.start(Position(data.training_data.whole_epoch(0), (data.training_data.cut,), data.update))


def gpu_mib() -> float:
    return 0.0 if DRY_RUN else torch.cuda.max_memory_allocated() / 2**20


def host_waits(call: Callable[[], Any]) -> dict[str, int]:
    """How often the host waits for the GPU, by place, as CUDA's sync debug mode sees it; empty on a CPU."""
    if DRY_RUN:
        call()
        return {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return dict(Counter(f"{Path(warning.filename).name}:{warning.lineno}" for warning in caught))


def measure(way: Way, folder: str) -> None:
    """All figures of one way."""
    if not DRY_RUN:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    bench, name = (
        Bench(way, folder),
        f"{way.preset} {way.max_tokens} {way.zero} cache {way.cache} workers {way.workers}"
        + "".join(f" {setting}" for setting in way.extra),
    )
    try:
        seconds = time.perf_counter() - began
        bench.run(4, False)
        emit("train", name=name, way="plain", setup_s=seconds, **bench.run(UPDATES, False), gpu_mib=gpu_mib())
        emit("train kernels", name=name, way="plain", **kernels(lambda: bench.run(1, False), 3))
        bench.give_each_pair_a_teacher()
        for turn in ("first", "again"):
            bench.again()
            emit("train", name=name, way=f"lssd, {turn}", **bench.run(UPDATES, True), gpu_mib=gpu_mib(),
                 **bench.bank.pool.report())  # fmt: skip
        waits = host_waits(lambda: bench.run(1, True))
        emit("host waits", name=name, way="lssd, an update", total=sum(waits.values()), places=waits)
        emit("train kernels", name=name, way="lssd", **kernels(lambda: bench.run(1, True), 3))
        bench.again()
        emit("train", name=name, way="plain, again", **bench.run(UPDATES, False))
    finally:
        bench.training.close()


def main() -> int:
    faults = 0
    set_up_deepspeed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "4")))
    with job():
        for way in WAYS:
            if seconds_left() < 12:
                emit("train", what="out of time")
                break
            try:
                with tempfile.TemporaryDirectory() as folder:
                    measure(way, folder)
            except Exception as fault:
                faults += 1
                emit("train", name=str(way), fault=fault_text(fault))
                traceback.print_exc()
                if device_is_lost(fault):
                    break
            gc.collect()
            if not DRY_RUN:
                torch.cuda.empty_cache()
    emit("train", what="done", seconds_left=seconds_left(), faults=faults)
    return faults


sys.exit(main())
