"""Text that is longer than a model takes: in parts of whole sentences, and joined again."""

import re

from mnmt_ds.data.language_codes import canonical_language
from mnmt_ds.data.scripts import WITHOUT_SPACES
from mnmt_ds.data.tokenizer import Tokenizer

_END = re.compile(r"""(?<=[.!?…։؟۔।])["'»”’)\]]*\s+|(?<=[。！？])["'»”’）」』]*""")
"""Where a sentence may end: after its mark and closing quotes."""


def split_long(text: str, language: str, tokenizer: Tokenizer, room: int) -> list[str]:
    """Splits a text into parts that fit; nothing but white space between them is lost.

    Args:
        text: one line.
        language: its language.
        tokenizer: of the model.
        room: most pieces of a part.

    Returns:
        The text itself where it fits; else parts of as many whole sentences as fit; a sentence that is too long in
        itself is split at white space, a word at a character.
    """
    if _fits(text, language, tokenizer, room):
        return [text]
    parts: list[str] = []
    for sentence in _sentences(text):
        joined = f"{parts[-1]}{sentence}" if parts else sentence
        if parts and _fits(joined.strip(), language, tokenizer, room):
            parts[-1] = joined
        else:
            parts += _halves(sentence, language, tokenizer, room)
    return [part.strip() for part in parts if part.strip()]


def join_parts(parts: list[str], language: str) -> str:
    """Joins the translations of parts.

    Args:
        parts: translations in order.
        language: their language.

    Returns:
        One line, with spaces between the parts where the language writes any.
    """
    return (" " if writes_spaces(language) else "").join(part for part in parts if part)


def writes_spaces(language: str) -> bool:
    """Returns whether a language writes spaces between words.

    Args:
        language: its code.

    Returns:
        False for Chinese, Japanese, Thai and the like.
    """
    return canonical_language(language) not in WITHOUT_SPACES


def _sentences(text: str) -> list[str]:
    """The text's sentences, each with the white space behind it."""
    ends = [match.end() for match in _END.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True) if text[start:end]]


def _halves(text: str, language: str, tokenizer: Tokenizer, room: int) -> list[str]:
    """A text in two, four … parts, split at the white space nearest the middle, until each fits."""
    if len(text) < 2 or _fits(text.strip(), language, tokenizer, room):
        return [text]
    middle = len(text) // 2
    spaces = [match.end() for match in re.finditer(r"\s+", text.rstrip())]
    cut = min(spaces, key=lambda end: abs(end - middle)) if spaces else middle
    return [part for half in (text[:cut], text[cut:]) for part in _halves(half, language, tokenizer, room)]


def _fits(text: str, language: str, tokenizer: Tokenizer, room: int) -> bool:
    return len(text) <= 64 * room and len(tokenizer.encode(text, language)) <= room
