"""Lines of text as a model may be given them."""

import re
from collections.abc import Iterable, Iterator

from mnmt_ds.errors import UserError

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")


def decode_lines(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Decodes lines; what no model ever saw (control characters, line ends among them) becomes a space.

    Args:
        lines: raw lines, split at \\n bytes alone.
        name: what they are read from, for messages.

    Yields:
        Each line's text.

    Raises:
        UserError: at a line that is not UTF-8.
    """
    for number, raw in enumerate(lines, 1):
        yield decode_line(raw, f"{name}:{number}")


def decode_line(raw: bytes, place: str, keep_tabs: bool = False) -> str:
    """Decodes one line as ``decode_lines`` does.

    Args:
        raw: the line.
        place: where it stands, for messages.
        keep_tabs: it has fields, between tabs.

    Returns:
        Its text.

    Raises:
        UserError: where it is not UTF-8.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: byte {error.start + 1} (0x{raw[error.start]:02x}) is not UTF-8; convert the file"
        ) from None
    return "\t".join(_CONTROL.sub(" ", field) for field in (text.split("\t") if keep_tabs else [text]))
