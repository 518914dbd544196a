"""``python launchers/launch.py [DEEPSPEED OPTIONS] RECIPE [--resume] [a.b=c ...]``: the deepspeed launcher, with its
hostfile checked first (deepspeed alone passes over a missing one and trains on this node only)."""

import argparse
import os
import shutil
import socket
import sys
from pathlib import Path

from mnmt_ds.engine.hostfile import read_hostfile
from mnmt_ds.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--hostfile", "-H", type=Path)
    parser.add_argument("--master_port", type=int)
    args, _ = parser.parse_known_args()
    recipe = next((n for n, word in enumerate(sys.argv) if n and word.endswith((".yaml", ".yml"))), None)
    try:
        if recipe is None:
            raise UserError("launch: no recipe; say python launchers/launch.py [DEEPSPEED OPTIONS] RECIPE.yaml")
        if args.hostfile is not None:
            hosts = read_hostfile(args.hostfile)
            print(f"{len(hosts)} node(s), {sum(hosts.values())} slot(s): {', '.join(hosts)}", file=sys.stderr)
        deepspeed = shutil.which("deepspeed")
        if deepspeed is None:
            raise UserError("launch: no deepspeed command; run launchers/environment.sh's set-up first")
    except UserError as error:
        print(f"launch: {error}", file=sys.stderr)
        return 2
    options = sys.argv[1:recipe]
    if args.master_port is None:
        options += ["--master_port", str(_free_port())]
    train = str(Path(__file__).with_name("train.py"))
    os.execv(deepspeed, [deepspeed, *options, train, *sys.argv[recipe:]])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
