"""megatron-core's indexed datasets: written by its builder, read here without its import of several seconds.

Letters: N documents (sentence pairs), S sequences of a document (sides).

Two files: ``.bin`` holds the ids of all sequences, ``.idx`` a header, lengths, byte offsets and document bounds.
"""

from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data.mapped_datasets import map_dataset
from mnmt_ds.private_apis import write_megatron_index


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
    """Read-only view of one dataset; its files are mapped while it is read (``map_dataset``)."""

    def __init__(self, prefix: Path) -> None:
        """Opens the files.

        Args:
            prefix: path of the dataset's files without .bin and .idx.

        Raises:
            UserError: when they cannot be read, or do not fit together.
        """
        self._prefix = prefix
        arrays = map_dataset(prefix)
        self._files, self._count, self._size = arrays.files, len(arrays.lengths), arrays.ids.itemsize

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> np.ndarray:
        """Reads the ids of sequence i, int64."""
        arrays = map_dataset(self._prefix, self._files)
        start = int(arrays.offsets[i]) // self._size
        return arrays.ids[start : start + int(arrays.lengths[i])].astype(np.int64)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Ids of each sequence; the file stays mapped as long as the array is held."""
        return map_dataset(self._prefix, self._files).lengths

    @property
    def documents(self) -> NDArray[np.int64]:
        """First sequence of each document, then the number of sequences."""
        return map_dataset(self._prefix, self._files).documents

    @property
    def ids(self) -> NDArray[np.integer]:
        """Ids of all sequences, one after another."""
        return map_dataset(self._prefix, self._files).ids
