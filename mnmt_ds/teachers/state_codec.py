"""Decoder states as bytes: half precision, or 8-bit floats with one scale a row.

Letters: R rows (one a target token), E width, W bytes of a row (2E, or E + 4), 1 the row's scale.
"""

import torch
from torch import Tensor

LARGEST = 448.0
"""The largest number of float8_e4m3fn."""


def bytes_per_row(width: int, fp8: bool) -> int:
    """Computes the size of a row.

    Args:
        width: E.
        fp8: whether states are 8-bit floats.

    Returns:
        W, in bytes.
    """
    return width + 4 if fp8 else 2 * width


def encode(rows_RE: Tensor, fp8: bool) -> Tensor:
    """Encodes states as bytes.

    Args:
        rows_RE: states, in any floating-point type.
        fp8: whether to write 8-bit floats, else float16.

    Returns:
        uint8 (R, W); with fp8 a row is its scale in float32, then its numbers.
    """
    if not fp8:
        return rows_RE.to(torch.float16).contiguous().view(torch.uint8)
    scale_R1 = rows_RE.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / LARGEST
    numbers_RE = (rows_RE.float() / scale_R1).to(torch.float8_e4m3fn)
    return torch.cat([scale_R1.contiguous().view(torch.uint8), numbers_RE.view(torch.uint8)], 1)


def decode(bytes_RW: Tensor, fp8: bool, dtype: torch.dtype) -> Tensor:
    """Decodes states from bytes.

    Args:
        bytes_RW: what ``encode`` gave.
        fp8: whether they are 8-bit floats.
        dtype: type to compute with.

    Returns:
        The states (R, E).
    """
    if not fp8:
        return bytes_RW.contiguous().view(torch.float16).to(dtype)
    scale_R1 = bytes_RW[:, :4].contiguous().view(torch.float32)
    return (bytes_RW[:, 4:].contiguous().view(torch.float8_e4m3fn).float() * scale_R1).to(dtype)
