"""Readers take at most 1.3 times as long as their library alone does for the same texts."""

import csv
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.data.readers.corpus_part import ReadRequest
from mnmt_ds.data.readers.registry import READERS

MOST = 1.3
ROWS = 60_000
Texts = Iterator[tuple[Any, Any]]


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    draw = random.Random(1)
    words = ["house", "river", "über", "straße", "между", "горами", "'old'", "teacher,", "reads;", "fließt", "of", "a"]
    sentences = (" ".join(draw.choices(words, k=draw.randrange(5, 25))) for _ in range(2 * ROWS))
    return list(zip(sentences, sentences, strict=True))


def _json_lines(path: Path) -> Texts:
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            yield record["fr"], record["en"]


def _nested_lines(path: Path) -> Texts:
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)["translation"]
            yield record["fr"], record["en"]


def _array(path: Path) -> Texts:
    with path.open(encoding="utf-8") as file:
        for record in json.load(file):
            yield record["fr"], record["en"]


def _csv(path: Path) -> Texts:
    with path.open(newline="", encoding="utf-8") as file:
        for cells in itertools.islice(csv.reader(file), 1, None):
            yield cells[1], cells[2]


def _parquet(path: Path) -> Texts:
    from pyarrow.parquet import ParquetFile

    for batch in ParquetFile(path).iter_batches(columns=["fr", "en"]):
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def _nested_parquet(path: Path) -> Texts:
    from pyarrow.parquet import ParquetFile

    for batch in ParquetFile(path).iter_batches():
        for cell in batch.column(0).to_pylist():
            yield cell["fr"], cell["en"]


def _tmx(path: Path) -> Texts:
    from lxml import etree

    for _, unit in etree.iterparse(path, tag="tu"):
        yield tuple(variant.find("seg").text for variant in unit.iterfind("tuv"))  # type: ignore[misc]
        unit.clear()
        while unit.getprevious() is not None:
            del unit.getparent()[0]


def _write(path: Path, kind: Callable[[Path], Texts], rows: list[tuple[str, str]]) -> None:
    records = [{"fr": source, "en": target} for source, target in rows]
    if kind in (_parquet, _nested_parquet):
        import pyarrow
        from pyarrow.parquet import write_table

        columns = {name: [record[name] for record in records] for name in ("fr", "en")}
        write_table(pyarrow.table(columns if kind is _parquet else {"translation": records}), path)
    elif kind is _csv:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "fr", "en"), *((i, *row) for i, row in enumerate(rows))])
    elif kind is _tmx:
        units = "\n".join(
            f'<tu><tuv xml:lang="fr"><seg>{source}</seg></tuv><tuv xml:lang="en"><seg>{target}</seg></tuv></tu>'
            for source, target in rows
        )
        path.write_text(f'<tmx version="1.4"><header/><body>{units}</body></tmx>', encoding="utf-8")
    elif kind is _array:
        path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    else:
        nested = [{"translation": record} for record in records] if kind is _nested_lines else records
        path.write_text("".join(f"{json.dumps(record)}\n" for record in nested), encoding="utf-8")


def _seconds(texts: Callable[[], Iterator[Any]]) -> float:
    start = time.process_time()
    assert sum(1 for _ in texts()) == ROWS
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_", "alone"),
    [
        ("json", _json_lines), ("json", _nested_lines), ("json", _array), ("csv", _csv), ("parquet", _parquet),
        ("parquet", _nested_parquet), ("tmx", _tmx),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_readers_are_about_as_fast_as_their_library(
    tmp_path: Path, rows: list[tuple[str, str]], format_: str, alone: Callable[[Path], Texts]
) -> None:
    path = tmp_path / "text"
    _write(path, alone, rows)
    request = ReadRequest(pair="fr-en", paths=(str(path),))
    assert [row[1:3] for row in READERS[format_].read(request)] == list(alone(path))
    both = (lambda: READERS[format_].read(request)), (lambda: alone(path))
    ours, library = map(min, zip(*[[_seconds(texts) for texts in both] for _ in range(8)], strict=True))
    print(f"{format_} {alone.__name__}: {ours:.3f} s, the library alone {library:.3f} s, ratio {ours / library:.2f}")
    assert ours <= MOST * library
