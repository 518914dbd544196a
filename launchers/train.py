"""For launchers: ``deepspeed launchers/train.py RECIPE [--resume] [a.b=c ...]``; the same as ``mnmt-ds train``."""

import os
import sys

from mnmt_ds.cli.main import main

if __name__ == "__main__":
    code = main(["train", *sys.argv[1:]])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is written: gloo's threads now and then abort a process that tidies up after success
