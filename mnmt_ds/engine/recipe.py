"""The whole recipe of a run, and the profile that fills what is not given."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field, model_validator

from mnmt_ds.config import Settings, load
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.engine.settings import TrainSettings, ValidationSettings
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.objectives.methods import METHODS
from mnmt_ds.samplers.temperature import SamplerSettings
from mnmt_ds.tracking import TrackingSettings

if TYPE_CHECKING:
    MethodSettings = Any
else:
    MethodSettings = Annotated[Union[tuple(entry.settings for entry in METHODS.values())], Field(discriminator="name")]


class Recipe(Settings):
    """Everything that a run is made of."""

    name: str = "run"
    """Name of the run in pictures and on dashboards."""
    directory: Path = Path("runs/run")
    """Where the run is written."""
    profile: Literal["paper", "released"] = "paper"
    """paper: the equations; released: what the authors' code does, wherever a setting is not given."""
    data: DataSettings
    """Corpora, cleaning, tokenizer."""
    framing: FramingSettings = FramingSettings()
    """Language tags."""
    sampler: SamplerSettings = SamplerSettings()
    """Shares of the language pairs."""
    model: ModelSettings = ModelSettings()
    """The student's shape."""
    method: MethodSettings = Field(default_factory=lambda: METHODS["translation"].settings())
    """What is optimised."""
    train: TrainSettings = TrainSettings()
    """Budget and optimizer."""
    validation: ValidationSettings = ValidationSettings()
    """Dev losses and checkpoint selection."""
    deepspeed: Path = Path("ds_configs/zero1.json")
    """DeepSpeed's own JSON; "auto" values are filled from this recipe."""
    tracking: TrackingSettings = TrackingSettings()
    """Logs and wandb."""

    @model_validator(mode="before")
    @classmethod
    def _profile(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("profile") != "released":
            return values
        filled = dict(values)
        filled["validation"] = {"selection": "tokens", **filled.get("validation", {})}
        method = filled.get("method", {})
        if (
            isinstance(method, dict)
            and "profile" in getattr(METHODS.get(method.get("name", "")), "settings", Settings).model_fields
        ):
            filled["method"] = {"profile": "released", **method}
        return filled


def load_recipe(path: Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, merges and checks a recipe; ``deepspeed`` is looked for from here, then upward from the recipe."""
    recipe = load(Recipe, path, overrides)
    if not recipe.deepspeed.exists() and path is not None and not recipe.deepspeed.is_absolute():
        for parent in path.resolve().parents:
            if (parent / recipe.deepspeed).exists():
                return recipe.model_copy(update={"deepspeed": parent / recipe.deepspeed})
    return recipe
