"""All samplers by name: a new one is a file beside this, one line here, and a recipe."""

from collections.abc import Sequence
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Field

from mnmt_ds.config import Settings
from mnmt_ds.requirements import Requirements
from mnmt_ds.samplers import ccl_m, chi_ibr, multidds, multiuat, temperature
from mnmt_ds.samplers.sampler import Sampler, SamplerEntry

SAMPLERS: dict[str, SamplerEntry] = {
    "temperature": temperature.ENTRY,
    "multidds": multidds.ENTRY,
    "multiuat": multiuat.ENTRY,
    "chi_ibr": chi_ibr.ENTRY,
    "ccl_m": ccl_m.ENTRY,
}


def build(section: Settings, pairs: Sequence[str], sizes: Sequence[int]) -> Sampler:
    """Builds the sampler that a recipe's ``sampler:`` section asks for.

    Args:
        section: the sampler's settings.
        pairs: names of the language pairs.
        sizes: training sentences of each pair.

    Returns:
        The sampler.
    """
    return SAMPLERS[section.name].build(section, pairs, sizes)  # type: ignore[attr-defined]


def requirements(section: Settings) -> Requirements:
    """Returns the requirements that a sampler has of its run.

    Args:
        section: the sampler's settings, as in a recipe's ``sampler:`` section.

    Returns:
        Its requirements.
    """
    return SAMPLERS[section.name].requires(section)  # type: ignore[attr-defined]


def _named(values: Any) -> Any:
    """A section without ``name`` is that of temperature sampling."""
    return {"name": "temperature", **values} if isinstance(values, dict) else values


def union() -> Any:
    """Makes one type of the settings of all samplers, told apart by ``name``; temperature where none is given.

    Returns:
        A discriminated union for pydantic.
    """
    kinds = Union[tuple(entry.settings for entry in SAMPLERS.values())]  # type: ignore[valid-type]
    return Annotated[kinds, Field(discriminator="name"), BeforeValidator(_named)]
