"""States as bytes: half precision, or 8-bit floats with one scale a row."""

import torch
from torch import Tensor

LARGEST = 448.0
"""The largest number of float8_e4m3fn."""


def encode(rows_RE: Tensor, fp8: bool) -> Tensor:
    """uint8 (R, 2E), or with fp8 (R, E + 4): the row's scale in float32, then its numbers."""
    if not fp8:
        return rows_RE.to(torch.float16).contiguous().view(torch.uint8)
    scale_R1 = rows_RE.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / LARGEST
    numbers_RE = (rows_RE.float() / scale_R1).to(torch.float8_e4m3fn)
    return torch.cat([scale_R1.contiguous().view(torch.uint8), numbers_RE.view(torch.uint8)], 1)


def decode(bytes_RW: Tensor, fp8: bool, dtype: torch.dtype) -> Tensor:
    """The numbers (R, E) again, in a type to compute with."""
    if not fp8:
        return bytes_RW.contiguous().view(torch.float16).to(dtype)
    scale_R1 = bytes_RW[:, :4].contiguous().view(torch.float32)
    return (bytes_RW[:, 4:].contiguous().view(torch.float8_e4m3fn).float() * scale_R1).to(dtype)
