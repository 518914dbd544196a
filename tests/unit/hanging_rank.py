"""A rank of a small job under the detection of hung ranks; at its third round some of them hang as they are told.

``python hanging_rank.py RANK RANKS PORT DIRECTORY HANGING HOW SECONDS``
"""

import datetime
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

HOW = {
    "sleeps": lambda: time.sleep(3600),
    "stops": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "blocks": lambda: sum(range(10**13)),  # in one step of the interpreter: no other thread runs
}


def main() -> None:
    """Four updates of three micro-batches, each with a sum over all ranks."""
    rank, ranks, port, directory, hanging, how, seconds = sys.argv[1:]
    os.environ.update(RANK=rank, WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from mnmt_ds.distributed import job_ranks
    from mnmt_ds.hung_ranks import hang_detection
    from mnmt_ds.log import set_up
    from mnmt_ds.training_position import moved, update_under_way

    set_up()
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    with hang_detection(Path(directory), float(seconds) / 60):
        for update in range(1, 5):
            with update_under_way(update):
                for micro_batch in range(3):
                    moved(micro_batch)
                    time.sleep(0.1)
                    if (update, micro_batch) == (3, 1) and rank in hanging.split(","):
                        HOW[how]()
                    job_ranks().sum(torch.ones(1))
        dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
