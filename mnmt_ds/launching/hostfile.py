"""DeepSpeed's hostfile, checked before anything starts: DeepSpeed itself trains on locally where it is missing."""

import re
from pathlib import Path

from mnmt_ds.errors import UserError

LINE = re.compile(r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?)\s+slots=(?P<slots>[1-9][0-9]{0,4})")


def read_hostfile(path: Path) -> dict[str, int]:
    """Reads a hostfile: a line ``HOST slots=N`` for each node, ``#`` begins a comment.

    Args:
        path: the hostfile. A host's name may hold letters, digits, ``.``, ``_`` and ``-``.

    Returns:
        Slots (processes to start) by host, in the file's order.

    Raises:
        UserError: when the file cannot be read, a line has another form, a host is listed twice, or none is listed.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{path}: hostfile cannot be read ({reason}); give a file of HOST slots=N") from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = LINE.fullmatch(text)
        if match is None:
            raise UserError(f"{path}:{number}: '{text[:80]}' is not of the form HOST slots=N; mend the line")
        if match["host"] in hosts:
            raise UserError(f"{path}:{number}: host {match['host']} is listed twice; keep one line with all its slots")
        hosts[match["host"]] = int(match["slots"])
    if not hosts:
        raise UserError(f"{path}:1: no host in it; write a line HOST slots=N for each node")
    return hosts
