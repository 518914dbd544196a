"""The files of indexed datasets that are mapped into memory: a bounded number, however many language pairs there are.

A mapped file holds a descriptor. A process that trains on 1,000 pairs has 1,000 training and 1,000 dev sets of two
files each, and ``ulimit -n`` is often 1,024: so the datasets that were read last stay mapped, others are mapped again
when they are wanted. The kernel keeps their pages either way.

Letters: N documents (sentence pairs), S sequences of all documents.
"""

import errno
import os
import struct
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.errors import UserError, file_fault

MAPPED = 40
"""Datasets that a process keeps mapped: two descriptors each."""
HEADER = b"MMIDIDX\x00\x00"
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16}
"""megatron-core's numbers of types."""


class MappedArrays(NamedTuple):
    """A dataset's arrays, views of its mapped files."""

    lengths: NDArray[np.int32]
    """Ids of each sequence; (S,)."""
    offsets: NDArray[np.int64]
    """First byte of each sequence; (S,)."""
    documents: NDArray[np.int64]
    """First sequence of each document, then the number of sequences; (N + 1,)."""
    ids: NDArray[np.integer]
    """Ids of all sequences, one after another."""
    files: tuple[tuple[int, int, int], ...]
    """Inode, size and time of change of both files."""


_mapped: OrderedDict[Path, MappedArrays] = OrderedDict()
_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().__setitem__("_lock", threading.Lock()))


def map_dataset(prefix: Path, files: tuple[tuple[int, int, int], ...] | None = None) -> MappedArrays:
    """Looks up a dataset's arrays, and maps its files where they are not mapped.

    Args:
        prefix: path of the dataset's files without .bin and .idx.
        files: what ``MappedArrays.files`` was when they were mapped first; None: this is the first time.

    Returns:
        Its arrays; what holds on to one of them keeps its file mapped.

    Raises:
        UserError: when the files cannot be read, do not fit together, or were replaced meanwhile.
    """
    with _lock:
        arrays = _mapped.get(prefix)
        if files is not None and arrays is not None and arrays.files == files:
            _mapped.move_to_end(prefix)
            return arrays
        _mapped.pop(prefix, None)
        while len(_mapped) >= MAPPED:
            _mapped.popitem(last=False)
        arrays = _map(prefix)
        if files is not None and arrays.files != files:
            raise UserError(f"{prefix}.idx: was replaced while it was being read; start again")
        _mapped[prefix] = arrays
        return arrays


def _map(prefix: Path) -> MappedArrays:
    index_path, ids_path = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    try:
        index = np.asarray(np.memmap(index_path, np.uint8, "r"))  # slices of a memmap itself take twice as long
        header, version, code, count, bounds = struct.unpack("<9sQBQQ", bytes(index[:34]))
        if header != HEADER or version != 1:
            raise ValueError("not an index of version 1")
        dtype = np.dtype(DTYPES[code])
        lengths = index[34 : 34 + 4 * count].view(np.int32)
        start = 34 + 4 * count
        offsets = index[start : start + 8 * count].view(np.int64)
        documents = index[start + 8 * count : start + 8 * count + 8 * bounds].view(np.int64)
        facts = [path.stat() for path in (index_path, ids_path)]
        size = facts[1].st_size
        if len(documents) != bounds or int(lengths.sum(dtype=np.int64)) * dtype.itemsize != size:
            raise ValueError("index and data do not fit together")
        ids = np.asarray(np.memmap(ids_path, dtype, "r")) if size else np.zeros(0, dtype)
    except (OSError, ValueError, KeyError, struct.error) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise file_fault(error, index_path) or error from None
        reason = getattr(error, "strerror", None) or str(error) or "unknown number type"
        raise UserError(f"{index_path}: not readable ({reason}); run mnmt-ds prepare again") from None
    return MappedArrays(
        lengths, offsets, documents, ids, tuple((fact.st_ino, fact.st_size, fact.st_mtime_ns) for fact in facts)
    )
