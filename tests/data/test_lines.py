"""Lines are split on \\n bytes and nothing else, in every kind of file; what is cut short is said."""

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mnmt_ds.data.cleaning_rules import CleaningRules, RowBlock, clean_block
from mnmt_ds.data.readers import moses
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import KINDS, read_lines
from mnmt_ds.data.readers.registry import READERS
from mnmt_ds.data.readers.sources import block_rows
from mnmt_ds.data.settings import CleanSettings
from mnmt_ds.errors import UserError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
TEXT = b"one\r\n\ntwo\rtwo\x0b\x0c\x85\xe2\x80\xa8\xe2\x80\xa9 \xff\x00\nlast"


@pytest.mark.parametrize("suffix", PACK)
def test_lines_of_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(PACK[suffix](TEXT))
    assert list(read_lines(str(path), 100)) == [b"one\r", b"", TEXT.split(b"\n")[2], b"last"]
    path.write_bytes(PACK[suffix](TEXT + b"\n"))
    assert len(list(read_lines(str(path), 100))) == 4
    path.write_bytes(PACK[suffix](b""))
    assert list(read_lines(str(path), 100)) == []


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_files_of_several_members(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(PACK[suffix](b"a\nb") + PACK[suffix](b"c\nd\n"))
    assert list(read_lines(str(path), 100)) == [b"a", b"bc", b"d"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_cut_file_is_an_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    whole = PACK[suffix](b"".join(f"{i * 7919 % 10007} line\n".encode() for i in range(20000)))
    for size in (len(whole) - 1, len(whole) // 2, 9):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError) as error:
            list(read_lines(str(path), 100))
        assert str(error.value).startswith(f"{path}:")
        assert "cut short" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_file_that_is_not_compressed_at_all(tmp_path: Path) -> None:
    for suffix in (".gz", ".bz2", ".xz", ".zst"):
        path = tmp_path / f"text{suffix}"
        path.write_bytes(b"plain text\n")
        with pytest.raises(UserError, match="damaged"):
            list(read_lines(str(path), 100))


def test_long_lines_are_marked_and_do_not_shift_the_others(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"a\n" + b"x" * 10_000_000 + b"\nb\n" + b"y" * 101 + b"\n" + b"z" * 100 + b"\n" + b"w" * 500)
    assert list(read_lines(str(path), 100)) == [b"a", None, b"b", None, b"z" * 100, None]


@given(limit=st.integers(1, 12), data=st.lists(st.binary(max_size=12), max_size=30))
def test_any_bytes_any_limit(tmp_path_factory: pytest.TempPathFactory, limit: int, data: list[bytes]) -> None:
    magics = [*KINDS, b"PK\x05\x06"]  # the last: an empty zip archive
    assume(not any(b"\n".join(data).startswith(magic) for magic in magics))
    path = tmp_path_factory.mktemp("lines") / "text"
    joined = b"\n".join(data)
    path.write_bytes(joined)
    expected = joined.split(b"\n")
    expected = expected[:-1] if expected[-1] == b"" else expected
    assert list(read_lines(str(path), limit)) == [line if len(line) <= limit else None for line in expected]


def test_line_counts_that_differ_name_both_files_and_counts(tmp_path: Path) -> None:
    short, long = tmp_path / "a.fr", tmp_path / "a.en"
    short.write_text("a\nb\n")
    long.write_text("a\nb\nc\nd")
    for pair in ((short, long), (long, short)):
        with pytest.raises(UserError) as error:
            list(moses.read(ReadRequest(paths=(str(pair[0]), str(pair[1])))))
        assert str(error.value).startswith(f"{short}:3: has 2 lines, but {long} has 4;")


def test_blocks_end_at_so_many_rows_or_bytes() -> None:
    def rows(sizes: list[int], fault: bool = False) -> Iterator[Row]:
        for number, size in enumerate(sizes, 1):
            yield number, b"x" * size, None, None
        if fault:
            raise UserError("a:4: bad")

    assert [len(block) for block in block_rows(rows([1] * 7), max_rows=3)] == [3, 3, 1]
    assert [len(block) for block in block_rows(rows([4, 4, 9, 1, 1]), max_rows=9, max_bytes=8)] == [3, 2]
    blocks = block_rows(rows([1] * 4, fault=True), max_rows=3)
    assert [len(next(blocks)), len(next(blocks))] == [3, 1]
    with pytest.raises(UserError, match="bad"):
        next(blocks)


NASTY = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [
            b"\r",
            b"\x0b",
            b"\x0c",
            b"\xc2\x85",
            b"\xe2\x80\xa8",
            b"\xe2\x80\xa9",
            b"\xef\xbb\xbf",
            b"\x00",
            b"",
            b" ",
            b"\x1c",
        ]
    ),
).map(lambda data: data.replace(b"\n", b""))


@settings(max_examples=300)
@given(noise=st.lists(st.tuples(NASTY, NASTY), max_size=25))
def test_whatever_the_noise_sentences_stay_with_their_translations(
    tmp_path_factory: pytest.TempPathFactory, noise: list[tuple[bytes, bytes]]
) -> None:
    """Line i holds the number i on both sides between noise of its own: kept rows must agree on their number."""
    assume(not any(side.startswith(magic) for row in noise[:1] for side in row for magic in KINDS))
    root = tmp_path_factory.mktemp("fuzz")
    source, target = root / "a.fr", root / "a.en"
    source.write_bytes(b"".join(b"%s N%dN mot %s\n" % (a, i, a) for i, (a, _) in enumerate(noise)))
    target.write_bytes(b"".join(b"N%dN word %s\n" % (i, b) for i, (_, b) in enumerate(noise)))
    rows = list(moses.read(ReadRequest(paths=(str(source), str(target)), max_line_bytes=1000)))
    assert len(rows) == len(noise)
    rules = CleaningRules("fr", "en", 1, CleanSettings(bad_lines="drop", min_script=0, max_ratio=100), 1)
    kept = clean_block(RowBlock((str(source), str(target)), 0, False, rows), rules)
    sources, targets = kept.source.decode().split("\n")[:-1], kept.target.decode().split("\n")[:-1]
    assert len(sources) == len(targets) == len(kept.key) == len(kept.pair)
    assert kept.counts["read"] == len(noise)
    for a, b in zip(sources, targets, strict=True):
        assert b.split(" ")[0] in a.split(" ")
        assert a.split() == a.split(" ")  # no separator of any kind is left inside
    drop_rules = (
        "bad line",
        "empty",
        "copied",
        "placeholders",
        "ratio",
        "words",
        "characters",
        "no letters",
        "script",
    )
    assert len(sources) + sum(kept.counts[rule] for rule in drop_rules) == len(noise)


def test_a_long_fuzz(tmp_path: Path) -> None:
    """Random bytes around numbered lines, read in blocks as ``prepare`` does; MNMT_DS_FUZZ_LINES makes it longer."""
    count = int(os.environ.get("MNMT_DS_FUZZ_LINES", "20000"))
    draw = random.Random(count)
    alphabet = [bytes([i]) for i in range(256) if i != 10] + [
        c.encode() for c in "\x85\u2028\u2029\ufeff\u200b\u00a0é語🙂"
    ]
    source, target = tmp_path / "a.fr", tmp_path / "a.en"
    with source.open("wb") as first, target.open("wb") as second:
        for i in range(count):
            noise = [b"".join(draw.choices(alphabet, k=draw.randrange(4))) if i % 3 else b"" for _ in range(2)]
            first.write(b"%s N%dN mot\n" % (noise[0], i))
            second.write(b"N%dN word %s\n" % (i, noise[1]))
    rules = CleaningRules("fr", "en", 1, CleanSettings(bad_lines="drop", min_script=0, max_ratio=100), 1)
    kept = 0
    for block in block_rows(moses.read(ReadRequest(paths=(str(source), str(target)), max_line_bytes=1000))):
        cleaned = clean_block(RowBlock((str(source), str(target)), 0, False, block), rules)
        sides = [text.decode().split("\n")[:-1] for text in (cleaned.source, cleaned.target)]
        assert len(sides[0]) == len(sides[1]) == len(cleaned.key)
        for a, b in zip(*sides, strict=True):
            assert b.split(" ")[0] in a.split(" ")
            assert len(a.splitlines()) == len(b.splitlines()) == 1
        kept += len(cleaned.key)
    assert count // 3 < kept < count


def zipped(text: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.tsv", text)
    return content.getvalue()


XCES = (
    b'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE cesAlign PUBLIC "-//CES//DTD XML cesAlign//EN" "">\n<cesAlign/>'
)


def tarred(text: bytes) -> bytes:
    content, info = io.BytesIO(), tarfile.TarInfo("a.tsv")
    info.size = len(text)
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(info, io.BytesIO(text))
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("a.tsv", lambda text: zipped(text)[:-30], "this is a damaged zip archive; copy or make it again"),
        ("a.tsv", bz2.compress, "this is bzip2; let its name end in .bz2"),
        ("a.tar.bz2", lambda text: bz2.compress(tarred(text)), "this is a tar archive; unpack it"),
        ("a.xml", lambda text: XCES, "this is an XCES alignment, which holds no text; take the same corpus in Moses"),
        ("a.xml.gz", lambda text: gzip.compress(XCES), "this is an XCES alignment, which holds no text"),
        ("a.tsv", gzip.compress, "this is gzip; let its name end in .gz"),
        ("a.tsv.gz", lzma.compress, "this is xz; let its name end in .xz"),
        ("a.tar", tarred, "this is a tar archive; unpack it"),
        ("a.tar.gz", lambda text: gzip.compress(tarred(text)), "this is a tar archive; unpack it"),
        ("a.tar.xz", lambda text: lzma.compress(tarred(text)), "this is a tar archive; unpack it"),
        ("a.tsv", lambda text: text.decode().encode("utf-16"), "this is UTF-16; convert it to UTF-8"),
    ],
)
def test_an_archive_is_called_one(tmp_path: Path, name: str, make: Callable[[bytes], bytes], expected: str) -> None:
    (tmp_path / name).write_bytes(make(b"un chat\ta cat\n" * 50))
    for reader in ("tsv", "tmx"):
        with pytest.raises(UserError) as caught:
            list(READERS[reader].read(ReadRequest(pair="fr-en", paths=(str(tmp_path / name),), max_line_bytes=1000)))
        assert str(caught.value).startswith(f"{tmp_path / name}: {expected}")


def test_words_that_begin_as_archives_do_are_text(tmp_path: Path) -> None:
    for word in (b"PK", b"BZh", b"Rar!", b"7z", b"PAR1"):
        (tmp_path / "a").write_bytes(word + b" un\ta\n")
        assert [line for line in read_lines(str(tmp_path / "a"), 100)] == [word + b" un\ta"]
