"""Damaged files of every kind that a command reads: each is read, or refused by a UserError of one line a fault."""

import random
import re
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnmt_ds.data.cleaning_rules import CleaningRules, RowBlock, clean_block
from mnmt_ds.data.readers.corpus_part import ReadRequest
from mnmt_ds.data.readers.registry import READERS
from mnmt_ds.data.readers.sources import block_rows
from mnmt_ds.data.settings import CleanSettings
from mnmt_ds.errors import UserError
from tests.reliability.targets import Target, targets

SECONDS = 5.0
"""Longest time that any damaged file may take."""
SLOW_EXAMPLES = 100
"""Damaged files of each kind in the slow form, for each of a target's everyday ones."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> dict[str, Target]:
    return targets(tmp_path_factory.mktemp("fuzz"), tiny_corpus)


def outcome(target: Target, content: bytes) -> str:
    """Reads a target with other content: "read", or "refused"; an AssertionError with all that is known else."""
    whole = target.path.read_bytes()
    target.path.write_bytes(content)
    begin = time.process_time()
    try:
        target.read()
        return "read"
    except UserError as error:
        assert error.faults and all(fault and fault.splitlines() == [fault] for fault in error.faults), error.faults
        return "refused"
    except Exception:
        raise AssertionError(f"{target.path.name}: {content[:300]!r}\n{traceback.format_exc()}") from None
    finally:
        target.path.write_bytes(whole)
        assert time.process_time() - begin < SECONDS, f"too slow: {target.path.name}: {content[:300]!r}"


def damaged(target: Target, seed: int) -> bytes:
    draw = random.Random(seed)
    return draw.choice(target.damages)(target.path.read_bytes(), draw)


def test_every_target_is_read_whole(known: dict[str, Target]) -> None:
    for name, target in known.items():
        assert outcome(target, target.path.read_bytes()) == "read", name


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(seed=st.integers(0, 2**63 - 1))
def test_damaged_files(known: dict[str, Target], seed: int) -> None:
    """A few of every kind; hypothesis chooses the seed, and shrinks nothing that matters."""
    for target in known.values():
        for number in range(max(1, target.weight // 4)):
            outcome(target, damaged(target, seed + number))


@pytest.mark.slow
def test_many_damaged_files(known: dict[str, Target]) -> None:
    counts: dict[str, Counter[str]] = {}
    for name, target in known.items():
        seeds = range(target.weight * SLOW_EXAMPLES)
        counts[name] = Counter(outcome(target, damaged(target, seed)) for seed in seeds)
    for name, count in counts.items():
        print(f"{name:32} read {count['read']:6,} refused {count['refused']:6,}")
    total = sum(sum(count.values()) for count in counts.values())
    print(f"{total:,} damaged files of {len(counts)} kinds")


LINES = {"moses": 600_000, "tsv": 300_000, "ted": 200_000}
"""Lines of the slow form, by format."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), LINES.items())
def test_no_line_is_misaligned(tmp_path: Path, name: str, count: int) -> None:
    """Random bytes around numbered lines: whatever is kept has the number of its line on both sides."""
    rows = fuzzed_rows(count, tabs=name == "moses")
    path, other = tmp_path / "a.fr", tmp_path / "a.en"
    if name == "moses":
        with path.open("wb") as first, other.open("wb") as second:
            for source, target in rows:
                first.write(source + b"\n")
                second.write(target + b"\n")
        request = ReadRequest(paths=(str(path), str(other)), max_line_bytes=1000)
    else:
        with path.open("wb") as file:
            file.write(b"fr\ten\n" if name == "ted" else b"")
            for source, target in rows:
                file.write(source + b"\t" + target + b"\n")
        request = ReadRequest(pair="fr-en", paths=(str(path),), max_line_bytes=1000)
    rules = CleaningRules("fr", "en", 1, CleanSettings(bad_lines="drop", min_script=0, max_ratio=100), 1)
    read = kept = 0
    for block in block_rows(READERS[name].read(request)):
        cleaned = clean_block(RowBlock((str(path), str(other)), 0, False, block), rules)
        sides = [text.decode().split("\n")[:-1] for text in (cleaned.source, cleaned.target)]
        assert len(sides[0]) == len(sides[1]) == len(cleaned.key)
        for a, b in zip(*sides, strict=True):
            assert re.findall(r"N\d+N", a)[:1] == re.findall(r"N\d+N", b)[:1] != []
        read, kept = read + len(block), kept + len(sides[0])
    print(f"{name}: {read:,} fuzzed lines read, {kept:,} kept, none misaligned")
    assert read == count and count // 4 < kept < count


def fuzzed_rows(count: int, tabs: bool) -> Iterator[tuple[bytes, bytes]]:
    """Pairs of lines with random bytes before and behind the line's number."""
    draw = random.Random(count)
    bytes_of_lines = [bytes([i]) for i in range(256) if i != 10 and (tabs or i != 9)]
    alphabet = bytes_of_lines + [c.encode() for c in "\x85\u2028\u2029\ufeff\u200b\u00a0é語🙂"]
    for i in range(count):
        noise = [b"".join(draw.choices(alphabet, k=draw.randrange(4))) if i % 3 else b"" for _ in range(2)]
        yield b"%s N%dN mot" % (noise[0], i), b"N%dN word %s" % (i, noise[1])
