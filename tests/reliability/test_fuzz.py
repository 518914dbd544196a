"""Damaged files of every kind that a command reads: each is read, or refused by a UserError of one line a fault."""

import random
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnmt_ds.errors import UserError
from tests.reliability.targets import Target, targets

SECONDS = 5.0
"""Longest time that any damaged file may take."""
SLOW_EXAMPLES = 400
"""Damaged files of each kind in the slow form, for each of a target's everyday ones."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> dict[str, Target]:
    return targets(tmp_path_factory.mktemp("fuzz") / "files", tiny_corpus)


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
        raise AssertionError(f"{target.path.name}: {content[:2000]!r}\n{traceback.format_exc()}") from None
    finally:
        target.path.write_bytes(whole)
        assert time.process_time() - begin < SECONDS, f"too slow: {target.path.name}: {content[:2000]!r}"


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
        for number in range(target.weight):
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
