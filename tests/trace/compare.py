"""Differences between two traces."""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.trace.cases import Sections


def renamer(renamed: list[str]) -> Callable[[str], str]:
    """How metric keys of the old file are called in the new one.

    Args:
        renamed: OLD=NEW for each; one ``*`` in both stands for any text without a slash.

    Returns:
        A function from an old key to the new one; keys that are not named stay.
    """
    patterns = []
    for word in renamed:
        old, new = word.split("=")
        patterns.append((re.compile(re.escape(old).replace(r"\*", "([^/]*)")), new.replace("*", r"\1")))

    def rename(key: str) -> str:
        for pattern, new in patterns:
            if match := pattern.fullmatch(key):
                return match.expand(new)
        return key

    return rename


def differences(old: Sections, new: Sections, rename: Callable[[str], str]) -> Iterator[tuple[str, float]]:
    """What differs between two traces of one training.

    Args:
        old: the earlier one.
        new: the later one.
        rename: from an old metric key to the new one.

    Yields:
        A line for people and a relative difference (infinite where there is none to take).
    """
    for what, before, after in (
        ("metric key", {rename(key) for key in old["keys"]}, set(new["keys"])),
        ("metrics file", set(old["records"]), set(new["records"])),
        ("model", set(old["models"]), set(new["models"])),
    ):
        yield from ((f"{what} {key} is gone", math.inf) for key in sorted(before - after))
        yield from ((f"{what} {key} is new", math.inf) for key in sorted(after - before))
    for file in old["records"].keys() & new["records"].keys():
        before, after = old["records"][file], new["records"][file]
        if len(before) != len(after):
            yield f"{file} has {len(after)} records, had {len(before)}", math.inf
        for ours, theirs in zip(before, after, strict=False):
            ours = {rename(key): value for key, value in ours.items()}
            for key in sorted(ours.keys() | theirs.keys()):
                a, b = ours.get(key), theirs.get(key)
                if repr(a) != repr(b):  # 0.1 is not 0.10000000000000002, and nan is nan
                    place = f"{file} update {theirs.get('update')}, {theirs.get('kind')}"
                    yield f"{place}, {key}: {a!r} -> {b!r}", relative_difference(a, b)
    for file in old["texts"]:
        if old["texts"][file] != new["texts"].get(file):
            yield f"{file}: other translations", math.inf
    for name in old["models"].keys() & new["models"].keys():
        before, after = old["models"][name], new["models"][name]
        changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
        if changed:
            yield f"{name}: {len(changed)} of {len(before)} tensors differ, such as {changed[0]}", math.inf


def relative_difference(a: object, b: object) -> float:
    """How far apart two values are, measured by the larger one.

    Args:
        a: a value.
        b: another one.

    Returns:
        |a - b| / max(|a|, |b|); infinite where one is no number.
    """
    if not isinstance(a, int | float) or not isinstance(b, int | float):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0


def compare(old_path: Path, new_path: Path, renamed: list[str], only: list[str], most: int = 6) -> int:
    """Prints how two traces differ.

    Args:
        old_path: the earlier trace.
        new_path: the later one.
        renamed: OLD=NEW for each metric key that has another name in the later one.
        only: trainings to compare; empty: all of the earlier trace.
        most: lines shown of a training.

    Returns:
        How many trainings differ or are missing.
    """
    old, new = (json.loads(path.read_text(encoding="utf-8"))["runs"] for path in (old_path, new_path))
    bad, values, rename = 0, 0, renamer(renamed)
    for name, before in old.items():
        if only and name not in only:
            continue
        if name not in new:
            bad += 1
            print(f"{name}: missing")
            continue
        found = list(differences(before, new[name], rename))
        values += sum(len(record) for records in before["records"].values() for record in records)
        if found:
            bad += 1
            finite = [relative for _, relative in found if math.isfinite(relative)]
            print(f"{name}: {len(found)} differences, largest relative one {max(finite, default=0.0):.2e}")
            print("\n".join(f"  {line} ({relative:.2e})" for line, relative in found[:most]))
        moved = set(before["files"]) ^ set(new[name]["files"])
        if moved:
            print(f"{name}: note: other files: {', '.join(sorted(moved)[:most])}")
    print(
        f"{bad} trainings differ; {len(only or old) - bad} are the same bit for bit ({values} logged values compared)"
    )
    return bad
