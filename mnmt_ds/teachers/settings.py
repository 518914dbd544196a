"""Settings of frozen teachers: where their weights and their cached states are; the same for every method."""

from typing import Literal

from pydantic import Field, model_validator

from mnmt_ds.config import FilePath, Settings


class TeacherSettings(Settings):
    """Frozen teachers: their weights, sharded over ranks, and their decoder states of the training sentences."""

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Type in which weights are held on the CPU."""
    on_device: Literal["whole", "layers"] = "whole"
    """whole: two whole teachers are on a device at a time; layers: their layers pass through it one by one, for models
    of which two would not fit beside the student. With layers nothing is cached."""
    weights_gib: float = Field(64.0, ge=0, le=10**6)
    """CPU memory a rank may use for its shards of teachers, in GiB; further shards go to files in ``disk``."""
    read: Literal["auto", "mapped"] = "auto"
    """auto: such files are read past the page cache by DeepSpeed's asynchronous I/O where it builds (libaio); mapped:
    through memory mappings."""
    cache: Literal["auto", "off", "ram", "disk"] = "auto"
    """Caching of teachers' decoder states: auto: of the pairs whose training set is used at least once between two
    validations, in memory and then on disk; off: none; ram, disk: of all pairs, in memory or on disk alone, as far as
    they fit."""
    cache_dtype: Literal["half", "fp8"] = "half"
    """Type of cached states. half: float16; fp8: 8 bits with a scale for each token."""
    memory_gib: float = Field(4.0, ge=0, le=10**6)
    """CPU memory a rank may use for cached states, in GiB; of a pipeline, a rank of the last stage."""
    disk: FilePath | None = None
    """Directory on each node's own disk for what memory does not hold; null: no disk."""
    disk_gib: float = Field(64.0, ge=0, le=10**6)
    """Disk space a rank may use for cached states, in GiB."""

    @model_validator(mode="after")
    def _check(self) -> "TeacherSettings":
        if self.on_device == "layers" and self.cache in ("ram", "disk"):
            raise ValueError(f"cache: {self.cache} needs on_device: whole; with layers leave cache to auto or off")
        return self
