"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """Something the user gave is wrong.

    The message is ONE line, ``where: what, and what to do`` (``file:line:`` where there is a line).
    Commands print it without a traceback and exit with code 2.
    """
