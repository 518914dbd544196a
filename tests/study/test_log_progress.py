"""A study's look at a run's log reads only what is new."""

import json
from pathlib import Path

from mnmt_ds.study.log_progress import LogProgress, read_progress


def lines(*records: dict[str, object]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_each_look_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    assert read_progress(log) is None
    first = lines({"kind": "run", "epoch": 0.0}, {"kind": "valid", "epoch": 1.5, "valid/avg/macro": 4.0})
    log.write_text(first + '{"kind": "valid", "epo')
    progress = read_progress(log)
    assert progress == LogProgress(log.stat().st_ino, len(first), 1.5, 4.0)
    with log.open("r+") as file:
        file.write("x" * len(first))  # what was read is not looked at again
        file.seek(len(first))
        file.write(lines({"epoch": 2.0, "valid/avg/macro": 4.5}) + "no record\n" + lines({"epoch": 2.5}))
    progress = read_progress(log, progress)
    assert progress is not None and progress[1:] == (log.stat().st_size, 2.5, 4.0)
    assert read_progress(log, progress) == progress


def test_a_replaced_log_is_read_anew(tmp_path: Path) -> None:
    log, other = tmp_path / "metrics.jsonl", tmp_path / "other"
    log.write_text(lines({"epoch": 9.0, "valid/avg/macro": 1.0}))
    before = read_progress(log)
    other.write_text(lines({"epoch": 3.0}, {"epoch": 4.0, "valid/avg/macro": 2.0}))
    other.replace(log)
    progress = read_progress(log, before)
    assert progress is not None and (progress.epoch, progress.best_dev) == (4.0, 2.0)
