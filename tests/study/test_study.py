"""``mnmt-ds study`` on real runs: what fails is reported, what is killed goes on, and the results are the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mnmt_ds.config import dump
from mnmt_ds.errors import file_fault
from mnmt_ds.evaluation.report import read_lines, read_report
from mnmt_ds.models.weights import describe_model
from tests.small_disk import fill, small_disk
from tests.tiny import PAIRS, ROOT, recipe

ROWS = """
  plain: {launch: {ranks: 2}}
  experts: {per_pair: true, times: 2}
  taught: {set: {method: {name: multi_distill, rule: fix, experts: "{run.experts}"}}}
  lost: {set: {method: {name: multi_distill, rule: fix, experts: nowhere}}}
  lost-too: {set: {method: {name: multi_distill, rule: fix, experts: "{run.lost}"}}}
"""


def write(corpus: Path, home: Path) -> Path:
    (home / "base.yaml").write_text(dump(recipe(corpus, home / "run", train={"save_every": 5, "lr": 1e-2})))
    path = home / "study.yaml"
    path.write_text(f"directory: {home}/runs\nrecipe: base.yaml\nprepare: false\ncap: {{max_epochs: 3}}\nrows:{ROWS}")
    return path


def start(path: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mnmt_ds.cli.main", "study", str(path), "-j", "2", *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def results(home: Path) -> dict[str, object]:
    """Weights, translations and scores of all that is complete, without times."""
    found: dict[str, object] = {}
    for place in sorted({path.parent.parent for path in home.glob("runs/**/evaluation/best.test.json")}):
        name = str(place.relative_to(home))
        report = read_report(place / "evaluation" / "best.test.json")
        found[name] = (report["pairs"], read_lines(place / "evaluation" / "best.test", "hyp"))
        if (place / "last").exists():
            found[name + "/last"] = describe_model(place / "last")["sha256"]
    return found


def tables(home: Path) -> dict[str, str]:
    """The report's tables, without what the runs cost."""
    files = (home / "runs" / "report").glob("*.csv")
    return {path.name: path.read_text(encoding="utf-8") for path in files if path.stem != "cost"}


@pytest.mark.slow
def test_a_study_killed_at_random_moments_ends_with_the_same_results(tiny_corpus: Path, tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("whole", "killed")]
    for home in homes:
        home.mkdir()
    said, _ = (whole := start(write(tiny_corpus, homes[0]))).communicate(timeout=900)
    assert whole.returncode == 1, said
    assert "lost, seed 1: failed: mnmt-ds train: nowhere/best_bs-en/model.json: no model there" in said
    assert "lost-too, seed 1: not started: needs" in said
    wanted = results(homes[0])
    assert set(wanted) == {
        f"runs/{name}{end}"
        for name in ("plain-seed1", "taught-seed1", *(f"experts-seed1/pairs/{pair}" for pair in PAIRS))
        for end in ("", "/last")
    } | {"runs/experts-seed1"}

    path, draw = write(tiny_corpus, homes[1]), random.Random(os.environ.get("STUDY_SEED", time.time()))
    for kill in ("everything", "the study", "request", "everything"):
        process = start(path)
        time.sleep(draw.uniform(5, 45))
        print(kill, round(time.time()))
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        if kill == "request":
            process.terminate()
        else:
            process.kill()
        for child in children if kill == "everything" else ():
            if child.is_running():
                child.kill()
        process.communicate(timeout=300)
    said, _ = start(path).communicate(timeout=900)
    assert results(homes[1]) == wanted, said
    assert tables(homes[1]) == tables(homes[0]) and len(tables(homes[0])) > 3
    said, _ = (again := start(path, "--only", "plain", "taught")).communicate(timeout=300)
    assert again.returncode == 0 and "done in" not in said  # nothing was made twice


@pytest.mark.slow
def test_a_larger_cap_goes_on(tiny_corpus: Path, tmp_path: Path) -> None:
    path = write(tiny_corpus, tmp_path)
    for epochs in ("1", "2"):
        said, _ = start(path, "--only", "experts", "--max-epochs", epochs).communicate(timeout=900)
        assert "3/3" in said, said
    log = (tmp_path / "runs" / "experts-seed1" / "pairs" / "hi-en" / "log.txt").read_text()
    assert "resumed at update" in log and log.count("written: ") == 2
    records = [json.loads(line) for line in (path.parent / "runs/experts-seed1/pairs/hi-en/metrics.jsonl").open()]
    assert max(record["epoch"] for record in records) == 4.0


def test_only_one_study_at_a_time(tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    from mnmt_ds.cli.main import main

    path = write(tiny_corpus, tmp_path)
    (tmp_path / "runs").mkdir()
    with (tmp_path / "runs" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["study", str(path)]) == 2
    assert "another study is at work here" in capsys.readouterr().err


def test_a_full_disk_is_named_by_a_runs_log(tmp_path: Path) -> None:
    from mnmt_ds.study import scheduler

    with small_disk(tmp_path / "disk", "64k") as disk:
        (disk / "log.txt").write_text("")
        fill(disk)
        with pytest.raises(OSError) as caught, (tmp_path / "lock").open("w") as lock:
            scheduler.RunProcesses().run(["true"], disk / "log.txt", {}, lock.fileno())
    assert str(file_fault(caught.value)).startswith(f"{disk}/log.txt: no space left on the disk")


def test_signals_reach_a_run(tmp_path: Path) -> None:
    """A run that does not stop when asked is killed with all that it started."""
    from threading import Thread

    from mnmt_ds.study import scheduler

    processes, failures = scheduler.RunProcesses(), []
    code = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print('deaf', flush=True); time.sleep(99)"

    def run() -> None:
        with (tmp_path / "lock").open("w") as lock:
            try:
                processes.run([sys.executable, "-c", code], tmp_path / "log.txt", {}, lock.fileno())
            except scheduler.RunFailed as failure:
                failures.append(str(failure))

    thread = Thread(target=run)
    thread.start()
    while scheduler.last_line(tmp_path / "log.txt") != "deaf":
        time.sleep(0.05)
    before, scheduler.GRACE = scheduler.GRACE, 0.3
    try:
        processes.stop()
    finally:
        scheduler.GRACE = before
    thread.join(timeout=10)
    assert failures == [f"deaf (exit code {-signal.SIGKILL}; see {tmp_path / 'log.txt'})"]
