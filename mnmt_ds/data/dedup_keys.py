"""64-bit hashes of sentences, and the normalised key by which held-out sentences are kept out of training."""

import html
import re
import unicodedata
from hashlib import blake2b

PLACEHOLDER = re.compile(
    r"%(?:\d+\$)?[-+#0']*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|L|q|j|z|t|I\d*)?[diouxXeEfFgGaAcspm](?![a-zA-Z])"
    r"|%(?:\d+\$)?[sdiu]|%<\w+>|%\(\w+\)[sdifr]?|%%|\$?\{[\w.:!]*\}|\$\(?\w+\)?"
)
"""printf, Python and shell placeholders: what keys leave out."""
AMOUNT = re.compile(
    r"(?<=\d)%(?!%)[-+#0']*[a-zA-Z]"  # 50%-a
    r"|(?<=\d)[ \u00a0\u202f]%(?:-[a-zA-Z]|[a-zA-Z]['’])"  # 20 %d'ici
    r"|%[1-9]\d*[eEfFgGaAcuioxX](?![a-zA-Z])"  # %50i
    r"|(?<!%\d)(?<!%\d\d)\$\d[\d.,]*\w*"  # $50, $3.5m, but not %1$5d
)
"""Amounts of money and percentages of ordinary text that look like placeholders."""


_ENTITY = re.compile(r"&#?\w+;")
"""What tokenizers (Moses: ``&apos;``, ``&quot;``) and web pages write for a character."""
_NON_JOINER = "\u200c"
"""Stands between the parts of a Persian word where others write a space."""
_UNSEEN_MARKS = re.compile("[\u034f\u0640\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Letters and marks that change no word: a grapheme joiner, the Arabic tatweel, variation selectors."""


class _LettersOnly(dict[int, str]):
    """Table for ``str.translate``: letters and combining marks stay, anything else becomes a space.

    What is not seen goes without one: soft hyphens, zero-width spaces, joiners and marks of direction are in one
    edition of a text and not in another.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if (category == "Cf" and character != _NON_JOINER) or _UNSEEN_MARKS.match(character):
            replacement = ""
        else:
            replacement = character if category[0] in "LM" else " "
        self[code] = replacement
        return replacement


_LETTERS = _LettersOnly()


def normalise_key(text: str) -> str:
    """Normalises a sentence, so that sentences that say the same have the same key.

    >>> normalise_key("Save %d files to “/tmp”?")
    'save files to tmp'
    >>> normalise_key("It is n&apos;t a well @-@ known caf&eacute; .")
    'it is n t a well known café'

    Args:
        text: a sentence.

    Returns:
        Lower case without placeholders, punctuation, digits and characters that are not seen, entities as what they
        stand for, words one space apart; the text itself in lower case where nothing of it is left.
    """
    for _ in range(2 if "&" in text else 0):  # text that was escaped twice, too
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
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
    """Finds a text's placeholders, such as ``%s`` and ``{name}``; ``$50`` and ``50%-a`` are amounts, no placeholders.

    Args:
        text: any text.

    Returns:
        Placeholders in alphabetical order, positions (%1$s) taken out.
    """
    if "%" not in text and "{" not in text and "$" not in text:
        return []
    bare = AMOUNT.sub(" ", text)
    return sorted(re.sub(r"\d+\$", "", placeholder) for placeholder in PLACEHOLDER.findall(bare))
