"""Versions of the packages that a run depends on."""

import platform
from importlib.metadata import PackageNotFoundError, version

from mnmt_ds import __version__

PACKAGES = ("torch", "deepspeed", "megatron-core", "sentencepiece", "numpy", "safetensors", "pydantic")


def package_versions() -> dict[str, str]:
    """Looks up versions.

    Returns:
        By name: of Python, of this package and of ``PACKAGES``; "none" where one is not installed.
    """
    versions = {"Python": platform.python_version(), "mnmt_ds": __version__}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    return versions
