"""Cached states and shards on disk: where the disk is full, or a file short or altered, they are lost, never wrong."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mnmt_ds.errors import UserError
from mnmt_ds.kernels import deepspeed_ops
from mnmt_ds.kernels.build import BuildError
from mnmt_ds.models.weights import read_elements, save_model
from mnmt_ds.teachers.async_reader import ALIGNMENT, WINDOW, AsynchronousReader
from mnmt_ds.teachers.shard_storage import ShardStorage
from mnmt_ds.teachers.state_storage import BlockKey, StateStorage

ROWS = [torch.randint(0, 256, (4, 6), dtype=torch.uint8) for _ in range(3)]
KEYS = [BlockKey(1, 0, block) for block in range(3)]


def filled_storage(tmp_path: Path, warnings: list[str], memory: int = 24, disk: int = 1000) -> StateStorage:
    """A storage into which three blocks of 24 bytes were put."""
    storage = StateStorage(memory, disk, 6, tmp_path / "states", warnings.append)
    for key, rows in zip(KEYS, ROWS, strict=True):
        storage.put(key, rows)
    return storage


def test_memory_first_then_disk_then_nothing(tmp_path: Path) -> None:
    warnings: list[str] = []
    storage = filled_storage(tmp_path, warnings, disk=24)
    assert storage.memory_bytes == 24
    for key, rows in zip(KEYS[:2], ROWS, strict=False):
        block = storage.get(key)
        assert block is not None and torch.equal(block, rows)
    assert storage.get(KEYS[2]) is None and not warnings
    storage.keep_only(())
    assert storage.memory_bytes == 0 and all(storage.get(key) is None for key in KEYS)


@pytest.mark.parametrize("fault", ["short", "altered", "full"])
def test_a_damaged_block_is_lost_with_one_warning(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    if fault == "full":

        def refuse(*arguments: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", refuse)
    storage = filled_storage(tmp_path, warnings)
    if fault != "full":
        handle = next(iter(storage._files.values()))
        os.ftruncate(handle, 10) if fault == "short" else os.pwrite(handle, bytes(48), 0)
    assert storage.get(KEYS[1]) is None and storage.get(KEYS[2]) is None
    block = storage.get(KEYS[0])
    assert block is not None and torch.equal(block, ROWS[0])
    assert len(warnings) == 1 and str(tmp_path / "states") in warnings[0]


def test_a_damaged_shard_is_taken_from_the_checkpoint(tmp_path: Path) -> None:
    warnings: list[str] = []
    shards = {version: torch.randn(50).half() for version in (1, 2)}
    storage = ShardStorage(torch.float16, 100, tmp_path, lambda version: shards[int(version)], warnings.append)
    for version, shard in shards.items():
        storage.put(version, shard)
    file = next(tmp_path.glob("teacher-2.*"))
    assert storage.memory_bytes() == 100 and torch.equal(storage.get(2), shards[2])
    save_file({"shard": torch.zeros(50).half()}, file)
    assert torch.equal(storage.get(2), shards[2]) and any("was altered" in text for text in warnings)
    file.write_bytes(b"garbled")
    assert torch.equal(storage.get(2), shards[2]) and any("cannot be read" in text for text in warnings)
    storage.keep_only([1])
    assert not list(tmp_path.glob("teacher-2.*"))


def test_links_under_the_names_of_files_lead_nowhere(tmp_path: Path) -> None:
    """A directory that others can write: what they put there under our names is removed, not written through."""
    (tmp_path / "states").mkdir()
    (tmp_path / "own").write_text("own")
    for name in (f"states/.states-{os.getpid()}-0", "teacher-1.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "own")
    filled_storage(tmp_path, [])
    storage_of_files(tmp_path, [], {1: torch.randn(50)})
    assert (tmp_path / "own").read_text() == "own" and not (tmp_path / "teacher-1.safetensors").is_symlink()


def storage_of_files(
    tmp_path: Path, warnings: list[str], shards: dict[int, torch.Tensor], reader: Any = None
) -> ShardStorage:
    """A storage that holds all its shards in files."""
    dtype = next(iter(shards.values())).dtype
    storage = ShardStorage(dtype, 0, tmp_path, lambda version: shards[int(version)], warnings.append, reader)
    for version, shard in shards.items():
        storage.put(version, shard)
    return storage


RANGES = [(0, None), (5, 9), (WINDOW // 4 - 3, WINDOW // 4 + 2), (WINDOW // 2 + 1, None)]


def ranges_within(shard: torch.Tensor) -> list[tuple[int, int | None]]:
    """The ranges that a shard has, some of them across the windows in which it is read."""
    return [(start, stop) for start, stop in RANGES if max(start, stop or 0) < len(shard)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_ranges_of_mapped_files(dtype: torch.dtype, tmp_path: Path) -> None:
    shards = {length: torch.randn(length).to(dtype) for length in (11, ALIGNMENT, WINDOW, 3 * WINDOW // 2 + 7)}
    storage = storage_of_files(tmp_path, warnings := [], shards)
    assert storage.memory_bytes() == 0 and len(warnings) == 1 and warnings[0].endswith(f"kept in {tmp_path}, mapped")
    for version, shard in shards.items():
        for start, stop in ranges_within(shard):
            assert torch.equal(storage.get(version, start, stop), shard[start:stop])
        path = tmp_path / f"teacher-{version}.safetensors"
        assert torch.equal(load_file(path)["shard"], shard) and path.stat().st_size % ALIGNMENT == 0


def test_a_reader_that_fails_is_given_up_and_the_files_are_mapped(tmp_path: Path) -> None:
    class Failing:
        def read(self, path: Path, offset: int, size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.uint8)

    shards = {1: torch.randn(5000).half()}
    storage = storage_of_files(tmp_path, warnings := [], shards, Failing())
    assert torch.equal(storage.get(1), shards[1]) and torch.equal(storage.get(1, 7, 9), shards[1][7:9])
    assert len(warnings) == 2 and "read by DeepSpeed" in warnings[0] and "mapped from now on" in warnings[1]


@pytest.mark.slow
def test_asynchronous_reads_are_bitwise_those_of_mapped_files(tmp_path: Path) -> None:
    """DeepSpeed's own op, built where it is not yet: ranges, then a file cut short, altered, garbled, gone."""
    try:
        reader = AsynchronousReader(deepspeed_ops.load("AsyncIOBuilder"))
    except BuildError as error:
        pytest.skip(str(error))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        shards = {length: torch.randn(length).to(dtype) for length in (11, ALIGNMENT, WINDOW, 3 * WINDOW // 2 + 7)}
        storage = storage_of_files(tmp_path, warnings := [], shards, reader)
        assert "asynchronous I/O" in warnings[0]
        for version, shard in shards.items():
            for start, stop in ranges_within(shard):
                assert torch.equal(storage.get(version, start, stop), shard[start:stop])
        assert len(warnings) == 1
    path, shard = tmp_path / f"teacher-{version}.safetensors", shards[version]

    def flip() -> None:
        raw = bytearray(path.read_bytes())
        raw[ALIGNMENT + WINDOW + 5] ^= 1
        path.write_bytes(raw)

    faults = (
        lambda: os.truncate(path, path.stat().st_size - 1), lambda: os.truncate(path, 0), path.unlink, flip,
        lambda: save_file({"shard": 0 * shard}, path),
    )  # fmt: skip
    for number, damage in enumerate(faults):
        damage()
        assert torch.equal(storage.get(version), shard)
        assert len(warnings) == 2 + number and "taken from the checkpoint again" in warnings[-1]
    assert torch.equal(storage.get(version), shard) and len(warnings) == 6, "the reader is still in use"
    assert storage._reader is reader


def test_a_bad_teacher_is_refused_by_name(tmp_path: Path) -> None:
    state = {"a": torch.ones(3), "b": torch.tensor([1.0, float("nan")])}
    described = {"model": {}, "vocabulary_size": 3, "framing": {}, "pairs": [], "tokenizer_hash": ""}
    save_model(tmp_path / "snapshots" / "7", state, described)
    with pytest.raises(UserError, match=r"snapshots/7/model.safetensors: NaN or Inf in b"):
        read_elements(tmp_path / "snapshots" / "7", {"a": (0, 3), "b": (0, 2)})
    save_model(tmp_path / "snapshots" / "8", {"a": torch.ones(3)}, described)
    file = tmp_path / "snapshots" / "8" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"snapshots/8/model.safetensors: was altered"):
        read_elements(tmp_path / "snapshots" / "8", {"a": (0, 3), "b": (0, 2)})
    file.unlink()
    with pytest.raises(UserError, match=r"snapshots/8/model.safetensors: cannot be read"):
        read_elements(tmp_path / "snapshots" / "8", {"a": (0, 3), "b": (0, 2)})
