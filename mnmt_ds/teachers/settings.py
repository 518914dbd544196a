"""How teachers are kept and remembered; the same for every method that has frozen ones."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from mnmt_ds.config import Settings


class TeacherSettings(Settings):
    """Frozen teachers: their weights, sharded over ranks, and their decoder states of the training sentences."""

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Type in which weights are held on the CPU."""
    on_device: Literal["whole", "layers"] = "whole"
    """whole: two teachers stand on a device in turn; layers: their layers pass through it one by one, for models of
    which two would not fit beside the student. With layers nothing is remembered."""
    weights_gib: float = 64.0
    """CPU memory a rank may spend on its shards of teachers, in GiB; more go to files in ``disk``."""
    read: Literal["auto", "mapped"] = "auto"
    """Such files are read past the page cache by DeepSpeed's asynchronous I/O where it builds (libaio), else mapped."""
    cache: Literal["auto", "off", "ram", "disk"] = "auto"
    """Remember teachers' decoder states: auto: of pairs that are gone through whole between two validations."""
    cache_dtype: Literal["half", "fp8"] = "half"
    """Type of remembered states: float16, or 8 bits with a scale for each token."""
    memory_gib: float = 4.0
    """CPU memory a rank may spend on remembered states, in GiB; along pipeline stages, a rank of the last one."""
    disk: Path | None = None
    """Directory on each node's own disk for what memory does not hold; null: no disk."""
    disk_gib: float = 64.0
    """Disk a rank may spend on remembered states, in GiB."""

    @model_validator(mode="after")
    def _check(self) -> "TeacherSettings":
        for name in ("weights_gib", "memory_gib", "disk_gib"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.on_device == "layers" and self.cache in ("ram", "disk"):
            raise ValueError(f"cache: {self.cache} needs on_device: whole; with layers leave cache to auto or off")
        return self
