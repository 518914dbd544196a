"""YAML read by libyaml is YAML read in Python: the same values, places and faults."""

from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mnmt_ds.config import yaml_values
from mnmt_ds.config.yaml_values import KeyPath, read_yaml

PIECES = [
    *(
        "a",
        "b",
        "- ",
        "  ",
        "\n",
        ": ",
        ":",
        "[",
        "]",
        "{",
        "}",
        ", ",
        '"',
        "'",
        "#",
        " #",
        "&x ",
        "*x",
        "!!int ",
        "|\n",
        ">\n",
    ),
    *("?", "? ", "---\n", "...\n", "%", "\t", "1", ".5", "no", "~", "é", "\\", "\\u00e9", "\r\n", "\x85", "-", "<<"),
]


def read(text: str) -> tuple[Any, list[tuple[int, str]], dict[KeyPath, int]]:
    faults: list[tuple[int, str]] = []
    places: dict[KeyPath, int] = {}
    values = read_yaml(text, lambda line, fault: faults.append((line, fault)), places)
    places.pop((), None)  # where an empty document begins
    return values, faults, places


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
@example("data:\n  pairs: [bs-en, no-en]\n  clean: {min_script: 1e-1}\n")
@example("a: [1, 2")
@example("a: \ud800")
def test_both_parsers_read_the_same(text: str) -> None:
    """libyaml also takes tabs where YAML 1.2 allows them and PyYAML does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_values, "libyaml_loader", yaml_values.YamlLoader)
        slow = read(text)
    fast = read(text)
    assert fast == slow or (slow[1] and "\t" in text)


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="this PyYAML was built without libyaml")
def test_libyaml_reads() -> None:
    assert not isinstance(yaml_values.libyaml_loader("a: 1"), yaml_values.YamlLoader)


def test_thousands_of_pairs_with_files_of_their_own_are_read() -> None:
    entries = "".join(
        f"    l{i}-en:\n" + "".join(f"      {split}: [{{format: moses, source: /c/l{i}.src, target: /c/l{i}.en}}]\n"
                                     for split in ("train", "dev", "test"))
        for i in range(9_900)
    )  # fmt: skip
    values, faults, places = read("data:\n  corpora:\n" + entries)
    assert not faults and len(values["data"]["corpora"]) == 9_900
    assert places["data", "corpora", "l9899-en"] == 2 + 9_899 * 4 + 1
