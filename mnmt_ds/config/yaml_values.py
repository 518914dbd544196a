"""YAML as a person means it: ``no`` is a language and ``off`` a word, not false; 1e-5 is a number, 1:30 is none.

What a file can make of itself is bounded, so that a wrong or hostile one costs no more than reading it: its size, how
deep it nests, and how many values its aliases stand for.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import yaml

from mnmt_ds.errors import CONTROL

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the root of a document to a value."""
MAX_CHARACTERS = 20_000_000
"""Longest document."""
MAX_READ_TWICE = 500_000
"""Longest document of which a fault is looked for a second time, slowly."""
MAX_DEPTH = 50
"""Deepest nesting."""
MAX_VALUES = 500_000
"""Values of a document, what aliases stand for counted each time."""
MAX_INTEGER = 2**63 - 1
"""Largest whole number: what numpy and torch count with."""

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


class BoundedComposer(yaml.composer.Composer):
    """Composer of nodes that do not nest too deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int | None) -> yaml.Node | None:
        """Composes a node, unless it lies too deep.

        Args:
            parent: the node around it.
            index: its place there.

        Returns:
            The node.

        Raises:
            MarkedYAMLError: where the nesting is too deep.
        """
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[attr-defined]
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels of nesting", problem_mark=mark)
        try:
            return super().compose_node(parent, index)  # type: ignore[arg-type,no-any-return]
        finally:
            self.depth -= 1


class YamlLoader(BoundedComposer, yaml.SafeLoader):
    """YAML loader that reads plain scalars as YAML 1.2 does."""


def libyaml_loader(text: str) -> BoundedComposer:
    """Makes a loader that reads a text by libyaml: seven times as fast, with less to say of what is wrong.

    Args:
        text: one document.

    Returns:
        The loader; its nodes have no text around them.
    """
    return _LibyamlLoader(text) if yaml.__with_libyaml__ else YamlLoader(text)


class YamlDumper(yaml.SafeDumper):
    """YAML dumper whose text YAML 1.1 and 1.2 read alike: what either takes for a number is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes equal values out instead of referring to the first.

        Args:
            data: a value.

        Returns:
            True.
        """
        return True


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] == "null"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern, _first in SCALARS:
    for _kind in (YamlLoader, YamlDumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), list(_first))


if yaml.__with_libyaml__:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]

    class _LibyamlLoader(BoundedComposer, CParser, yaml.resolver.Resolver):
        yaml_implicit_resolvers = YamlLoader.yaml_implicit_resolvers

        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            BoundedComposer.__init__(self)
            yaml.resolver.Resolver.__init__(self)


Report = Callable[[int, str], None]
"""Called with the line (from 1) and the message of a fault that does not keep the rest from being read."""


def read_yaml(text: str, report: Report, places: dict[KeyPath, int] | None = None) -> Any:
    """Reads a YAML document, and reports all that is wrong with its values.

    Args:
        text: one document.
        report: is told each fault.
        places: gets the line (from 1) of every key and value.

    Returns:
        Plain values: dicts with strings as keys, lists, strings, numbers, booleans and None; without those at fault.
    """
    if len(text) > MAX_CHARACTERS:
        report(1, f"{len(text):,} characters; at most {MAX_CHARACTERS:,} are read, is this the right file?")
        return None
    try:
        try:
            root = _root(libyaml_loader(text))
        except (yaml.YAMLError, UnicodeError) as error:
            if len(text) > MAX_READ_TWICE and isinstance(error, yaml.YAMLError):
                raise
            root = _root(YamlLoader(text))  # says more of what is wrong
        return _Builder(report, {} if places is None else places).build(root, ()) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        report(mark.line + 1 if mark is not None else 1, f"not valid YAML ({error.problem}); mend that line")
    except yaml.reader.ReaderError as error:
        report(text.count("\n", 0, error.position) + 1, f"character {error.character:#x} is not allowed in YAML")
    except _TooLargeError as error:
        report(error.line, f"aliases make more than {MAX_VALUES:,} values of it; write out what is meant")
    return None


def _root(loader: BoundedComposer) -> yaml.Node | None:
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()  # type: ignore[attr-defined]


class _TooLargeError(Exception):
    """Too many values.

    Args:
        line: where, from 1.
    """

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


class _Builder:
    """Makes plain values of YAML nodes.

    Args:
        report: is told each fault.
        places: gets the line of every key and value.
    """

    def __init__(self, report: Report, places: dict[KeyPath, int]) -> None:
        self.report = report
        self.places = places
        self.count = 0
        self.open: list[yaml.Node] = []

    def build(self, node: yaml.Node, keys: KeyPath) -> Any:
        """The value of a node; None where it is at fault."""
        line = node.start_mark.line + 1
        self.places[keys] = line
        self.count += 1
        if self.count > MAX_VALUES:
            raise _TooLargeError(line)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line)
        if any(outer is node for outer in self.open):
            self.report(line, "an alias stands inside its own anchor; write out what is meant")
            return None
        self.open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, keys)
            return [self.build(child, (*keys, i)) for i, child in enumerate(node.value)]
        finally:
            self.open.pop()

    def _mapping(self, node: yaml.MappingNode, keys: KeyPath) -> dict[str, Any]:
        """A dict; keys that are given twice or are no words are reported."""
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or CONTROL.search(key_node.value):
                self.report(line, "a key must be one plain word")
                continue
            key = str(key_node.value)
            if key == "<<" and not key_node.style:
                self.report(line, "merge keys (<<) are not read; put what is shared into a file and name it as extends")
            elif key in result:
                self.report(line, f"key '{key}' is given twice; keep one")
            else:
                result[key] = self.build(value_node, (*keys, key))
                self.places[(*keys, key)] = line
        return result

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Any:
        """A string, number, boolean or None."""
        name, text = node.tag.rpartition(":")[2], str(node.value)
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            self.report(line, "a NUL or half a surrogate pair cannot be part of a text")
            return None
        make = _SCALARS.get(name) if node.tag.startswith("tag:yaml.org,2002:") else None
        if make is None:
            self.report(line, f"tag '{node.tag}' is not read; write the value without it")
            return None
        try:
            return make(text)
        except OverflowError:
            self.report(line, f"a whole number of {len(text)} digits is too large; at most {MAX_INTEGER:,}")
        except ValueError:
            self.report(line, f"'{text[:80]}' is no {name}; write the value without a tag")
        return None


def _integer(text: str) -> int:
    """A whole number; OverflowError where numpy and torch could not count so far."""
    digits = text.lstrip("+-").replace("_", "")
    if len(digits) > 30:
        raise OverflowError
    value = int(text) if digits.isdecimal() else int(text, 0)
    if abs(value) > MAX_INTEGER:
        raise OverflowError
    return value


def _float(text: str) -> float:
    """A number, infinity or NaN."""
    word = text.lower().lstrip("+-")
    if word in (".inf", ".nan"):
        return math.copysign(float(word[1:]), -1 if text.startswith("-") else 1)
    return float(text)


def _boolean(text: str) -> bool:
    """True or false."""
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str, "null": lambda text: None, "int": _integer, "float": _float, "bool": _boolean,
}  # fmt: skip
"""YAML's types that are read, each with what makes a value of its text."""


def parse_yaml(text: str) -> Any:
    """Parses YAML text.

    Args:
        text: one document.

    Returns:
        Plain values: dicts, lists, strings, numbers, booleans and None.

    Raises:
        ValueError: says what is wrong with the text; the first fault.
    """
    faults: list[str] = []
    value = read_yaml(text, lambda line, message: faults.append(message))
    if faults:
        raise ValueError(faults[0])
    return value


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
