"""Damaged files: bytes, words and JSON values of a valid file replaced by others."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

JUNK_WORDS = (
    "null", "[]", "{}", "''", '""', "-1", "0", "1", "true", "1e999", "-1e999", ".nan", ".inf", "NaN", "9" * 40,
    "9" * 5000, "-9223372036854775809", "1.5", "09", "0x1F", "2024-13-45", "!!int abc", "!!float abc", "!!bool abc",
    "!!binary abc", "!!timestamp abc", "!!python/name:os.name x", "&a [*a]", "&a {b: *a}", "*nothing", "<<: {a: 1}",
    "? [a]\n: b",
    "[" * 200, "{a: " * 200, "- " * 200, "---\na: 1\n", "\t", "\ufeff", "\x00", "\x1b[2J", "\u2028",
    '"\\ud800"', '"\\0"', '"a\\nb"',
    "$NO_SUCH_VARIABLE/x", "~no-such-user/x", "é" * 300, "a.b.c", "name", "data", "%s", "{", "}", "[", "]", ":", ",",
    "-", "#",
)  # fmt: skip
"""What takes a word's place in a text file."""
JUNK_VALUES: tuple[Any, ...] = (
    None, [], {}, "", "x", -1, 0, 1, 2**70, -(2**70), 10**40, 1.5, True, False, [[]], {"a": {}}, [None], ["x"],
    {"": ""}, "x" * 3000, "../../x", "/etc", "\x00", "\ud800", "\x1b[2J", float("nan"), float("inf"), "1",
)  # fmt: skip
"""What takes a value's place in a JSON file."""


def damaged_bytes(content: bytes, draw: random.Random) -> bytes:
    """Bytes of a file flipped, cut out, doubled, moved, overwritten, or the file cut short."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        size = draw.choice((1, 1, 2, 8, 40, 1000))
        action = draw.randrange(7)
        if action == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif action == 1:
            del data[at : at + size]
        elif action == 2:
            data[at:at] = data[at : at + size]
        elif action == 3:
            data[at : at + size] = draw.randbytes(size)
        elif action == 4:
            data[at:at] = draw.choice(
                (b"\x00", b"\xff\xfe", b"\r", b"\n", b"\t", b"\xc2\x85", b"\xe2\x80\xa8", b"\xed\xa0\x80")
            )
        elif action == 5:
            del data[at:]
        else:
            data[at:at] = draw.choice((b"\x00", b"\xff", b"a", b"\n", b"[", b"{")) * draw.choice((1, 100, 20_000))
    return bytes(data)


def damaged_words(content: bytes, draw: random.Random) -> bytes:
    """Words of a text file replaced, doubled, left out, or lines moved."""
    words = re.findall(r"[^\s,:\[\]{}]+|\s+|.", content.decode("utf-8", "replace"))
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(words)) if words else 0
        action = draw.randrange(4)
        if action < 2:
            words[at : at + 1] = [draw.choice(JUNK_WORDS)]
        elif action == 2:
            words[at:at] = draw.sample(words, min(len(words), 3))
        else:
            del words[at : at + draw.choice((1, 1, 5))]
    return "".join(words).encode("utf-8", "surrogatepass")


def damaged_json(content: bytes, draw: random.Random) -> bytes:
    """Values of a JSON file replaced, taken away, renamed or moved; the file stays JSON, but for NaN."""
    value = json.loads(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        value = _damaged(value, draw, draw.choice((0, 1, 1, 2, 3, 4)))
    return json.dumps(value).encode()


def _damaged(value: Any, draw: random.Random, depth: int) -> Any:
    inside = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if depth == 0 or not inside:
        return draw.choice(JUNK_VALUES)
    key = draw.choice(inside)
    copy = value.copy()
    if depth > 1:
        copy[key] = _damaged(copy[key], draw, depth - 1)
        return copy
    action = draw.randrange(4)
    if action == 0:
        del copy[key]
    elif action == 1 and isinstance(copy, dict):
        copy[draw.choice(("x", "", "bs-en", "\x00", "../x", str(key) * 2))] = copy.pop(key)
    else:
        copy[key] = draw.choice(JUNK_VALUES)
    return copy


Damage = Callable[[bytes, random.Random], bytes]
TEXT: tuple[Damage, ...] = (damaged_words, damaged_words, damaged_bytes)
JSON: tuple[Damage, ...] = (damaged_json, damaged_json, damaged_json, damaged_words, damaged_bytes)
BINARY: tuple[Damage, ...] = (damaged_bytes,)


def damaged_lines(content: bytes, draw: random.Random) -> bytes:
    """One line of a JSONL file damaged as JSON."""
    lines = content.split(b"\n")
    at = draw.randrange(max(1, len(lines) - 1))
    lines[at] = damaged_json(lines[at] or b"{}", draw)
    return b"\n".join(lines)


JSONL: tuple[Damage, ...] = (damaged_lines, damaged_lines, damaged_lines, damaged_words, damaged_bytes)
