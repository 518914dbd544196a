"""Instructions of the CUDA kernels' loops, counted in their machine code: python -m tests.kernels.sass LIBRARY [TARGET]

A loop is what lies between a backward branch and its target; all that lies within is counted, also what a branch leaves
out, so the count is an upper bound of what it executes for a pack of 16 bytes.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);")
KERNEL = re.compile(r"rows_kernelI(f|6__half|13__nv_bfloat16)Li(\d)ELi(\d)ELNS\d?_\S*?7StagingE(\d)E")

SHORT = 40
"""Loops that wait for a copy, or ask for some, are shorter."""


def cuobjdump() -> str | None:
    """NVIDIA's disassembler: on the path, or Triton's own."""
    found = shutil.which("cuobjdump") or next(
        (str(p) for root in sys.path for p in Path(root).glob("triton/backends/nvidia/bin/cuobjdump")), None
    )
    return found


def loops(library: Path, target: str = "90") -> dict[tuple[str, int, int, str], list[int]]:
    """Lengths of innermost loops over packs in order of their code, by (type, passes, teachers, staging)."""
    tool = cuobjdump()
    assert tool is not None
    text = subprocess.run(
        [tool, "-sass", "-arch", f"sm_{target}", str(library)], check=True, capture_output=True, text=True
    )
    lengths: dict[tuple[str, int, int, str], list[int]] = {}
    for function in text.stdout.split("Function : ")[1:]:
        match = KERNEL.search(function.split("\n", 1)[0])
        if match is None:
            continue
        name = {"f": "float", "6__half": "half", "13__nv_bfloat16": "bf16"}[match[1]]
        code = [(int(m[1], 16), m[2]) for line in function.splitlines() if (m := INSTRUCTION.match(line))]
        branches = [(at, int(m[1], 16)) for at, what in code if (m := re.search(r"\bBRA\b.*?0x([0-9a-f]+)", what))]
        backward = sorted({(to, at) for at, to in branches if to < at})
        inner = [(a, b) for a, b in backward if not any((c, d) != (a, b) and a <= c and d <= b for c, d in backward)]
        key = (name, int(match[2]), int(match[3]), ("none", "threads", "bulk")[int(match[4])])
        counts = [sum(a <= at <= b for at, _ in code) for a, b in inner]
        lengths[key] = [count for count in counts if count > SHORT]
    return lengths


if __name__ == "__main__":
    for key, found in sorted(loops(Path(sys.argv[1]), *sys.argv[2:]).items()):
        print(*key, found)
