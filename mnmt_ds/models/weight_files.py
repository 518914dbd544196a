"""Safetensors files of a directory, whole or in shards: read tensor by tensor from the memory-mapped files."""

import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypedDict

from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import first_altered, read_checked_json
from mnmt_ds.files import refuse_pointer
from mnmt_ds.json_files import read_json, reason

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FROZEN = "frozen.safetensors"
"""Weights that a run does not train, once for all its models."""
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "checkpoint_best.pt")
"""Files that would have to be unpickled, which can run any code."""
NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
}  # fmt: skip
"""How safetensors writes the types of weights."""


class IndexJson(TypedDict):
    """JSON of an index of weight files, which is checked when it is read."""

    weight_map: dict[str, str]
    """The shard of every tensor."""


class TensorFacts(NamedTuple):
    """Dtype, shape and place of a tensor, from its file's header."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """The dtype as safetensors writes it, such as BF16."""


class WeightFiles:
    """The tensors of a directory by name; nothing is read before it is asked for."""

    def __init__(self, directory: Path, files: Sequence[Path] = ()) -> None:
        """Reads the files' headers.

        Args:
            directory: with model.safetensors, or with shards and model.safetensors.index.json.
            files: that are read; none: the directory's.

        Raises:
            UserError: where files are missing, cut short, altered, Git LFS pointers, or pickled ones.
        """
        self.directory = directory
        self.facts: dict[str, TensorFacts] = {}
        for path in files or _files(directory):
            for name, (shape, dtype) in _header(path).items():
                self.facts[name] = TensorFacts(path, shape, dtype)
        self._open: dict[Path, Any] = {}

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Reads a tensor.

        Args:
            name: of the tensor.
            rows: of these only; None: all, backed by the mapped file as long as nothing writes to it.

        Returns:
            The tensor in the file's shape (or of these rows) and dtype, on the CPU.

        Raises:
            UserError: where a value is not finite.
        """
        path = self.facts[name].file
        if path not in self._open:
            self._open[path] = safe_open(path, "pt")
        file = self._open[path]
        values: Tensor = file.get_tensor(name) if rows is None else file.get_slice(name)[rows.start : rows.stop]
        if not bool(torch.isfinite(values).all()):
            raise UserError(f"{path}: NaN or Inf in {name}; restore the file, or take another model")
        return values

    def release(self) -> None:
        """Releases the mapped files, and so their pages in memory."""
        self._open.clear()


def write_weights(path: Path, names: Sequence[str], shapes: Sequence[Sequence[int]], dtypes: Sequence[torch.dtype],
                  tensors: Iterable[Tensor]) -> None:  # fmt: skip
    """Writes a safetensors file of which one tensor at a time is in memory.

    Args:
        path: the file; an older one is overwritten.
        names: of the tensors, in order.
        shapes: of each.
        dtypes: of each.
        tensors: the values in the same order; each is dropped before the next is asked for.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, dtype in zip(names, shapes, dtypes, strict=True):
        size = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor, dtype in zip(tensors, dtypes, strict=True):
            values = tensor.detach().to("cpu", dtype).contiguous()
            file.write(values.view(torch.uint8).numpy().data if values.dim() else values.numpy().tobytes())
            del tensor, values


def frozen_file(directory: Path, digest: str) -> Path:
    """Finds the weights that a model shares with the others of its run, since they were not trained.

    Args:
        directory: of the model.
        digest: their SHA-256, as ``model.json`` has it.

    Returns:
        The file, verified: beside the model, or in the run.

    Raises:
        UserError: where it is missing or altered.
    """
    paths = [directory / FROZEN, directory.resolve().parent.parent / FROZEN]
    path = next((candidate for candidate in paths if candidate.exists()), None)
    if path is None:
        raise UserError(
            f"{directory}: holds trained weights alone, the others ({FROZEN}) are neither beside it nor in its run;"
            " copy the file there, or move models with mnmt-ds import"
        )
    if first_altered({path: digest}, path.parent.resolve()) is not None:
        raise UserError(f"{path}: was altered (its SHA-256 is not that of {directory}/model.json); restore the file")
    return path


def _own_files(directory: Path) -> list[Path]:
    """The files of a model of ours, held against the SHA-256 in its ``model.json``; none of other directories."""
    weights, description = directory / SINGLE, directory / "model.json"
    if not (description.exists() and weights.exists()):
        return []
    try:
        described = read_checked_json(description)
        digest = described.get("sha256")
        is_altered = digest is not None and first_altered({weights: str(digest)}, directory.resolve()) is not None
    except (OSError, ValueError) as error:
        raise UserError(f"{description}: cannot be read ({reason(error)}); restore the file") from None
    if is_altered:
        raise UserError(f"{weights}: was altered (its SHA-256 is not model.json's); restore the file")
    return [weights, *([frozen_file(directory, str(described["frozen"]))] if "frozen" in described else [])]


def _files(directory: Path) -> list[Path]:
    """The directory's weight files; all of them are there."""
    if own := _own_files(directory):
        return own
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    index = directory / INDEX
    if not index.exists():
        pickled = [name for name in PICKLED if (directory / name).exists()]
        if pickled:
            raise UserError(
                f'{directory}: {pickled[0]} is pickled, which is never read here; convert it once: python -c "from'
                " transformers import AutoModelForSeq2SeqLM as M;"
                f" M.from_pretrained('{directory}').save_pretrained('{directory}')\""
            )
        raise UserError(f"{directory}: no {SINGLE} there; download the whole directory again")
    refuse_pointer(index)
    try:
        names = sorted(set(read_json(index, IndexJson)["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise ValueError("a shard in another directory")
    except (OSError, ValueError):
        raise UserError(f"{index}: not an index of shards; download the file again") from None
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise UserError(
            f"{directory}: {len(missing)} of {len(names)} shards are missing ({', '.join(missing)}); download them"
        )
    return [directory / name for name in names]


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every tensor of a file, whose length is checked."""
    refuse_pointer(path)
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            slices = {name: file.get_slice(name) for name in names}
            return {
                name: (tuple(tensor_slice.get_shape()), tensor_slice.get_dtype())
                for name, tensor_slice in slices.items()
            }
    except (OSError, SafetensorError) as error:
        fault = " ".join(str(error).split())
        raise UserError(f"{path}: not a whole safetensors file ({fault}); download it again") from None
