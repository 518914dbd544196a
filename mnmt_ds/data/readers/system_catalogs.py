"""The system's own gettext catalogs (.mo): of English and another language, or of two languages joined on English."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mnmt_ds.data.language_codes import SCRIPT_OF_REGION, canonical_language, codes_of, parse_code
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.readers.catalog import are_identifiers, as_bytes, example_mo, mo_messages
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.scripts import default_script, script_of_code

LOG = logging.getLogger(__name__)
MODIFIERS = {"Latin": ("latin", "Latn"), "Cyrillic": ("cyrillic", "Cyrl"), "Arabic": ("arabic", "Arab"),
             "Devanagari": ("devanagari", "Deva")}  # fmt: skip
"""How a POSIX locale names a script after '@'."""


def locate_system(request: ReadRequest) -> list[ReadRequest]:
    """Finds the system's catalogs for a pair, in all ``catalog_roots``.

    Args:
        request: ``catalog_roots`` are searched; its paths are not looked at.

    Returns:
        A request a catalog, whose domain is the catalog's name: with one path where a side is the key language; else
        with the paths of both languages' catalogs of that name, of the same root where there are several.
    """
    source, target = split_pair(request.pair)
    if request.key_language in (source, target):
        other = target if source == request.key_language else source
        files = [(path,) for path in _system_catalogs(other, request.catalog_roots)]
        return [request._replace(paths=tuple(map(str, paths)), domain=paths[0].stem) for paths in files]
    targets: dict[str, list[Path]] = {}
    for path in _system_catalogs(target, request.catalog_roots):
        targets.setdefault(path.name, []).append(path)
    joined = []
    for path in _system_catalogs(source, request.catalog_roots):
        of_that_name = targets.get(path.name, [])
        same_root = [other for other in of_that_name if other.parents[2] == path.parents[2]]
        if of_that_name:
            paths = (str(path), str((same_root or of_that_name)[0]))
            joined.append(request._replace(paths=paths, domain=path.stem))
    return joined


def read_system(request: ReadRequest) -> Iterator[Row]:
    """Reads a catalog of the system, or two languages' catalogs joined on the English message.

    Args:
        request: what ``locate_system`` returned.

    Yields:
        A row a message that all of its catalogs have, and one more for its plural; nothing of a catalog whose messages
        are identifiers. The key of joined rows is the English message.

    Raises:
        UserError: when a file cannot be read or is not a whole catalog.
    """
    messages = mo_messages(request.paths[0])
    if are_identifiers(messages):
        LOG.info("%s: left out: its messages are identifiers such as '%s'", request.paths[0], messages[0].message)
        return
    if len(request.paths) == 1:
        messages_are_target = split_pair(request.pair)[1] == request.key_language
        for entry in messages:
            sides = as_bytes(entry.message), as_bytes(entry.translation)
            yield entry.number, *(reversed(sides) if messages_are_target else sides), None
        return
    targets = {(entry.entry, entry.message): entry.translation for entry in mo_messages(request.paths[1])}
    for entry in messages:
        if (target := targets.get((entry.entry, entry.message))) is not None:
            key = as_bytes(entry.message).decode("utf-8", "replace")
            yield entry.number, as_bytes(entry.translation), as_bytes(target), key


def _system_catalogs(language: str, roots: Sequence[str]) -> list[Path]:
    """Catalogs of a language in all roots; of its countries (pt_BR) where no root has any of the language itself."""
    names = _directory_names(language)
    paths = _in_directories([Path(root) / name for root in roots for name in names])
    if paths or "_" in language:
        return paths
    countries = sorted(
        {path.parent.name for root in roots for path in Path(root).glob(f"{language}_[A-Z]*/LC_MESSAGES")}
    )
    plain = [name for name in countries if "@" not in name]
    paths = _in_directories([Path(root) / name for root in roots for name in plain])
    if len(read_from := sorted({path.parents[1].name for path in paths})) > 1:
        LOG.info("catalogs of %s: those of %s together; name one of these for it alone", language, ", ".join(read_from))
    return paths


def _in_directories(directories: Sequence[Path]) -> list[Path]:
    """The catalogs of some languages' directories; a directory that is reached by two names counts once."""
    unique: dict[Path, Path] = {}
    for directory in directories:
        unique.setdefault(directory.resolve(), directory)
    return [path for directory in unique.values() for path in sorted((directory / "LC_MESSAGES").glob("*.mo"))]


def _directory_names(code: str) -> list[str]:
    """What the directory of a language may be called, whose code may name a script (be_Latn: be@latin)."""
    languages, script = codes_of(code), script_of_code(code)
    if script is None:
        return list(dict.fromkeys([code, *(languages if "_" not in code else [])]))
    canonical, named = canonical_language(code), parse_code(code).script
    regions = [key[1] for key, implied in SCRIPT_OF_REGION.items() if (key[0], implied) == (canonical, named)]
    names = [code, *(f"{name}@{word}" for name in languages for word in MODIFIERS.get(script, ()))]
    names += [f"{name}_{region}" for name in languages for region in regions]
    return list(dict.fromkeys([*names, *(languages if default_script(canonical) == script else ())]))


def example_system(folder: Path) -> dict[str, Any]:
    """Writes a minimal catalog of the system, fr-en, for ``data.catalogs``.

    Args:
        folder: an empty directory, which ``data.catalogs`` names.

    Returns:
        Keys of the recipe's entry, ``format`` left out: none.
    """
    (folder / "fr" / "LC_MESSAGES").mkdir(parents=True)
    example_mo(folder / "fr" / "LC_MESSAGES")
    return {}
