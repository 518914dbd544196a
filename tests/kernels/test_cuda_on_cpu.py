"""The CUDA implementation without a GPU: cuda.py and the very kernels of csrc/cuda.cu, their threads as fibers.

cuBLAS's products become torch's on the CPU, and a block's threads take turns (cuda_on_cpu.h says what that finds).
What only a GPU can show, races within a warp, timing, limits of registers, is left to launchers/gpu_checks.sh.
"""

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mnmt_ds.kernels import cpu, cuda, implementations
from mnmt_ds.kernels.ce_with_teacher import Gate
from tests.kernels.cases import case, outcome
from tests.kernels.test_bounds import MIXES, assert_bounded

HERE = Path(__file__).parent
CSRC = Path(cuda.__file__).parent / "csrc"
HALF = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
CUDA_TO_CPP = {
    "#include <cuda_bf16.h>\n#include <cuda_fp16.h>\n#include <cuda_runtime.h>\n": '#include "cuda_on_cpu.h"\n',
    "extern __shared__ __align__(16) unsigned char stage[];": "char* const stage = gpu::memory() + gpu::OWN;",
    "__shared__ Shared<K, J> shared;": "static_assert(sizeof(Shared<K, J>) <= gpu::OWN);"
    " auto& shared = *reinterpret_cast<Shared<K, J>*>(gpu::memory());",
    "kernel<<<unsigned(a.tokens), THREADS, bytes, stream>>>(a);": "gpu::launch([&] { kernel(a); },"
    " unsigned(a.tokens), THREADS);",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    directory = tmp_path_factory.mktemp("cuda_on_cpu")
    source = (CSRC / "cuda.cu").read_text()
    for cuda_text, cpp_text in CUDA_TO_CPP.items():
        assert source.count(cuda_text) == 1, f"cuda.cu no longer says {cuda_text}"
        source = source.replace(cuda_text, cpp_text)
    (directory / "kernels.h").write_text(source)
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler here")
    command = [
        compiler, "-std=c++20", "-O1", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-w", f"-I{HERE}", f"-I{CSRC}",
        f'-DKERNELS="{directory}/kernels.h"', str(HERE / "cuda_on_cpu.cpp"), "-o", str(directory / "kernels.so"),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    compiled = ctypes.CDLL(str(directory / "kernels.so"))
    compiled.rows.restype = ctypes.c_char_p
    compiled.fits.restype = ctypes.c_bool
    return compiled


def _operators(library: ctypes.CDLL) -> SimpleNamespace:
    """torch.ops.mnmt_ds_cuda over the library."""

    def at(tensor: Tensor) -> ctypes.c_void_p:
        assert tensor.is_contiguous()
        return ctypes.c_void_p(tensor.data_ptr() if tensor.numel() else None)

    def rows(
        logits: Tensor, teacher_logits: Tensor, passes: int, words: int, vocabulary: list[Tensor],
        temperature: list[float], gold: Tensor, found: Tensor, diverging: Tensor, weight: Tensor,
        teacher_weight: Tensor, gate: Tensor, rules: list[float], smoothing: float, divergence_weight: float,
        unit: float, steps: int,
    ) -> None:  # fmt: skip
        count = len(temperature)
        masks = (ctypes.c_void_p * max(1, count))(*[at(mask) for mask in vocabulary])
        error = library.rows(
            HALF[logits.dtype], passes, count, steps, *map(ctypes.c_int64, (len(gold), words, logits.shape[1])),
            at(logits), at(teacher_logits), masks, (ctypes.c_double * max(1, count))(*temperature), at(gold),
            at(found), at(diverging), at(weight), at(teacher_weight), at(gate),
            (ctypes.c_double * max(1, len(rules)))(*map(float, rules)),
            *map(ctypes.c_double, (smoothing, divergence_weight, unit)),
        )  # fmt: skip
        assert error is None, error.decode()

    def fits(passes: int, teachers: int, pitch: int, size: int, device: int | None) -> bool:
        return bool(library.fits(passes, teachers, ctypes.c_int64(pitch), 0 if size == 4 else 1))

    return SimpleNamespace(rows=rows, fits=fits)


def _wide(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """cuBLAS's products of halves into float32, which torch has on GPUs alone."""

    def call(*tensors: Tensor, out_dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        return product(*(t.to(out_dtype) for t in tensors) if out_dtype else tensors, **options)

    return call


@pytest.fixture
def gpu(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """Whatever asks for the CPU's implementation gets the GPU's."""
    monkeypatch.setattr(torch.ops, "mnmt_ds_cuda", _operators(library), raising=False)
    monkeypatch.setattr(torch, "mm", _wide(torch.mm))
    monkeypatch.setattr(torch, "addmm", _wide(torch.addmm))
    monkeypatch.setattr(implementations, "CPU", implementations.CUDA)
    monkeypatch.setattr(cpu, "why_unavailable", lambda: "")
    monkeypatch.setattr(cpu, "supports", lambda inputs: inputs.projection_VD.dtype in HALF)
    implementations.resolve_implementation.cache_clear()
    return library


@pytest.mark.parametrize("on_chip", [True, False, "bulk"])
@pytest.mark.parametrize("dtype", list(HALF))
def test_error_bound(
    gpu: ctypes.CDLL, dtype: torch.dtype, on_chip: bool | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "HAS_BULK_COPIES", on_chip == "bulk")
    gpu.most_shared(232448 if on_chip else 0)
    token_gates = {"gates": (Gate("adaptive", "token", 1.5),)}, {"passes": 2, "gates": (Gate("selective", "token"),)}
    few = [mix for mix in MIXES if mix.get("passes", 1) <= cuda.MAX_PASSES]
    for shape, mix in itertools.product([(3, 5, 7, 250), (1, 2, 16, 9001)], [*few, *token_gates]):
        assert_bounded(case(*shape, **mix).to(dtype), "cpu", f"{shape} {mix}")


@pytest.mark.parametrize("on_chip", [True, False])
def test_the_most_probable_word_is_the_first_of_equals(gpu: ctypes.CDLL, on_chip: bool) -> None:
    gpu.most_shared(232448 if on_chip else 0)
    gates = (Gate("whole", "token"),)
    for words, temperature, masked in ((250, 1.0, False), (9001, 1.0, False), (9001, 2.0, True)):
        given = case(2, 6, 16, words, 2, gates, temperature=temperature, masked=masked).to(torch.bfloat16)
        half = words // 2
        for projection in (given.projection, given.teachers[0].projection_VE):
            projection[half : 2 * half] = projection[:half]  # every word has a later twin, in another thread's pack
        teacher = given.teachers[0]._replace(hidden_BTE=given.hidden[:2], projection_VE=given.projection)
        given = given._replace(teachers=[given.teachers[0], teacher])
        expected, actual = outcome(given, "reference")[0], outcome(given, "cpu")[0]
        for e, a in zip(expected.agreement, actual.agreement, strict=True):
            torch.testing.assert_close(a.float(), e.float())
        assert masked or float(actual.agreement[1][0]) >= 0.5


def test_chunks_add_up(gpu: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.most_shared(232448)
    monkeypatch.setattr(implementations, "CPU", implementations.CUDA._replace(max_chunk_tokens=lambda inputs: 9))
    for dtype, gate in itertools.product(HALF, (Gate("adaptive"), Gate("adaptive", "token"))):
        assert_bounded(case(6, 20, 8, 67, 2, (gate,)).to(dtype), "cpu", f"{dtype} {gate}")
