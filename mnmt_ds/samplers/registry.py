"""All samplers by name: a new one is a file beside this, one line here, and a recipe."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, Union

from pydantic import BeforeValidator, Field

from mnmt_ds.config import Settings
from mnmt_ds.requirements import Requirements
from mnmt_ds.samplers.ccl_m import CclM, CclMSettings
from mnmt_ds.samplers.chi_ibr import ChiIbr, ChiIbrSettings
from mnmt_ds.samplers.multidds import MultiDds, MultiDdsSettings
from mnmt_ds.samplers.multiuat import MultiUat, MultiUatSettings
from mnmt_ds.samplers.sampler import Fixed, Sampler
from mnmt_ds.samplers.temperature import TemperatureSettings


class SamplerEntry(NamedTuple):
    """A sampler's settings (with a ``name`` of the sampler's) and its class."""

    settings: type[Settings]
    build: type[Sampler]
    requires: Callable[[Any], Requirements] = lambda settings: Requirements()
    """What it needs of the run, by its settings."""


def measures_student(settings: Any) -> Requirements:
    """Declares a sampler that measures the student between validations.

    Args:
        settings: the sampler's settings.

    Returns:
        What the sampler needs of a run.
    """
    return Requirements(measured_by=(settings.name,))


SAMPLERS: dict[str, SamplerEntry] = {
    "temperature": SamplerEntry(TemperatureSettings, Fixed),
    "multidds": SamplerEntry(MultiDdsSettings, MultiDds, measures_student),
    "multiuat": SamplerEntry(MultiUatSettings, MultiUat, measures_student),
    "chi_ibr": SamplerEntry(ChiIbrSettings, ChiIbr),
    "ccl_m": SamplerEntry(CclMSettings, CclM),
}


def build(settings: Settings, pairs: Sequence[str], sizes: Sequence[int]) -> Sampler:
    """The sampler that a recipe's ``sampler:`` section asks for; UserError where it cannot run on these pairs."""
    return SAMPLERS[settings.name].build(settings, pairs, sizes)  # type: ignore[attr-defined]


def requirements(settings: Settings) -> Requirements:
    """Says what a sampler needs of a run.

    Args:
        settings: the sampler's settings, as in a recipe's ``sampler:`` section.

    Returns:
        Its requirements.
    """
    return SAMPLERS[settings.name].requires(settings)  # type: ignore[attr-defined]


def _named(values: Any) -> Any:
    return {"name": "temperature", **values} if isinstance(values, dict) else values


def union() -> Any:
    """The settings of all samplers as one type, told apart by ``name``; temperature where none is given."""
    kinds = Union[tuple(entry.settings for entry in SAMPLERS.values())]  # type: ignore[valid-type]
    return Annotated[kinds, Field(discriminator="name"), BeforeValidator(_named)]
