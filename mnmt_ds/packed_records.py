"""Records of very many language pairs, in a tenth of the bytes: each figure's values of all pairs as one array.

A record is flat, a key a pair and figure (``valid/bs-en/loss``): 310 bytes a pair and validation, which with thousands
of pairs makes a log of gigabytes. From ``LEAST_PAIRS`` on the values of a figure stand together under ``packed``: zlib
over numbers of 32 bits (floats keep seven digits) whose bytes of equal weight are neighbours, in base 64. Reading gives
the flat record again. Perplexities are not kept: they are exp of the loss beside them.
"""

import base64
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEAST_PAIRS = 200
"""From so many pairs on a record is packed; below, any JSON reader has all figures at hand."""
PACKED = "packed"
"""Key of what is packed."""
FLOAT, INTEGER, EXP = "f", "i", "exp"
"""Kinds of a figure: 32 bits a value; exp: not kept."""
Figure = tuple[str, str]
"""What stands before and behind the pair in a key."""
PERPLEXITY_OF: dict[Figure, Figure] = {("valid", "ppl"): ("valid", "nll"), ("watch", "ppl"): ("watch", "nll")}
"""The figure that each perplexity is exp of."""


def packable(record: Mapping[str, Any]) -> tuple[list[str], dict[Figure, list[Any]]]:
    """Finds the figures that a record has of each of very many pairs.

    Args:
        record: a flat record.

    Returns:
        Names of the pairs, and values by figure, in the order of the names; nothing where there are few pairs.
    """
    names: dict[Figure, list[str]] = defaultdict(list)
    for key in record:
        segments = key.split("/")
        if len(segments) == 3 and "-" in segments[1]:
            names[segments[0], segments[2]].append(segments[1])
    pairs: list[str] = max(names.values(), key=len, default=[])
    if len(pairs) < LEAST_PAIRS:
        return [], {}
    figures = [figure for figure, of_figure in names.items() if of_figure == pairs]
    return pairs, {figure: [record[f"{figure[0]}/{pair}/{figure[1]}"] for pair in pairs] for figure in figures}


def pack(record: Mapping[str, Any]) -> dict[str, Any]:
    """Packs a record of very many pairs.

    Args:
        record: a flat record.

    Returns:
        The record as it goes into the log; the same where it has few pairs.
    """
    pairs, figures = packable(record)
    columns: list[list[str]] = []
    arrays: list[bytes] = []
    packed_figures = []
    for figure, values in figures.items():
        array_of_kind = _kind_and_array(figure, values, figures)
        if array_of_kind is None:
            continue
        kind, array = array_of_kind
        columns.append([*figure, kind])
        packed_figures.append(figure)
        arrays.append(b"" if array is None else array.view(np.uint8).reshape(-1, 4).T.tobytes())
    if not columns:
        return dict(record)
    inside = {f"{before}/{pair}/{after}" for before, after in packed_figures for pair in pairs}
    head = json.dumps({"pairs": pairs, "columns": columns}).encode()
    payload = zlib.compress(b"".join([len(head).to_bytes(4, "little"), head, *arrays]), 9)
    rest = {key: value for key, value in record.items() if key not in inside}
    return {**rest, PACKED: base64.b64encode(payload).decode()}


def unpack(record: Mapping[str, Any]) -> dict[str, Any]:
    """Expands a record of a log to the flat record.

    Args:
        record: a record of the log.

    Returns:
        The flat record; the same where nothing is packed.

    Raises:
        ValueError: where what is packed cannot be read.
    """
    if PACKED not in record:
        return dict(record)
    try:
        payload = zlib.decompress(base64.b64decode(record[PACKED], validate=True))
        end = 4 + int.from_bytes(payload[:4], "little")
        head = json.loads(payload[4:end])
        pairs, flat = head["pairs"], {key: value for key, value in record.items() if key != PACKED}
        for before, after, kind in head["columns"]:
            if kind == EXP:
                source_before, source_after = PERPLEXITY_OF[before, after]
                values = [math.exp(min(flat[f"{source_before}/{pair}/{source_after}"], 50.0)) for pair in pairs]
            else:
                planes = np.frombuffer(payload, np.uint8, 4 * len(pairs), end).reshape(4, -1)
                end += 4 * len(pairs)
                values = np.ascontiguousarray(planes.T).view("<f4" if kind == FLOAT else "<i4").ravel().tolist()
            flat |= {f"{before}/{pair}/{after}": value for pair, value in zip(pairs, values, strict=True)}
    except (KeyError, TypeError, ValueError, RecursionError, zlib.error) as error:
        raise ValueError(f"its packed figures cannot be read ({error})") from None
    return flat


def _kind_and_array(
    figure: Figure, values: Sequence[Any], figures: Mapping[Figure, Sequence[Any]]
) -> tuple[str, np.ndarray | None] | None:
    """A figure's kind and array (none where it is computed from another); None where it has to stay flat."""
    if source := figures.get(PERPLEXITY_OF.get(figure, ("", ""))):
        expected = [math.exp(min(value, 50.0)) for value in source]
        if np.allclose(values, expected, rtol=1e-6, atol=0):
            return EXP, None
    kinds = {type(value) for value in values}
    if kinds == {int} and all(-(2**31) <= value < 2**31 for value in values):
        return INTEGER, np.array(values, "<i4")
    if kinds == {float} and all(abs(value) < np.finfo(np.float32).max for value in values):
        return FLOAT, np.array(values, "<f4")
    return None
