"""``mnmt-ds COMMAND``: each command is a module here with HELP, add_arguments(parser) and run(args)."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mnmt_ds import __version__
from mnmt_ds.errors import UserError

COMMANDS = (
    "prepare", "validate", "plan", "preflight", "train",
    "translate", "evaluate", "compare", "study", "analyse", "export", "bench",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; a UserError is one line on stderr and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="mnmt-ds", description="Train, distil and measure multilingual translation models with DeepSpeed."
    )
    parser.add_argument("--version", action="version", version=f"mnmt-ds {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((word for word in given if not word.startswith("-")), None)
    for name in COMMANDS:
        if not (Path(__file__).parent / f"{name}.py").exists():
            continue
        module = importlib.import_module(f"mnmt_ds.cli.{name}")
        sub = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        if name == wanted:
            module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    args, rest = parser.parse_known_args(given)
    if hasattr(args, "overrides"):  # argparse takes a list of positionals only where they stand together
        args.overrides += [word for word in rest if "=" in word and not word.startswith("-")]
        rest = [word for word in rest if word not in args.overrides]
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        return int(args.run(args))
    except UserError as error:
        print(f"mnmt-ds {args.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
