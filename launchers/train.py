"""For launchers: ``deepspeed launchers/train.py RECIPE [--resume] [a.b=c ...]``; the same as ``mnmt-ds train``."""

import sys

from mnmt_ds.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
