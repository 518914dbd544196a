"""The native kernels as DeepSpeed op builders, for ds_report-like tools and for prebuilding with DeepSpeed's habits.

Compiling and loading are ours (build.py: stable-ABI libraries, own directory, locks that die with their holder).
"""

from pathlib import Path
from typing import Any

import torch

from mnmt_ds.kernels import build


def loss_builder(device: str = "cpu") -> Any:
    """A deepspeed OpBuilder for the fused loss on "cpu" or "cuda"; ``load()`` gives torch.ops' namespace."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    recipe = {"cpu": build.cpu_recipe, "cuda": build.cuda_recipe}[device]

    class CrossEntropyWithTeacherBuilder(OpBuilder):  # type: ignore[misc]
        BUILD_VAR = f"DS_BUILD_CE_WITH_TEACHER_{device.upper()}"
        NAME = f"ce_with_teacher_{device}"

        def __init__(self) -> None:
            super().__init__(name=self.NAME)

        def absolute_name(self) -> str:
            return f"mnmt_ds.kernels.{self.NAME}"

        def sources(self) -> list[str]:
            names = ("cpu.cpp", "cpu_ops.cpp") if device == "cpu" else ("cuda.cu", "cuda_ops.cpp")
            return [str(build.SOURCES / name) for name in names]

        def include_paths(self) -> list[str]:
            return [str(build.SOURCES), str(Path(torch.__file__).parent / "include")]

        def is_compatible(self, verbose: bool = False) -> bool:
            try:
                recipe()
            except build.BuildError as error:
                if verbose:
                    self.warning(str(error))
                return False
            return device == "cpu" or torch.cuda.is_available()

        def load(self, verbose: bool = True) -> Any:
            build.load(recipe)
            return getattr(torch.ops, f"mnmt_ds_{device}")

    return CrossEntropyWithTeacherBuilder()
