"""The whole recipe of a run, and the profile that fills what is not given."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mnmt_ds.config import FilePath, Loaded, Settings, load_with_faults
from mnmt_ds.data.denoising import DenoisingSettings, with_released_tasks
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.decoding.pretrained import with_pretrained
from mnmt_ds.engine.settings import PipelineSettings, TensorSettings, TrainSettings, ValidationSettings
from mnmt_ds.errors import FaultList, UserError
from mnmt_ds.methods.registry import METHODS, trained_tasks, union
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.samplers import registry
from mnmt_ds.samplers.temperature import TemperatureSettings
from mnmt_ds.shipped_files import find_file
from mnmt_ds.tracking import TrackingSettings

if TYPE_CHECKING:
    MethodSettings = Any
    SamplerSettings = Any
else:
    MethodSettings = union(METHODS)
    SamplerSettings = registry.union()


APART = 1000
"""Between the seeds of two students."""


class StudentSettings(Settings):
    """Settings of one of several students, which it does not share with the others."""

    name: str = ""
    """Its directory in ``students/`` and its prefix in logs; empty: model_1, model_2, …"""
    sampler: SamplerSettings = TemperatureSettings()
    """Its shares of the language pairs (the recipe's ``sampler`` is for a student that is alone)."""
    seed: int | None = Field(None, ge=0)
    """Seed of its weights, data order and dropout; null: train.seed, for every further student 1000 more."""


class Recipe(Settings):
    """Everything that a run is made of: data, model, method, sampler, training, students and directories."""

    name: str = "run"
    """Name of the run in pictures and on dashboards."""
    directory: FilePath = Path("runs/run")
    """Where the run is written."""
    profile: Literal["paper", "released"] = "paper"
    """paper: the equations; released: what the authors' code does, wherever a setting is not given."""
    data: DataSettings = Field(examples=[{"pairs": ["bs-en", "mr-en"]}])
    """Corpora, cleaning, tokenizer."""
    framing: FramingSettings = FramingSettings()
    """Language tags."""
    denoising: DenoisingSettings | None = None
    """Text of one language beside the pairs, and the tasks on it, with ``method: by_task``; null: pairs alone."""
    sampler: SamplerSettings = TemperatureSettings()
    """Shares of the language pairs: fixed by temperature, or moved by what is measured."""
    students: tuple[StudentSettings, ...] = Field((), examples=[[{}, {}]])
    """Two or more students trained side by side (mutual distillation); empty: one, with ``sampler``."""
    placement: Literal["together", "split"] = "together"
    """Of several students. together: all on every rank; split: each on as many ranks of its own, which exchange decoder
    states."""
    simultaneous: bool = False
    """Several students take each step at once, taught by one another as they were before it; false: in turn, so that
    the second is taught by the first as already updated (paper 2, Algorithm 1). Split students wait for one another's
    turns unless this is true."""
    model: ModelSettings = ModelSettings()
    """The student's shape."""
    method: MethodSettings = Field(default_factory=lambda: METHODS["translation"].settings())
    """What is optimised."""
    train: TrainSettings = TrainSettings()
    """Budget and optimizer."""
    pipeline: PipelineSettings | None = None
    """Pipeline stages; null: every rank holds all layers."""
    tensor: TensorSettings | None = None
    """The vocabulary over several ranks; null: every rank holds all words."""
    validation: ValidationSettings = ValidationSettings()
    """Dev losses and checkpoint selection."""
    deepspeed: FilePath = Path("ds_configs/zero1.json")
    """DeepSpeed's own JSON; "auto" values are filled from this recipe."""
    tracking: TrackingSettings = TrackingSettings()
    """Logs and wandb."""

    @model_validator(mode="before")
    @classmethod
    def _profile(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("profile") != "released":
            return values
        filled = dict(values)
        if isinstance(section := filled.get("validation", {}), dict):
            filled["validation"] = ValidationSettings.with_released(section)
        if isinstance(section := filled.get("denoising"), dict):
            filled["denoising"] = with_released_tasks(section)
        if "method" in filled:
            filled["method"] = _with_profile(filled["method"])
        return filled

    @model_validator(mode="after")
    def _tasks(self) -> "Recipe":
        trained = trained_tasks(self.method)
        if "translation" not in trained:
            name = self.method.name
            raise ValueError(f"method {name}: is one for tasks on text of one language; put it into method by_task")
        tasks = {task.name for task in self.denoising.tasks} if self.denoising is not None else set()
        named = trained - {"translation"}
        if tasks != named:
            raise ValueError(
                f"denoising.tasks ({', '.join(sorted(tasks)) or 'none'}) and the tasks of method by_task"
                f" ({', '.join(sorted(named)) or 'none'}) differ; name the same ones in both"
            )
        return self

    @model_validator(mode="after")
    def _students(self) -> "Recipe":
        names = [student.name or f"model_{i}" for i, student in enumerate(self.students, start=1)]
        if len(names) == 1:
            raise ValueError(
                "students: one alone is what 'sampler' and 'train.seed' are for; list two or more, or none"
            )
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"students: '{name}' is no name for a directory; use letters, digits, - and _")
        if len(set(names)) < len(names):
            raise ValueError(f"students: names must differ, these are {', '.join(names)}")
        if self.placement == "split" and not names:
            raise ValueError("placement: split is for several students; list them under 'students', or leave it out")
        return self

    @model_validator(mode="after")
    def _watched(self) -> "Recipe":
        watched = self.validation.watch
        if odd := [pair for pair in watched if pair in self.data.pairs or watched.count(pair) > 1]:
            raise ValueError(
                f"validation.watch: {odd[0]} is validated already; name pairs that data.pairs does not, each once"
            )
        return self

    @model_validator(mode="after")
    def _resolve(self) -> "Recipe":
        """Fills what depends on other sections: the method's values on the pairs, the students' names and seeds."""
        students = (
            student.model_copy(
                update={
                    "name": student.name or f"model_{i + 1}",
                    "seed": self.train.seed + APART * i if student.seed is None else student.seed,
                }
            )
            for i, student in enumerate(self.students)
        )
        self.__dict__.update(method=self.method.resolved(self.data.pairs), students=tuple(students))
        return self


def _with_profile(method: Any) -> Any:
    """A method's section with ``profile: released`` wherever it, or a method inside it, has profiles and names none."""
    if isinstance(method, list | tuple):
        return [_with_profile(inner) for inner in method]
    if not isinstance(method, dict):
        return method
    filled = {key: _with_profile(value) for key, value in method.items()}
    settings = getattr(METHODS.get(str(filled.get("name", ""))), "settings", Settings)
    return {"profile": "released", **filled} if "profile" in settings.model_fields else filled


def students_of(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """Lists the students of a run.

    Args:
        recipe: of the run.

    Returns:
        Each one's name and the recipe as it follows it; one named "student" where the recipe lists none.
    """
    if not recipe.students:
        return [("student", recipe)]
    result = []
    for student in recipe.students:
        changes: dict[str, Any] = {
            "name": f"{recipe.name}.{student.name}",
            "directory": recipe.directory / "students" / student.name,
            "sampler": student.sampler,
            "train": recipe.train.model_copy(update={"seed": student.seed}),
            "students": (),
            "placement": "together",
        }
        result.append((student.name, recipe.model_copy(update=changes)))
    return result


def load_recipe(path: Path | None, overrides: Sequence[str] = (), first_weights: bool = True) -> Recipe:
    """Reads, merges and checks a recipe.

    A recipe that is not found from here is looked for among those that come with the package. ``deepspeed`` is looked
    for from here, then upward from the recipe, then in the package.

    Args:
        path: the recipe; None: defaults alone.
        overrides: settings that replace the recipe's, such as ``train.lr=5e-4``.
        first_weights: completes shape and framing by the model that ``model.init`` names; False: it may not be there
            yet, and the recipe's own stay.

    Returns:
        The recipe, with every value as it is used.

    Raises:
        UserError: lists all faults, with file, line and remedy.
    """
    loaded = load_recipe_with_faults(path, overrides, first_weights)
    if loaded.faults or loaded.settings is None:
        raise UserError(*loaded.faults)
    return loaded.settings


def load_recipe_with_faults(
    path: Path | None, overrides: Sequence[str] = (), first_weights: bool = True
) -> Loaded[Recipe]:
    """Loads a recipe as ``load_recipe`` does, but returns its faults beside the parts that are without fault.

    Args:
        path: the recipe; None: defaults alone.
        overrides: settings that replace the recipe's, such as ``train.lr=5e-4``.
        first_weights: as for ``load_recipe``.

    Returns:
        The recipe and its faults.

    Raises:
        UserError: where a file as a whole cannot be read.
    """
    path = find_file(path) if path is not None else None
    recipe, lines, at_fault = load_with_faults(Recipe, path, overrides, needed=("data", "deepspeed"))
    if recipe is None:
        return Loaded(None, lines, at_fault)
    recipe, faults = recipe.model_copy(update={"deepspeed": find_file(recipe.deepspeed, path)}), FaultList(lines)
    if not first_weights:
        return Loaded(recipe, lines, at_fault)
    with faults.caught():
        return Loaded(with_first_weights(recipe), lines, at_fault)
    return Loaded(recipe, faults.faults, [*at_fault, ("model",), ("framing",)])


def with_first_weights(recipe: Recipe) -> Recipe:
    """Completes a recipe by shape and framing of the pretrained model that ``model.init`` names.

    Args:
        recipe: as it was read.

    Returns:
        The recipe; the same one where it starts from no other model.

    Raises:
        UserError: where that model cannot be used, or the recipe asks for another shape or framing.
    """
    if not recipe.model.init:
        return recipe
    explicit_framing = recipe.framing if "framing" in recipe.model_fields_set else None
    model, framing = with_pretrained(recipe.model, explicit_framing)
    return recipe.model_copy(update={"model": model, "framing": framing})
