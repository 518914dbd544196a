"""A checkpoint's files: hashed on the way to the disk, errors are kept, those of other ranks are here."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

from mnmt_ds.checkpoint_writer import IN_A_THREAD, CheckpointWriter, WrittenFile, write_hashed
from mnmt_ds.distributed import ALONE
from mnmt_ds.engine.checkpointing import checkpoint
from mnmt_ds.errors import UserError
from tests.small_disk import fill, small_disk

STATE = {"small": torch.arange(7.0), "large": torch.arange(3 * IN_A_THREAD, dtype=torch.float64), "step": 3, "no": None}


class Configuration:
    def __init__(self, zipped: bool) -> None:
        self.checkpoint_config = {"checkpoint_serialization": zipped}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_files_size_and_digest_are_those_on_the_disk(zipped: bool, tmp_path: Path) -> None:
    """Also in torch's older format, which would write tensors past any file of Python's that has a descriptor."""
    before = torch.serialization.get_crc32_options()
    writer = CheckpointWriter(TorchCheckpointEngine(Configuration(zipped)))
    for name in ("a.pt", "b.pt"):
        writer.save(STATE, str(tmp_path / name))
    files, error = writer.finish()
    assert error is None and files.keys() == {tmp_path / "a.pt", tmp_path / "b.pt"}
    for path, file in files.items():
        content = path.read_bytes()
        assert file == (len(content), hashlib.sha256(content).hexdigest()) and len(content) > STATE["large"].nbytes
        read = torch.load(path, weights_only=True)
        assert torch.equal(read["small"], STATE["small"]) and torch.equal(read["large"], STATE["large"])
    assert torch.serialization.get_crc32_options() is before


@pytest.mark.parametrize("length", [0, 1, IN_A_THREAD - 1, IN_A_THREAD, 5 * IN_A_THREAD + 3])
def test_pieces_of_every_length_are_hashed_in_their_order(length: int, tmp_path: Path) -> None:
    pieces = [b"head", bytes(range(256)) * (length // 256) + b"x" * (length % 256), b"tail"]

    def save(file: io.RawIOBase) -> None:
        assert [file.write(memoryview(piece)) for piece in pieces] == [len(piece) for piece in pieces]

    with ThreadPoolExecutor(1) as hashing:
        file = write_hashed(save, tmp_path / "a", hashing)
    assert (tmp_path / "a").read_bytes() == b"".join(pieces)
    assert file == (len(b"".join(pieces)), hashlib.sha256(b"".join(pieces)).hexdigest())


def test_the_first_error_is_kept_and_nothing_is_written_after_it(tmp_path: Path) -> None:
    writer = CheckpointWriter(TorchCheckpointEngine(Configuration(True)))
    with small_disk(tmp_path / "disk", "1M") as disk:
        fill(disk, left=100_000)
        writer.save(STATE, str(disk / "a.pt"))
        writer.save({}, str(disk / "b.pt"))
        files, error = writer.finish()
        assert isinstance(error, OSError) and error.errno == 28 and error.filename == str(disk / "a.pt")
        assert not files and not (disk / "b.pt").exists()


@pytest.mark.parametrize("seen", ["whole", "in part", "not at all"])
def test_every_file_that_a_rank_wrote_is_here(seen: str, tmp_path: Path) -> None:
    """As on nodes that have no common file system: a checkpoint never counts without one of its files."""
    path, content = tmp_path / "checkpoints" / "step_1.tmp" / "student" / "b.pt", b"of rank 1"
    if seen != "not at all":
        path.parent.mkdir(parents=True)
        path.write_bytes(content[: 3 if seen == "in part" else None])
    else:
        path.parent.parent.mkdir(parents=True)
    final, by_rank = path.parent.parent.with_name("step_1"), [
        ([], {}), ([], {path: WrittenFile(len(content), hashlib.sha256(content).hexdigest())}),
    ]  # fmt: skip
    if seen == "whole":
        checkpoint._finish(path.parent.parent, final, {"update": 1}, 0, by_rank)
        assert checkpoint.newest(tmp_path, lambda line: pytest.fail(line), ALONE) is not None
        return
    with pytest.raises(UserError, match=r"student/b.pt: rank 1 wrote it, .* file system that all nodes share"):
        checkpoint._finish(path.parent.parent, final, {"update": 1}, 0, by_rank)
    assert not list((tmp_path / "checkpoints").iterdir())
