"""64-bit hashes of sentences, and the normalised key by which held-out sentences are kept out of training."""

import re
import unicodedata
from hashlib import blake2b

PLACEHOLDER = re.compile(
    r"%(?:\d+\$)?[-+#0']*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|L|q|j|z|t|I\d*)?[diouxXeEfFgGaAcspm](?![a-zA-Z])"
    r"|%(?:\d+\$)?[sdiu]|%<\w+>|%\(\w+\)[sdifr]?|%%|\$?\{[\w.:!]*\}|\$\(?\w+\)?"
)
"""printf, Python and shell placeholders."""


class _LettersOnly(dict[int, str]):
    """Table for ``str.translate``: letters and combining marks stay, anything else becomes a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = kept = character if unicodedata.category(character)[0] in "LM" else " "
        return kept


_LETTERS = _LettersOnly()


def normalise_key(text: str) -> str:
    """Normalises a sentence, so that sentences that say the same have the same key.

    >>> normalise_key("Save %d files to “/tmp”?")
    'save files to tmp'

    Args:
        text: a sentence.

    Returns:
        Lower case without placeholders, punctuation and digits, words one space apart; the text itself in lower case
        where nothing of it is left.
    """
    bare = PLACEHOLDER.sub(" ", text).lower() if "%" in text or "{" in text or "$" in text else text.lower()
    words = unicodedata.normalize("NFKC", bare).translate(_LETTERS)
    return " ".join(words.split()) or text.strip().lower()


def hash64(text: str, seed: int = 0) -> int:
    """Hashes a text (BLAKE2b); the hash is the same on every machine.

    Args:
        text: any text.
        seed: another seed, another hash.

    Returns:
        A number of 64 bits.
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(16, "little")).digest(), "little")


def find_placeholders(text: str) -> list[str]:
    """Finds a text's placeholders, such as ``%s`` and ``{name}``.

    Args:
        text: any text.

    Returns:
        Placeholders in alphabetical order, positions (%1$s) taken out.
    """
    if "%" not in text and "{" not in text and "$" not in text:
        return []
    return sorted(re.sub(r"\d+\$", "", placeholder) for placeholder in PLACEHOLDER.findall(text))
