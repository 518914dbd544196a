"""A run that ended and goes on with a larger budget: what it undoes of its end is said."""

import logging
from pathlib import Path

from tests.spawn import on_ranks
from tests.tiny import recipe


def extended(corpus: str, folder: str) -> list[str]:
    """What a run says that ends between two validations, and goes on."""
    from mnmt_ds.engine import loop

    said: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logging.getLogger("mnmt_ds").addHandler(Kept())
    for steps in (3, 4):
        values = recipe(Path(corpus), Path(folder), train={"max_steps": steps}, validation={"every": 2})
        loop.train(values, resume=steps > 3)
    return [line for line in said if "is undone" in line]


def test_a_validation_that_an_extended_run_undoes_is_named(tiny_corpus: Path, tmp_path: Path) -> None:
    (lines,) = on_ranks(1, extended, str(tiny_corpus), str(tmp_path / "run"))
    assert len(lines) == 1 and "the validation at update 3, made only because the run ended" in lines[0]
