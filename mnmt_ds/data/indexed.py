"""megatron-core's indexed datasets: written by its builder, read here without its import of several seconds.

Letters: N documents (sentence pairs), S sequences of a document (sides).

Two files: ``.bin`` holds the ids of all sequences, ``.idx`` a header, lengths, byte offsets and document bounds.
"""

import errno
import struct
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mnmt_ds.errors import UserError, file_fault
from mnmt_ds.private_apis import write_megatron_index

HEADER = b"MMIDIDX\x00\x00"
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16}


def smallest_dtype(vocabulary: int) -> type[np.integer]:
    """Chooses the smallest type that holds the ids, as megatron-core does.

    Args:
        vocabulary: how many ids there are.

    Returns:
        A numpy type.
    """
    return np.uint16 if vocabulary < 65500 else np.int32


def write_indexed_dataset(
    prefix: Path, blocks: Iterable[tuple[np.ndarray, np.ndarray]], dtype: type[np.integer]
) -> None:
    """Writes a dataset with megatron's IndexedDatasetBuilder.

    A block goes into the builder's file and lists at once: its add_document, a document at a time, takes longer than
    the tokenising.

    Args:
        prefix: path of the dataset's files without .bin and .idx.
        blocks: of each block all ids, one sequence after another, and lengths_NS of N documents' S sequences.
        dtype: type of the ids in the file.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    builder.sequence_lengths = array("i")  # 4 bytes a number instead of a list's 36
    builder.document_indices = array("q", [0])
    for ids, lengths_NS in blocks:
        builder.data_file.write(ids.astype(dtype, copy=False).tobytes())
        bounds = len(builder.sequence_lengths) + lengths_NS.shape[1] * np.arange(1, len(lengths_NS) + 1)
        builder.sequence_lengths.frombytes(lengths_NS.astype(np.int32).tobytes())
        builder.document_indices.frombytes(bounds.astype(np.int64).tobytes())
    builder.data_file.close()
    index = Path(f"{prefix}.idx")
    write_megatron_index(index, dtype, builder.sequence_lengths, builder.sequence_modes, builder.document_indices)


class IndexedDataset:
    """Read-only view of one dataset."""

    def __init__(self, prefix: Path) -> None:
        """Opens the files.

        Args:
            prefix: path of the dataset's files without .bin and .idx.

        Raises:
            UserError: when they cannot be read, or do not fit together.
        """
        try:
            index = np.memmap(f"{prefix}.idx", np.uint8, "r")
            header, version, code, count, bounds = struct.unpack("<9sQBQQ", bytes(index[:34]))
            if header != HEADER or version != 1:
                raise ValueError("not an index of version 1")
            dtype = np.dtype(DTYPES[code])
            self.lengths = index[34 : 34 + 4 * count].view(np.int32)
            """Ids of each sequence."""
            start = 34 + 4 * count
            self._offsets = index[start : start + 8 * count].view(np.int64)
            self.documents = index[start + 8 * count : start + 8 * count + 8 * bounds].view(np.int64)
            """First sequence of each document, then the number of sequences."""
            size = Path(f"{prefix}.bin").stat().st_size
            if len(self.documents) != bounds or int(self.lengths.sum(dtype=np.int64)) * dtype.itemsize != size:
                raise ValueError("index and data do not fit together")
            self.ids = np.memmap(f"{prefix}.bin", dtype, "r") if size else np.zeros(0, dtype)
            """Of all sequences, one after another."""
        except (OSError, ValueError, KeyError, struct.error) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise file_fault(error, Path(f"{prefix}.idx")) or error from None
            reason = getattr(error, "strerror", None) or str(error) or "unknown number type"
            raise UserError(f"{prefix}.idx: not readable ({reason}); run mnmt-ds prepare again") from None
        self._size = dtype.itemsize

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> np.ndarray:
        """Reads the ids of sequence i, int64."""
        start = int(self._offsets[i]) // self._size
        return self.ids[start : start + int(self.lengths[i])].astype(np.int64)
