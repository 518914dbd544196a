"""The Triton kernels compiled for a GPU that is not there, at their real tiles: python -m tests.kernels.triton_sass

Prints registers, spilled bytes, shared memory and instructions of each, as ptxas and its disassembler tell; as JSON.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mnmt_ds.kernels import triton_kernels, triton_loss
from tests.kernels.sass import cuobjdump

TARGET = GPUTarget("cuda", 90, 32)
FLOATS = ("temperature", "smoothing", "scale")


def compiled(kernel: Any, pointers: dict[str, str], constants: dict[str, Any], warps: int, stages: int = 3) -> Any:
    """A kernel's binary for integers that are multiples of 16, as the sizes of training mostly are."""
    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else pointers.get(name) or ("fp32" if name in FLOATS else "i32")
        for name in names
    }
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind[0] in "*i" and name not in ("rows", "tiles")
    }
    source = ASTSource(kernel, signature, {(names.index(n),): value for n, value in constants.items()}, aligned)
    return triton.compile(source, target=TARGET, options={"num_warps": warps, "num_stages": stages})


def figures(binary: Any) -> dict[str, int]:
    """Of one kernel."""
    tool = cuobjdump()
    assert tool is not None
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(binary.asm["cubin"])

        def ask(option: str) -> str:
            return subprocess.run([tool, option, str(cubin)], check=True, capture_output=True, text=True).stdout

        usage, sass = ask("-res-usage"), ask("-sass")
    code = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(\S.*?);", sass, re.M)
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),  # type: ignore[index]
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),  # type: ignore[index]
        "local": int(re.search(r"LOCAL:(\d+)", usage)[1]),  # type: ignore[index]
        "spill_instructions": sum(bool(re.search(r"\b(LDL|STL)\b", line)) for line in code),
        "shared": binary.metadata.shared,
        "instructions": len(code),
        "exponentials": sum("MUFU.EX2" in line for line in code),
        "products": sum("GMMA" in line for line in code),
        "tma_loads": sum("UTMALDG" in line for line in code),
        "tma_stores": sum("UTMASTG" in line for line in code),
    }


def everything() -> dict[str, dict[str, int]]:
    """Each kernel in each form that training takes, in bf16."""
    r, v, d = triton_loss.TILE_R, triton_loss.TILE_V, triton_loss.TILE_D
    f32 = "*fp32"
    found = {}
    halves = triton_loss.HALVES
    for tempered in (False, True):
        name = ", T" if tempered else ""
        found[f"logits{name}"] = figures(compiled(
            triton_kernels.logits_kernel,
            {"hidden": f"tensordesc<bf16[{r}, {d}]>", "weights": f"tensordesc<bf16[{v}, {d}]>",
             "logits": f"tensordesc<bf16[{r}, {v // halves}]>", "parts": f32},
            {"TILE_R": r, "TILE_V": v, "TILE_D": d, "GROUP": triton_loss.GROUP, "HALVES": halves,
             "TEMPERED": tempered}, 8,
        ))  # fmt: skip
        found[f"combine{name}"] = figures(compiled(
            triton_kernels.combine_kernel, {"parts": f32, "logits": "*bf16", "gold": "*i64", "joined": f32},
            {"BLOCK": 32, "TEMPERED": tempered}, 1,
        ))  # fmt: skip
    pointers = {"logits": "*bf16", "teacher_logits": "*bf16", "gold": "*i64", "agree": "*u8"} | dict.fromkeys(
        ("joined", "teacher_joined", "weight", "teacher_weight", "gate", "kd"), f32
    )
    for name, teacher, tempered in (("ce", False, False), ("kd", True, False), ("kd, T", True, True)):
        constants = {
            "BLOCK": triton_loss.BLOCK,
            "TEACHER": teacher,
            "TEMPERED": tempered,
            "WRITE": True,
            "LARGEST": 0,
        }
        found[f"gradient {name}"] = figures(compiled(triton_kernels.gradient_kernel, pointers, constants, 8))
    return found


if __name__ == "__main__":
    print(json.dumps(everything(), indent=1))
