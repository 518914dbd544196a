"""Messages of the package: one set-up, levels, and the time and the rank before each line.

Every module logs by ``logging.getLogger(__name__)``. A line reads ``2026-01-31 12:00:00 WARNING rank 3: text``; the
rank is left out in a process that is not part of a job. The training reports (``REPORT``) have no prefix. All goes
to standard error; a command's results go to standard output by ``print``.
"""

import logging
import os
import sys

from mnmt_ds.terminal import escape

LEVELS = ("debug", "info", "warning", "error")
"""Levels that a user can ask for, from the most to the fewest messages."""
VARIABLE = "MNMT_DS_LOG_LEVEL"
"""Environment variable with the level of every process of a job; ``--log-level`` sets it."""
REPORT = logging.getLogger("mnmt_ds.report")
"""Logger of the training reports, such as ``step 1200/20000 | epoch 3.20 | ...``: lines without a prefix."""


class _Formatter(logging.Formatter):
    """Writes time, level and rank before a message; nothing before a training report."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a message.

        Args:
            record: the message.

        Returns:
            Its line, control characters escaped; a traceback follows on further lines.
        """
        text = escape(super().format(record))
        if record.name == REPORT.name:
            return text
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))
        time = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        return f"{time} {record.levelname}{f' rank {rank}' if rank is not None else ''}: {text}"


class _Handler(logging.Handler):
    """Writes to what ``sys.stderr`` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a message.

        Args:
            record: the message.
        """
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def set_up(level: str | None = None) -> None:
    """Sends the package's messages of a level and above to standard error, also in the processes started later.

    Args:
        level: one of ``LEVELS``; None: what ``MNMT_DS_LOG_LEVEL`` says, else ``info``.
    """
    level = (level or os.environ.get(VARIABLE) or "info").lower()
    name = level if level in LEVELS else "info"
    os.environ[VARIABLE] = name
    package = logging.getLogger("mnmt_ds")
    if not any(isinstance(handler, _Handler) for handler in package.handlers):
        handler = _Handler()
        handler.setFormatter(_Formatter())
        package.addHandler(handler)
    package.setLevel(name.upper())
    if name != level:
        package.warning("%s=%s is none of %s; taking info", VARIABLE, level, ", ".join(LEVELS))


def set_up_deepspeed() -> None:
    """Shows DeepSpeed's messages from warnings up, or from ``info`` where this package's level is ``debug``."""
    from deepspeed.utils import logger

    level = logging.INFO if os.environ.get(VARIABLE) == "debug" else logging.WARNING
    logger.setLevel(level)
    for handler in logger.handlers:
        handler.setLevel(level)
