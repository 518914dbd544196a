"""64-bit hashes of sentences, and the normalised key by which held-out sentences are kept out of training."""

import re
import unicodedata
from hashlib import blake2b

PLACEHOLDER = re.compile(
    r"%(?:\d+\$)?[-+#0']*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|L|q|j|z|t|I\d*)?[diouxXeEfFgGaAcspm](?![a-zA-Z])"
    r"|%(?:\d+\$)?[sdiu]|%<\w+>|%\(\w+\)[sdifr]?|%%|\$?\{[\w.:!]*\}|\$\(?\w+\)?"
)
"""printf, Python and shell placeholders."""
_NOT_WORD = re.compile(r"[\W\d_]+")


def normalise_key(text: str) -> str:
    """Lower case without placeholders, punctuation and digits, words one space apart; ``text`` itself if none is left.

    >>> normalised("Save %d files to “/tmp”?")
    'save files to tmp'
    """
    bare = PLACEHOLDER.sub(" ", text).lower() if "%" in text or "{" in text or "$" in text else text.lower()
    if bare.isascii():
        return _NOT_WORD.sub(" ", bare).strip() or text.strip().lower()
    kept = (c if unicodedata.category(c)[0] in "LM" else " " for c in unicodedata.normalize("NFKC", bare))
    return " ".join("".join(kept).split()) or text.strip().lower()


def hash64(text: str, seed: int = 0) -> int:
    """A 64-bit hash that is the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(16, "little")).digest(), "little")


def find_placeholders(text: str) -> list[str]:
    """The text's placeholders, sorted, positions (%1$s) taken out."""
    if "%" not in text and "{" not in text and "$" not in text:
        return []
    return sorted(re.sub(r"\d+\$", "", found) for found in PLACEHOLDER.findall(text))
