"""Columns with scores: rows below a threshold are left out, and said."""

import logging
from collections.abc import Callable
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest
from mnmt_ds.errors import UserError

LOG = logging.getLogger(__name__)


class Thresholds:
    """Lowest score that a recipe allows in each of some columns of a file."""

    def __init__(self, path: str, request: ReadRequest) -> None:
        """Takes the thresholds of an entry of the recipe.

        Args:
            path: the file, for messages.
            request: ``min_scores`` has them by column.
        """
        self._path, self._least = path, request.min_scores
        self._rows = self._below = 0
        self.columns = tuple(request.min_scores)
        """Columns with a threshold: numbers from 1, or names."""

    def pass_row(self, number: int, cell_of: Callable[[Any], Any]) -> bool:
        """Returns whether a row's scores are all high enough.

        Args:
            number: the row's number, for messages.
            cell_of: looks up what the row has in a column: a number, text or bytes; None: nothing.

        Returns:
            Whether the row stays; a row without a score, or with NaN, does not.

        Raises:
            UserError: when a cell holds something else than a number.
        """
        self._rows += 1
        for name, least in self._least.items():
            cell = cell_of(name)
            try:
                score = float("nan") if cell is None or cell in ("", b"") else float(cell)
            except (TypeError, ValueError):
                shown = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)
                raise UserError(
                    f"{self._path}:{number}: column {name} holds '{shown[:40]}', no score; mend 'min_scores'"
                ) from None
            if not score >= least:
                self._below += 1
                return False
        return True

    def log(self) -> None:
        """Logs how many rows were left out; nothing where there are no thresholds."""
        if self._least:
            thresholds = ", ".join(f"{name}: {least:g}" for name, least in self._least.items())
            LOG.info("%s: %s of %s rows have less than min_scores {%s}, and are left out", self._path,
                     f"{self._below:,}", f"{self._rows:,}", thresholds)  # fmt: skip
