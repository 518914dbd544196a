"""A JSON schema of recipes, with which editors complete keys, show meanings and mark mistakes."""

import json
from collections.abc import Iterator
from typing import Any

from mnmt_ds.config.sections import sections
from mnmt_ds.config.settings import Settings, aliases

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: type[Settings]) -> str:
    """Writes the JSON schema of a recipe.

    A recipe may leave out what it inherits by ``extends``, so no key is required.

    Args:
        kind: the recipe's class.

    Returns:
        JSON with a final line end.
    """
    schema = {"$schema": DIALECT, **kind.model_json_schema(by_alias=False)}
    classes = {section.kind.__name__: section.kind for section in sections(kind)}
    for name, definition in [(kind.__name__, schema), *schema.get("$defs", {}).items()]:
        definition.pop("required", None)
        properties = definition.get("properties", {})
        for field, value in classes[name].model_fields.items() if name in classes else ():
            properties.update({alias: properties[field] for alias in aliases(field, value)})
    schema["properties"]["extends"] = {
        "type": "string", "description": "Path of a recipe, from this file's directory, whose values come first.",
    }  # fmt: skip
    for union in list(_unions(schema)):
        del union["discriminator"]
        union["anyOf"] = union.pop("oneOf")  # without its name, a part may fit several
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _unions(schema: Any) -> Iterator[dict[str, Any]]:
    """All places with one of several classes that ``name`` tells apart."""
    if isinstance(schema, dict):
        if "discriminator" in schema:
            yield schema
        for value in schema.values():
            yield from _unions(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _unions(value)
