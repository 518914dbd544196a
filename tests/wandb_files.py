"""A reader of the files that wandb writes offline (its package has none): blocks of 32 KiB, as LevelDB's log."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = 1 << 15
HEAD = struct.Struct("<IHB")
"""CRC, length and type (whole, first, middle, last) of a part of a record."""


class WandbRun(NamedTuple):
    """What one run's file holds."""

    id: str
    name: str
    group: str
    project: str
    config: dict[str, Any]
    history: list[dict[str, Any]]


def wandb_runs(directory: Path) -> list[WandbRun]:
    """The runs in the ``wandb`` directory of a training, in order of time; a resumed one stands twice."""
    return [_run(path) for path in sorted((directory / "wandb").glob("offline-run-*/*.wandb"))]


def _run(path: Path) -> WandbRun:
    from wandb.proto.wandb_internal_pb2 import Record

    found, history = None, []
    for content in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "run":
            found = record.run
        elif record.WhichOneof("record_type") == "history":
            items = record.history.item
            history.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    assert found is not None, path
    config = {item.key: json.loads(item.value_json) for item in found.config.update}
    return WandbRun(found.run_id, found.display_name, found.run_group, found.project, config, history)


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    place, record = HEAD.size, b""
    while place + HEAD.size <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEAD.size:
            place += left
            continue
        _, length, kind = HEAD.unpack_from(data, place)
        record += data[place + HEAD.size : place + HEAD.size + length]
        place += HEAD.size + length
        if kind in (1, 4):
            yield record
            record = b""
