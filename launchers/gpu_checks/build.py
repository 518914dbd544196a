"""Builds the loss's kernels, and says what the compiler says of them."""

import re

import torch
from common import DEVICE, DRY_RUN, emit

from mnmt_ds.kernels import build
from mnmt_ds.kernels.implementations import resolve_implementation

name = resolve_implementation("auto" if DRY_RUN else "cuda", DEVICE)
gpu = "" if DRY_RUN else torch.cuda.get_device_name()
text = "".join(file.read_text() for file in build.extensions_directory().glob("cuda-*.txt"))
registers = [int(number) for number in re.findall(r"Used (\d+) registers", text)]
spilling = sum(int(number) > 0 for number in re.findall(r"(\d+) bytes spill stores", text))
emit("build", torch=torch.__version__, implementation=name, gpu=gpu, kernels=len(registers), spilling=spilling,
     most_registers=max(registers, default=0))  # fmt: skip
