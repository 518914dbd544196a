"""YAML as a person means it: ``no`` is a language and ``off`` a word, not false; 1e-5 is a number, 1:30 is none."""

import re
from typing import Any

import yaml

SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
"""YAML 1.2's plain scalars: type, pattern and first characters."""


class YamlLoader(yaml.SafeLoader):
    """Reads YAML 1.2's plain scalars."""


class YamlDumper(yaml.SafeDumper):
    """Writes text that readers of YAML 1.1 and 1.2 understand alike: what either takes for a number is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes equal values out instead of referring to the first.

        Args:
            data: a value.

        Returns:
            True.
        """
        return True


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "float", "int")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern, _first in SCALARS:
    for _kind in (YamlLoader, YamlDumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), list(_first))


def parse_yaml(text: str) -> Any:
    """Parses YAML text.

    Args:
        text: one document.

    Returns:
        Plain values: dicts, lists, strings, numbers, booleans and None.
    """
    loader = YamlLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def format_value(value: Any) -> str:
    """Formats a value as one line of YAML.

    Args:
        value: a plain value, such as ``model_dump(mode="json")`` gives.

    Returns:
        The line: ``[a, b]``, ``{}``, ``null``, ``0.1`` ...
    """
    text = yaml.dump(
        value, Dumper=YamlDumper, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def format_document(values: Any) -> str:
    """Formats values as a YAML document.

    Args:
        values: plain values.

    Returns:
        Lines, with a final line end.
    """
    return yaml.dump(values, Dumper=YamlDumper, sort_keys=False, allow_unicode=True)
