"""Where a rank keeps its shards of the teachers: CPU memory up to a budget, then files, checked when read."""

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

Version = int | str


class Shelf:
    """This rank's shard of every teacher in use, each held once however many pairs it teaches.

    ``reload(version)`` gives a shard again from the checkpoint's own file, should a file here be lost or altered.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        budget: int,
        directory: Path,
        reload: Callable[[Version], Tensor],
        say: Callable[[str], None] = print,
    ) -> None:
        self.dtype, self.budget, self.directory = dtype, budget, directory
        self._reload, self._say = reload, say
        self._held: dict[Version, Tensor] = {}
        self._files: dict[Version, tuple[Path, int]] = {}

    def put(self, version: Version, shard: Tensor) -> None:
        """Keeps a shard: in memory while the budget lasts, else in a file; in memory after all where the disk fails."""
        if version in self._held or version in self._files:
            return
        if self.bytes() + shard.nbytes > self.budget:
            try:
                self._files[version] = self._write(version, shard)
                return
            except OSError as error:
                self._say(
                    f"teachers: {self.directory}: {error.strerror}; teacher {version} stays in memory, over budget"
                )
        self._held[version] = shard

    def get(self, version: Version) -> Tensor:
        """A shard on the CPU."""
        if version in self._held:
            return self._held[version]
        path, wanted = self._files[version]
        try:
            shard = load_file(path)["shard"]
            if checksum(shard) == wanted:
                return shard
            fault = "was altered"
        except (OSError, KeyError, SafetensorError) as error:
            fault = f"cannot be read ({error})"
        self._say(f"teachers: {path} {fault}; taken from the checkpoint again")
        del self._files[version]
        path.unlink(missing_ok=True)
        shard = self._reload(version)
        self.put(version, shard)
        return shard

    def retain(self, versions: Iterable[Version]) -> None:
        """Drops all but these."""
        kept = set(versions)
        self._held = {version: shard for version, shard in self._held.items() if version in kept}
        for version in [v for v in self._files if v not in kept]:
            self._files.pop(version)[0].unlink(missing_ok=True)

    def __contains__(self, version: Version) -> bool:
        return version in self._held or version in self._files

    def bytes(self) -> int:
        """Bytes in CPU memory."""
        return sum(shard.nbytes for shard in self._held.values())

    def _write(self, version: Version, shard: Tensor) -> tuple[Path, int]:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"teacher-{str(version).replace('/', '_')}.safetensors"
        temporary = path.with_suffix(".tmp")
        try:
            save_file({"shard": shard}, temporary)
            temporary.replace(path)
        except SafetensorError as error:
            temporary.unlink(missing_ok=True)
            raise OSError(28, str(error)) from None
        if not self._files:
            self._say(f"teachers: beyond {self.budget / 2**30:.1f} GiB a rank, they are kept in {self.directory}")
        return path, checksum(shard)


def checksum(values: Tensor) -> int:
    """CRC-32 of a CPU tensor's bytes."""
    return zlib.crc32(memoryview(values.contiguous().view(torch.uint8).flatten().numpy()))
