"""``mnmt-ds COMMAND``: each command is a module here with HELP, add_arguments(parser) and run(args)."""

import argparse
import difflib
import importlib
import keyword
import os
import re
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mnmt_ds import __version__, log
from mnmt_ds.cli.examples import printed_examples
from mnmt_ds.cli.printing import printed_docstring, wrapped
from mnmt_ds.errors import RunError, UserError, file_fault
from mnmt_ds.files import errors_naming
from mnmt_ds.terminal import escaped_output

COMMANDS = (
    "prepare", "validate", "import", "plan", "preflight", "train",
    "translate", "synthesise", "evaluate", "compare", "study", "analyse", "average", "export", "bench",
)  # fmt: skip


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Makes the parser of the command line.

    Args:
        command: the command whose arguments are added; None: every command's. One alone starts faster.

    Returns:
        A parser with a sub-parser a command, which sets ``run`` to the command's function.
    """
    parser = argparse.ArgumentParser(
        prog="mnmt-ds", description="Train, distil and measure multilingual translation models with DeepSpeed.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"mnmt-ds {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = command_module(name)
        sub = commands.add_parser(
            name, help=module.HELP, description=wrapped(printed_docstring(module)), epilog=printed_examples(name),
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        if command in (None, name):
            module.add_arguments(sub)
            sub.add_argument(
                "--log-level", choices=log.LEVELS, help=f"messages to show (default: {log.VARIABLE}, else info)"
            )
        sub.set_defaults(run=module.run)
    return parser


def command_module(name: str) -> Any:
    """Imports a command's module; that of a command named as a word of Python ends in an underscore.

    Args:
        name: one of ``COMMANDS``.

    Returns:
        The module.
    """
    return importlib.import_module(f"mnmt_ds.cli.{name}{'_' * keyword.iskeyword(name)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: words of the command line after the program's name; None: this process's.

    Returns:
        The exit code; 2 after a UserError, which is a line a fault on standard error, and after a fault of a file or
        disk; 1 after a RunError, which is one line; 130 after Ctrl-C.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with escaped_output():
        return _run(list(sys.argv[1:] if arguments is None else arguments))


def _run(words: list[str]) -> int:
    """Parses the words and runs their command; the exit code."""
    command = next((word for word in words if not word.startswith("-")), "")
    parser = make_parser(command)
    if command and command not in COMMANDS:
        parser.error(f"no such command '{command}'; {_nearest(command, COMMANDS) or 'known: ' + ', '.join(COMMANDS)}")
    try:
        try:
            args, rest = parser.parse_known_args(words)
            try:
                rest = _parse_trailing_arguments(_command_parser(parser, command), args, rest)
            except argparse.ArgumentTypeError as error:
                parser.error(f"argument files: {error}")
            if rest:
                hints = [hint for word in rest if (hint := _nearest(word, _options(parser, command)))]
                parser.error("; ".join([f"unknown arguments: {' '.join(rest)}", *hints[:1]]))
            log.set_up(args.log_level)
            return int(args.run(args))
        finally:
            with errors_naming(Path("standard output")):
                sys.stdout.flush()  # a full disk is met here
    except UserError as error:
        for fault in error.faults:
            print(f"mnmt-ds {command}: {fault}", file=sys.stderr)
        return 2
    except RunError as error:
        if error.is_shown:
            print(f"mnmt-ds {command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        _forget_output()
        return 0
    except KeyboardInterrupt:
        print(f"mnmt-ds {command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        disk_fault = file_fault(error, Path("standard output"))  # files of our own are named by those who write them
        if disk_fault is None or os.environ.get(log.VARIABLE) == "debug":
            raise
        _forget_output()
        print(f"mnmt-ds {command}: {disk_fault}", file=sys.stderr)
        return 2


def _forget_output() -> None:
    """What standard output still holds is dropped, where it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nearest(word: str, valid_words: Iterable[str]) -> str:
    """A question with the known word that is nearest; empty where none is near."""
    near = difflib.get_close_matches(word.partition("=")[0], list(valid_words), n=1)
    return f"did you mean '{near[0]}'?" if near else ""


def _options(parser: argparse.ArgumentParser, command: str) -> list[str]:
    """The options of a command, from its usage."""
    return re.findall(r"--[\w-]+", _command_parser(parser, command).format_help())


def _command_parser(parser: argparse.ArgumentParser, command: str) -> argparse.ArgumentParser:
    """The part of the parser that is the command's."""
    choices = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
    own: argparse.ArgumentParser = choices[command]
    return own


def _parse_trailing_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace, words: list[str]) -> list[str]:
    """Adds overrides and files that stand behind options, which argparse leaves over; gives what is still left."""
    late = [word for word in words if word == "-" or not word.startswith("-")]
    if hasattr(args, "overrides"):
        late = [word for word in late if "=" in word]
        args.overrides += late
    elif hasattr(args, "files"):
        path_type: Any = next(action.type for action in parser._actions if action.dest == "files")
        args.files += map(path_type, late)
    else:
        return words
    return [word for word in words if word not in late]


if __name__ == "__main__":
    sys.exit(main())
