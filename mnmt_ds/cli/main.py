"""``mnmt-ds COMMAND``: each command is a module here with HELP, add_arguments(parser) and run(args)."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mnmt_ds import __version__, log
from mnmt_ds.errors import UserError

COMMANDS = (
    "prepare", "validate", "plan", "preflight", "train",
    "translate", "evaluate", "compare", "study", "analyse", "export", "bench",
)  # fmt: skip


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Makes the parser of the command line.

    Args:
        command: the command whose arguments are added; None: every command's. One alone starts faster.

    Returns:
        A parser with a sub-parser a command, which sets ``run`` to the command's function.
    """
    parser = argparse.ArgumentParser(
        prog="mnmt-ds", description="Train, distil and measure multilingual translation models with DeepSpeed."
    )
    parser.add_argument("--version", action="version", version=f"mnmt-ds {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"mnmt_ds.cli.{name}")
        sub = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        if command in (None, name):
            module.add_arguments(sub)
            sub.add_argument(
                "--log-level", choices=log.LEVELS, help=f"messages to show (default: {log.VARIABLE}, else info)"
            )
        sub.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: words of the command line after the program's name; None: this process's.

    Returns:
        The exit code; 2 after a UserError, which is printed as one line on standard error.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = next((word for word in words if not word.startswith("-")), "")
    parser = make_parser(command)
    try:
        args, rest = parser.parse_known_args(words)
        if rest := _take_late_words(args, rest):
            parser.error(f"unknown arguments: {' '.join(rest)}")
        log.set_up(args.log_level)
        return int(args.run(args))
    except UserError as error:
        print(f"mnmt-ds {command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _take_late_words(args: argparse.Namespace, words: list[str]) -> list[str]:
    """Adds overrides and files that stand behind options, which argparse leaves over; gives what is still left."""
    late = [word for word in words if not word.startswith("-")]
    if hasattr(args, "overrides"):
        late = [word for word in late if "=" in word]
        args.overrides += late
    elif hasattr(args, "files"):
        args.files += [Path(word) for word in late]
    else:
        return words
    return [word for word in words if word not in late]


if __name__ == "__main__":
    sys.exit(main())
