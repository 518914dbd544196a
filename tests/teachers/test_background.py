"""Jobs of the background worker: their order, no gradient, and that none runs after a failure."""

import threading

import pytest
import torch

from mnmt_ds.teachers import background
from mnmt_ds.teachers.background import BackgroundWorker


def test_jobs_run_in_order_and_without_gradient():
    worker, seen, weight = BackgroundWorker(torch.device("cpu")), [], torch.ones(1, requires_grad=True)

    def job(number):
        seen.append(number)
        return weight * number

    futures = [worker.submit(lambda n=n: job(n)) for n in range(20)]
    values = [worker.result(f) for f in futures]
    assert seen == list(range(20))
    assert [v.item() for v in values] == seen and not any(v.requires_grad for v in values)


def test_on_gpus_of_several_ranks_the_caller_launches_jobs(monkeypatch):
    assert background.runs_in_caller(torch.device("cuda", 0), 2)
    assert not background.runs_in_caller(torch.device("cuda", 0), 1)
    assert not background.runs_in_caller(torch.device("cpu"), 2)
    monkeypatch.setattr(background, "runs_in_caller", lambda device, ranks: True)
    worker, threads = BackgroundWorker(torch.device("cpu"), 2), []
    future = worker.submit(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.main_thread()] and worker.result(future) is None
    failing = worker.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        worker.result(failing)
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda: threads.append(None))


def test_after_a_failure_no_job_runs():
    worker, seen, gate = BackgroundWorker(torch.device("cpu")), [], threading.Event()

    def fails():
        gate.wait()
        raise OSError("no space left")

    first = worker.submit(fails)
    queued = worker.submit(lambda: seen.append(1))
    gate.set()
    for future in (queued, first):
        with pytest.raises(OSError, match="no space left"):
            worker.result(future)
    with pytest.raises(OSError, match="no space left"):
        worker.submit(lambda: seen.append(2))
    with pytest.raises(OSError, match="no space left"):
        worker.wait_all()
    assert seen == []
