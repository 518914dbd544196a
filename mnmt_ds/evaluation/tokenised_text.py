"""Does a text look tokenised? BLEU of such text is not comparable with that of text as people write it."""

import re
from collections.abc import Sequence

TRACES = re.compile(r" \.$| , |@-@|@@ |▁|&(?:apos|quot|amp|lt|gt|#91|#93|#124);| n't(?: |$)| 's(?: |$)")
"""A full stop or comma after a space (sacreBLEU looks for the former), and what Moses' and subword tokenizers leave."""
SHARE = 0.1
"""A text looks tokenised where at least this share of its lines does."""
AT_LEAST = 2
"""Fewer lines say nothing."""
SACREBLEU_LIMIT = 100
"""At this many full stops after a space, sacreBLEU warns whatever their share."""


def tokenised_lines(lines: Sequence[str]) -> int:
    """Counts the lines that look tokenised.

    Args:
        lines: sentences.

    Returns:
        Their number; 0 where they are too few for the text to look tokenised.
    """
    count = sum(TRACES.search(line.rstrip()) is not None for line in lines)
    stops = sum(line.rstrip().endswith(" .") for line in lines)
    return count if count >= max(AT_LEAST, SHARE * len(lines)) or stops >= SACREBLEU_LIMIT else 0
