"""What this package prints reaches a terminal without control characters, wherever the text came from.

Names of languages, lines of corpora, host names, messages of other processes: an escape sequence in any of them could
steer a terminal or forge a line. Bytes of a command's results (``translate``) pass as they are: ``sys.stdout.buffer``.
"""

import contextlib
import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and line end; separators of lines; what turns the direction of text round; parts of
file names that are not UTF-8, which cannot be written."""


def escape(text: str) -> str:
    """Writes control characters as Python does in a string's ``repr``.

    Args:
        text: any text; line ends and tabs stay.

    Returns:
        Text that is safe on a terminal.
    """
    return CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


class EscapedStream:
    """A text stream that escapes what is written; in all else the stream that it stands for."""

    def __init__(self, stream: Any, name: Literal["stdout", "stderr"]) -> None:
        """Stands for a stream.

        Args:
            stream: the stream.
            name: its name in ``sys``; where that is another stream by now (a logger kept this one), that is written to.
        """
        self._stream, self._name = stream, name

    @property
    def _target(self) -> Any:
        present = getattr(sys, self._name)
        return self._stream if present is self else present

    def write(self, text: str) -> int:
        """Writes text.

        Args:
            text: any.

        Returns:
            Its length.
        """
        self._target.write(escape(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes several texts.

        Args:
            lines: the texts.
        """
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the stream has."""
        return getattr(self._target, name)


@contextlib.contextmanager
def escaped_output() -> Iterator[None]:
    """Escapes what is written to standard output and error for as long as the block runs, and any last traceback.

    Returns:
        Nothing: a context manager.
    """
    out: Any = EscapedStream(sys.stdout, "stdout")
    error: Any = EscapedStream(sys.stderr, "stderr")
    sys.excepthook = _print_escaped
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        yield


def _print_escaped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints a traceback."""
    sys.stderr.write(escape("".join(traceback.format_exception(kind, error, trace))))
