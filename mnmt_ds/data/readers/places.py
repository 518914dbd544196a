"""From a path of the recipe to files: patterns with ``*``, directories and zip archives."""

import glob
import logging
import re
from pathlib import Path, PurePosixPath

from mnmt_ds.data.language_choice import codes_for
from mnmt_ds.data.readers.archives import is_archive, member_names
from mnmt_ds.data.readers.lines import DECOMPRESSORS
from mnmt_ds.errors import UserError

LOG = logging.getLogger(__name__)
HELD_OUT = {"dev": ("dev", "valid", "validation", "val", "tune"), "test": ("test", "devtest", "tst")}
"""First words of names of files that hold a dev or test set, by what they are for."""


def is_pattern(path: str) -> bool:
    """Returns whether a path is a pattern of several files.

    Args:
        path: a path of the recipe.

    Returns:
        Whether it has a ``*``, and no file is called so.
    """
    return "*" in path and not Path(path).exists()


def matching(pattern: str) -> list[str]:
    """Finds the files that a pattern stands for.

    Args:
        pattern: a path in which ``*`` stands for any part of a name, and ``**`` for any directories.

    Returns:
        Paths, sorted.

    Raises:
        UserError: when there is none.
    """
    paths = sorted(glob.glob(re.sub(r"[?[]", r"[\g<0>]", pattern), recursive=True))
    if not paths:
        raise UserError(f"{pattern}: no file matches; mend the path in the recipe")
    return paths


def files_at(path: str, endings: tuple[str, ...]) -> list[str]:
    """Finds the files of a format that a path of the recipe means.

    Args:
        path: a file, a pattern, a directory, or a zip archive.
        endings: how names of the format's files end, compression aside; none: a directory is the format's own.

    Returns:
        Paths, sorted: of a directory those of its files, of an archive of several files those inside, that have one of
        the endings.

    Raises:
        UserError: when a pattern matches nothing, or a directory or archive has no such file.
    """
    if is_pattern(path):
        return [file for match in matching(path) for file in files_at(match, endings)]
    if not endings or not (Path(path).is_dir() or is_archive(path)):
        return [path]
    names = _names_in(path)
    chosen = [name for name in names if _uncompressed(name).lower().endswith(endings)]
    if not chosen and len(names) != 1:
        noun = "directory" if Path(path).is_dir() else "zip archive"
        inside = f"; it has {', '.join(names[:5])}" if names else ""
        raise UserError(f"{path}: the {noun} has no file that ends in {', '.join(endings)}{inside}")
    return [f"{path}/{name}" for name in chosen or names]


def paired_files(path: str, names: tuple[str, str], role: str) -> list[tuple[str, str, str]]:
    """Pairs files whose names differ in the language at their end, such as ``Books.en-fr.fr`` and ``Books.en-fr.en``.

    Args:
        path: a directory, a zip archive, or a pattern that matches such files, directories or archives.
        names: the two languages, as the files name them or by any other code.
        role: train, dev or test; where names tell which files are a dev or test set, those for it alone are taken.

    Returns:
        For each pair of files their paths and the name without the language, sorted.

    Raises:
        UserError: when there is no pair of files, or more than one file of a language beside one of the other.
    """
    files = []
    for match in matching(path) if is_pattern(path) else [path]:
        is_file = Path(match).is_file() and not is_archive(match)
        files += [match] if is_file else [f"{match}/{name}" for name in _names_in(match)]
    by_stem: dict[str, list[tuple[str, str]]] = {}
    for file in files:
        stem, _, language = _uncompressed(file).removesuffix(".txt").rpartition(".")
        by_stem.setdefault(stem, []).append((language, file))
    pairs = []
    for stem, sides in sorted(by_stem.items()):
        both = [_side(path, name, sides) for name in names]
        if both[0] and both[1] and both[0] != both[1]:
            pairs.append((both[0], both[1], PurePosixPath(stem).name))
    if not pairs:
        have = ", ".join(PurePosixPath(file).name for file in files[:6]) or "no files"
        raise UserError(
            f"{path}: no two files of one name that end in .{names[0]} and .{names[1]}, it has {have}; give 'path' and"
            " 'target_path', or 'codes' if the languages are called otherwise"
        )
    return _of_role(path, pairs, role)


def beside(pattern: str, file: str, target_pattern: str) -> str:
    """Fills what ``*`` stood for in one pattern into another one.

    Args:
        pattern: matches ``file``.
        file: a path.
        target_pattern: with as many ``*`` as ``pattern``.

    Returns:
        The path that the second pattern means.

    Raises:
        UserError: when the two have other numbers of ``*``.
    """
    stars = r"\*\*/|\*\*|\*"
    shapes = {"**/": "(.*/|)", "**": "(.*)", "*": "([^/]*)"}
    parts = re.split(f"({stars})", pattern)
    expression = "".join(shapes.get(part, re.escape(part)) for part in parts)
    match = re.fullmatch(expression, file)
    slots = re.split(stars, target_pattern)
    if match is None or len(slots) != len(match.groups()) + 1:
        raise UserError(f"{target_pattern}: has not as many * as {pattern}; each stands for the same text in both")
    return "".join(text for both in zip(slots, [*match.groups(), ""], strict=True) for text in both)


def _names_in(path: str) -> list[str]:
    """Names of the files of a directory, or of those in a zip archive."""
    if is_archive(path):
        return member_names(path)
    try:
        return sorted(entry.name for entry in Path(path).iterdir() if entry.is_file())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend the path in the recipe") from None


def _uncompressed(name: str) -> str:
    """A file's name without the ending of its compression."""
    stem, dot, ending = name.rpartition(".")
    return stem if f"{dot}{ending}" in DECOMPRESSORS else name


def _side(path: str, requested_language: str, sides: list[tuple[str, str]]) -> str:
    """The file of a language: that with its very code, else the one whose code means it; '' where there is none."""
    codes = codes_for(requested_language, [language for language, _ in sides], path)
    same = [file for language, file in sides if language in codes]
    if len(same) > 1:
        names = ", ".join(PurePosixPath(file).name for file in same)
        raise UserError(
            f"{path}: several files for '{requested_language}': {names}; give 'path' and 'target_path', or 'codes'"
        )
    return same[0] if same else ""


def _of_role(path: str, pairs: list[tuple[str, str, str]], role: str) -> list[tuple[str, str, str]]:
    """The pairs of files that are for a role; what is left out is said."""
    if len(pairs) == 1:
        return pairs
    kinds = [_kind(stem) for _, _, stem in pairs]
    if role in kinds or role == "train":
        chosen = [pair for pair, kind in zip(pairs, kinds, strict=True) if kind == (role if role in HELD_OUT else "")]
    else:
        chosen = pairs
    if not chosen:
        raise UserError(f"{path}: all its files are named as dev or test sets; give 'path' and 'target_path'")
    names, others = ([stem for _, _, stem in part] for part in (chosen, [p for p in pairs if p not in chosen]))
    LOG.info("%s: %s text is %s%s", path, role, ", ".join(names) or "nothing",
             f"; left out, by their names: {', '.join(others)}" if others else "")  # fmt: skip
    return chosen


def _kind(stem: str) -> str:
    """dev or test where a name begins with a word for it, else ''."""
    word = re.split(r"[._-]", stem.lower())[0]
    return next((kind for kind, words in HELD_OUT.items() if word in words), "")
