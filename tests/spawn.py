"""Runs a function on several gloo ranks, each a process of its own, joined through DeepSpeed as a job's ranks are."""

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

PATIENCE = float(os.environ.get("MNMT_DS_TEST_PATIENCE", "1"))
"""Multiplies how long is waited for ranks, on a machine that is busy with other work."""

# what each rank would import anew, about two CPU seconds, is imported once; ranks are forked from that process
mp.set_forkserver_preload(["torch", "deepspeed", "mnmt_ds.engine.training"])


def on_ranks(count: int, function: Callable[..., Any], *arguments: Any, start_method: str = "forkserver") -> list[Any]:
    """``function(*arguments)`` on every rank; its results in order of rank. A rank's failure is raised here.

    With ``start_method="spawn"`` the function may register entries before the engine is imported.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context(start_method)
    results = context.Queue()
    environment = dict(os.environ)
    ranks = [
        context.Process(target=_rank, args=(rank, count, port, environment, results, function, arguments))
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    found: dict[int, Any] = {}
    try:
        for _ in ranks:
            rank, value, failure = results.get(timeout=300 * PATIENCE)
            if failure is not None:
                raise AssertionError(f"rank {rank} failed:\n{failure}")
            found[rank] = value
        for process in ranks:
            process.join(timeout=60 * PATIENCE)
            assert process.exitcode == 0, f"a rank ended with exit code {process.exitcode}"
    finally:
        for process in ranks:
            process.kill()
    return [found[rank] for rank in range(count)]


def _rank(
    rank: int,
    count: int,
    port: int,
    environment: dict[str, str],
    results: Any,
    function: Callable[..., Any],
    arguments: Any,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    import logging

    import torch

    torch.set_num_threads(1)
    try:
        from deepspeed.utils import logger

        from mnmt_ds.distributed import job

        logger.setLevel(logging.WARNING)
        with job(timeout_minutes=3 * PATIENCE):
            value = function(*arguments)
        results.put((rank, value, None))
        results.close()
        results.join_thread()
        os._exit(0)  # as launchers/train.py leaves
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
        raise
