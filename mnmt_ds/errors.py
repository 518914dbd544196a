"""The one exception for mistakes that a user can mend."""

import re

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What would break a line, steer a terminal, or cannot be written as UTF-8."""


class UserError(Exception):
    """Something the user gave is wrong.

    Each fault is ONE line, ``where: what, and what to do`` (``file:line:`` where there is a line). Most errors have
    one; a recipe's lists all of them. Commands print them without a traceback and exit with code 2.

    Args:
        faults: one line each; control characters in them are escaped.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = tuple(CONTROL.sub(lambda match: repr(match[0])[1:-1], fault) for fault in faults)
        super().__init__(*self.faults)

    def __str__(self) -> str:
        """The faults, a line each."""
        return "\n".join(self.faults)
