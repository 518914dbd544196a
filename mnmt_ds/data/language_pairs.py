"""Names of language pairs: ``bs-en`` is Bosnian to English."""


def split_pair(pair: str) -> tuple[str, str]:
    """Splits a pair's name into its languages.

    Args:
        pair: name such as ``bs-en``; of monolingual text the language alone.

    Returns:
        Source and target language; the target is empty where the name is one language.
    """
    source, _, target = pair.partition("-")
    return source, target


def reverse_pair(pair: str) -> str:
    """Returns the name of the opposite direction of a pair.

    Args:
        pair: name such as ``bs-en``.

    Returns:
        Such as ``en-bs``.
    """
    source, target = split_pair(pair)
    return f"{target}-{source}"


def is_pair(name: str) -> bool:
    """Returns whether a name is that of a pair of two different languages.

    Args:
        name: any text.

    Returns:
        Whether it is two codes of letters, digits and underscores around one hyphen.
    """
    sides = name.split("-")
    return len(sides) == 2 and all(side.replace("_", "").isalnum() for side in sides) and sides[0] != sides[1]
