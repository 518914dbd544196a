"""A list of faults found on one rank, or by one student, is the same list on the others."""

import pickle
from typing import Any

import pytest

from mnmt_ds.distributed import RankGroup
from mnmt_ds.engine.students.peer_group import decode_failure, encode_failure
from mnmt_ds.errors import RunError, UserError

TWO = UserError("a.json:1: no key \n", "b.yaml:2: C:\\new is no directory")


class Ranks(RankGroup):
    """The main rank of two: what it sends goes through a pickle, and is kept."""

    sent: bytes = b""

    def broadcast_from_main(self, value: Any) -> Any:
        object.__setattr__(self, "sent", pickle.dumps(value))
        return pickle.loads(self.sent)


class Other(RankGroup):
    """The other one, which hears of it."""

    def __init__(self, sent: bytes) -> None:
        super().__init__(1, 2)
        object.__setattr__(self, "sent", sent)

    def broadcast_from_main(self, value: Any) -> Any:
        return pickle.loads(self.sent)  # type: ignore[attr-defined]


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "faults"),
    [(TWO, TWO.faults), (OSError(7, "odd", "x"), None), (OSError(28, "full", "log.txt"), 1)],
)
def test_the_main_ranks_faults_are_those_of_all(error: Exception, faults: Any) -> None:
    main, seen = Ranks(0, 2), []
    for ranks in (lambda: main, lambda: Other(main.sent)):
        with pytest.raises((UserError, RuntimeError)) as caught:
            ranks().on_main_first(fail, error)
        seen.append(caught.value)
    assert type(seen[0]) is type(seen[1]) and str(seen[0]) == str(seen[1])
    if faults is None:
        assert isinstance(seen[1], RuntimeError)
    elif faults == 1:
        assert isinstance(seen[1], UserError) and len(seen[1].faults) == 1
    else:
        assert isinstance(seen[1], UserError) and seen[1].faults == faults


def test_a_students_faults_reach_the_others_one_by_one() -> None:
    found = decode_failure(encode_failure(TWO), "student model_2 failed", True)
    assert isinstance(found, UserError)
    assert found.faults == tuple(f"student model_2 failed: {fault}" for fault in TWO.faults)
    other = decode_failure(encode_failure(ValueError("two\nlines")), "student model_1 failed", False)
    assert isinstance(other, RunError) and not other.is_shown and str(other) == "student model_1 failed: two lines"
