"""Our reader and megatron-core's see the same ids in the same file."""

import os
import pickle
import resource
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from mnmt_ds.data import indexed, mapped_datasets
from mnmt_ds.data.mapped_datasets import MAPPED
from mnmt_ds.errors import UserError


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_equal_to_megatrons(tmp_path: Path, dtype: type[np.integer]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
    draw = np.random.default_rng(1)
    sides = [[draw.integers(0, 60000, draw.integers(0, 9)) for _ in range(2)] for _ in range(50)]
    blocks = []
    for start in range(0, 50, 20):
        flat = np.concatenate([side for pair in sides[start : start + 20] for side in pair])
        blocks.append((flat, np.array([[len(side) for side in pair] for pair in sides[start : start + 20]])))
    indexed.write_indexed_dataset(tmp_path / "ids", blocks, dtype)
    builder = IndexedDatasetBuilder(str(tmp_path / "own.bin"), dtype=dtype)
    for pair in sides:
        builder.add_document(np.concatenate(pair).astype(dtype), [len(side) for side in pair])
    builder.finalize(str(tmp_path / "own.idx"))
    for kind in ("bin", "idx"):
        assert (tmp_path / f"ids.{kind}").read_bytes() == (tmp_path / f"own.{kind}").read_bytes()
    ours, theirs = indexed.IndexedDataset(tmp_path / "ids"), IndexedDataset(str(tmp_path / "ids"))
    assert len(ours) == len(theirs) == 100
    np.testing.assert_array_equal(ours.lengths, theirs.sequence_lengths)
    np.testing.assert_array_equal(ours.documents, theirs.document_indices)
    np.testing.assert_array_equal(ours.documents, np.arange(0, 101, 2))
    for i in range(100):
        np.testing.assert_array_equal(ours[i], theirs[i])
        np.testing.assert_array_equal(ours[i], sides[i // 2][i % 2])
        assert ours[i].dtype == np.int64
    assert theirs[0].dtype == dtype


def test_the_smallest_type_that_holds_the_ids() -> None:
    assert indexed.smallest_dtype(65499) is np.uint16
    assert indexed.smallest_dtype(65500) is np.int32


def test_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"ids.idx: not readable \(No such file or directory\); run mnmt-ds prepare again"
    ):
        indexed.IndexedDataset(tmp_path / "ids")
    indexed.write_indexed_dataset(tmp_path / "ids", [(np.arange(5, dtype=np.uint16), np.array([[2, 3]]))], np.uint16)
    whole = {kind: (tmp_path / f"ids.{kind}").read_bytes() for kind in ("idx", "bin")}
    index = whole["idx"]
    other_header, other_type = index.replace(b"MMIDIDX", b"MMIDIDY"), index[:17] + b"\x63" + index[18:]
    faults = {
        "idx": [b"", b"x" * 40, index[:-9], other_header, other_type],
        "bin": [whole["bin"][:-1], whole["bin"] + b"x"],
    }
    for kind, contents in faults.items():
        for content in contents:
            (tmp_path / f"ids.{kind}").write_bytes(content)
            with pytest.raises(UserError, match=r"ids.idx: not readable"):
                indexed.IndexedDataset(tmp_path / "ids")
        (tmp_path / f"ids.{kind}").write_bytes(whole[kind])
    assert indexed.IndexedDataset(tmp_path / "ids")[1].tolist() == [2, 3, 4]


def write_datasets(directory: Path, count: int) -> list[Path]:
    """Datasets of two sequences, [n, n] and [n + 1]."""
    prefixes = [directory / f"ids{number}" for number in range(count)]
    for number, prefix in enumerate(prefixes):
        ids = np.array([number, number, number + 1], np.uint16)
        indexed.write_indexed_dataset(prefix, [(ids, np.array([[2, 1]]))], np.uint16)
    return prefixes


def test_descriptors_do_not_grow_with_the_datasets(tmp_path: Path) -> None:
    prefixes = write_datasets(tmp_path, 2 * MAPPED)
    before = len(os.listdir("/proc/self/fd"))
    datasets = [indexed.IndexedDataset(prefix) for prefix in prefixes]
    for _ in range(2):
        for number, dataset in enumerate(datasets):
            assert dataset[0].tolist() == [number, number] and dataset[1].tolist() == [number + 1]
            assert dataset.lengths.tolist() == [2, 1] and len(dataset) == 2
            assert len(os.listdir("/proc/self/fd")) <= before + 2 * MAPPED
    copies = pickle.loads(pickle.dumps(datasets))  # read-ahead workers get no ids, but where they stand
    assert len(pickle.dumps(datasets[0])) < 1000 and copies[-1][1].tolist() == [2 * MAPPED]


def test_a_dataset_that_was_replaced_is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    first, *others = write_datasets(tmp_path, MAPPED + 1)
    dataset = indexed.IndexedDataset(first)
    indexed.write_indexed_dataset(first, [(np.arange(6), np.array([[3, 3]]))], np.uint16)
    for prefix in others:
        indexed.IndexedDataset(prefix)
    with pytest.raises(UserError, match=r"ids0\.idx: was replaced while it was being read; start again"):
        dataset[0]
    assert indexed.IndexedDataset(first)[1].tolist() == [3, 4, 5]


def test_too_many_open_files_are_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_datasets, "_mapped", OrderedDict())
    prefixes = write_datasets(tmp_path, 20)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 10, before[1]))
    try:
        with pytest.raises(UserError, match=r"ids\d+\.(idx|bin): too many open files; raise the limit \(ulimit -n\)"):
            _ = [indexed.IndexedDataset(prefix) for prefix in prefixes]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
