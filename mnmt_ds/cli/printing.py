"""What commands print of themselves: options that print and end, such as ``--help-config``; ``--help``."""

import argparse
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any


class PrintAction(argparse.Action):
    """Command-line option that prints what a function makes of its value, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, make: Callable[[str], str], **options: Any) -> None:
        """Makes the option; argparse calls this.

        Args:
            option_strings: as it is written on the command line.
            dest: its name among the arguments.
            make: makes the text that is printed from the option's value.
            options: argparse's others, such as ``help``.
        """
        super().__init__(option_strings, dest, **options)
        self.make = make

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Prints and ends.

        Args:
            parser: the command's parser.
            namespace: the arguments so far.
            values: the option's value; none: an empty list.
            option: the option as it was written.
        """
        print(self.make(values or ""), end="")
        parser.exit()


def printed_docstring(module: Any) -> str:
    """Formats a module's docstring as ``--help`` prints it.

    Args:
        module: of a command.

    Returns:
        The docstring with single backticks.
    """
    return (module.__doc__ or "").replace("``", "`")


def wrapped(text: str) -> str:
    """Wraps paragraphs to the terminal's width.

    Args:
        text: paragraphs with an empty line between them.

    Returns:
        The same paragraphs, in lines as long as the terminal allows.
    """
    width = max(20, shutil.get_terminal_size().columns - 2)
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in text.strip().split("\n\n"))
