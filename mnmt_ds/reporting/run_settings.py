"""Settings of runs side by side: which of them differ, and a method in a few words."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

IGNORED_SETTINGS = (
    "directory", "name", "train.seed", "tracking", "data.directory", "method.experts", "sampler.baseline",
)  # fmt: skip
"""Settings that do not make two runs different experiments, with all settings below them."""


def flatten_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested settings to dotted names.

    Args:
        values: settings by section.
        prefix: put before every name; it ends with a dot.

    Returns:
        {"train.lr": 0.002, ...}; an empty section stays a value.
    """
    settings: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        settings |= flatten_settings(value, name + ".") if isinstance(value, Mapping) and value else {name: value}
    return settings


def differing_settings(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Lists the settings whose values differ between recipes.

    Args:
        recipes: settings by section, a recipe a run.

    Returns:
        {dotted name: [value of each recipe]}, by name, without ``IGNORED_SETTINGS``; "" where a recipe lacks the
        setting.
    """
    settings = _compared_settings(recipes)
    return {name: values for name, values in settings.items() if any(value != values[0] for value in values)}


def count_equal_settings(recipes: Sequence[Mapping[str, Any]]) -> int:
    """Counts the settings that have one value in all recipes.

    Args:
        recipes: settings by section, a recipe a run.

    Returns:
        Their number, without ``IGNORED_SETTINGS``.
    """
    return len(_compared_settings(recipes)) - len(differing_settings(recipes))


def _compared_settings(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Values of every setting that counts, one a recipe; "" where it is absent."""
    flat_recipes = [flatten_settings(recipe) for recipe in recipes]
    names = sorted(set().union(*flat_recipes))
    return {name: [recipe.get(name, "") for recipe in flat_recipes] for name in names if not _is_ignored(name)}


def _is_ignored(name: str) -> bool:
    return any(name == ignored or name.startswith(ignored + ".") for ignored in IGNORED_SETTINGS)


def describe_method(method: Mapping[str, Any], sampler: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Describes a method in a few words.

    Args:
        method: the recipe's section ``method``.
        sampler: the recipe's section ``sampler``.

    Returns:
        Name, variant, rule, profile (unless ``paper``) and fixed α; then a sampler that is not fixed.
    """
    variants = [str(method[key]) for key in ("variant", "rule", "profile") if method.get(key)]
    words = [str(method.get("name", "?")), *(variant for variant in variants if variant != "paper")]
    fixed = method.get("rule") in (None, "uni", "bi", "vanilla")
    words += [f"α {method['alpha']:g}"] if fixed and isinstance(method.get("alpha"), int | float) else []
    words += ["trials kept"] if not fixed and (method.get("trials") or {}).get("after") == "keep" else []
    words += ["extra updates"] if method.get("extra_updates") else []
    dynamic = sampler.get("name", "temperature") != "temperature"
    words += [str(sampler[key]) for key in ("name", "reward") if sampler.get(key)] if dynamic else []
    return " ".join(words)
