"""From settings to parts: every file, catalog or generated text of a pair."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mnmt_ds.data.language_codes import code_in_pair
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.readers.archives import disk_file
from mnmt_ds.data.readers.corpus_part import CorpusPart, ReadRequest, Row
from mnmt_ds.data.readers.places import files_at
from mnmt_ds.data.readers.registry import READERS, ReaderEntry
from mnmt_ds.data.settings import DataSettings, Files
from mnmt_ds.errors import UserError

Origin = Literal["files", "gettext", "cldr"]
"""Where the training text comes from: the recipe's files, or a format without files for every pair."""


def corpus_parts(settings: DataSettings, name: str, role: str, origin: Origin) -> list[CorpusPart]:
    """Lists the parts of a pair's or a language's text.

    Args:
        settings: the recipe's ``data`` section.
        name: a pair such as ``bs-en``; for ``mono`` a language.
        role: what the text is for: train, dev, test or mono.
        origin: where training text comes from.

    Returns:
        The parts in the order in which they are read, synthetic text last, so that of equal rows the real one counts;
        none where the recipe names no files.

    Raises:
        UserError: when an entry of the recipe does not fit the pair, or its files cannot be found.
    """
    if role == "mono":
        entries = settings.monolingual[name]
    elif role == "train" and origin != "files":
        entries = [Files(format=origin)]
    else:
        entries = sorted(getattr(settings.files_of(name), role), key=lambda entry: entry.synthetic is not None)
    parts, domains = [], Counter[str]()
    for entry in entries:
        of_entry = _parts_of_entry(entry, settings, name, role)
        if entry.synthetic:  # one domain an entry, whatever its files are called: it has one tag and one share
            domain = _synthetic_domain(entry)
            domains[domain] += 1
            domain += f" {domains[domain]}" if domains[domain] > 1 else ""
            of_entry = [part._replace(domain=domain) for part in of_entry]
        parts += of_entry
    return parts


def block_rows(rows: Iterator[Row], max_rows: int = 2000, max_bytes: int = 1 << 22) -> Iterator[list[Row]]:
    """Groups rows into lists; where ``rows`` raises a UserError, the rows before come first.

    Args:
        rows: rows of a part.
        max_rows: rows after which a list ends.
        max_bytes: bytes (characters of decoded text) above which a list ends.

    Yields:
        Lists of rows, in order; none is empty.
    """
    block: list[Row] = []
    size = 0
    try:
        for row in rows:
            block.append(row)
            size += len(row[1] or "") + len(row[2] or "")
            if len(block) == max_rows or size > max_bytes:
                yield block
                block, size = [], 0
    except UserError:
        if block:
            yield block
        raise
    if block:
        yield block


def parts_identity(parts: Iterable[CorpusPart]) -> list[Any]:
    """Collects what shows whether text changed: path, size and time of each file; the version of generated text.

    Args:
        parts: parts of a pair's text.

    Returns:
        A JSON value.

    Raises:
        UserError: when a file cannot be read.
    """
    identity: list[Any] = []
    for part in parts:
        identity.append([part.domain, part.catalog, *part.keys])
        for path in files_of_part(part):
            try:
                status = path.stat()
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); mend the path in the recipe") from None
            identity.append([str(path), status.st_size, status.st_mtime_ns])
    return identity


def files_of_part(corpus_part: CorpusPart) -> list[Path]:
    """Lists a part's files.

    Args:
        corpus_part: a part of a pair's text.

    Returns:
        Paths; where the part is a directory, those of all files inside.
    """
    files = []
    for path in filter(None, dict.fromkeys(corpus_part.files)):
        path = disk_file(path)
        inside = sorted(Path(path).rglob("*")) if Path(path).is_dir() else [Path(path)]
        files += [file for file in inside if not file.is_dir()]
    return list(dict.fromkeys(files))


def _parts_of_entry(entry: Files, settings: DataSettings, name: str, role: str) -> list[CorpusPart]:
    """The parts of one entry of the recipe."""
    reader = READERS[entry.format]
    if role == "mono" and not reader.monolingual:
        raise UserError(f"data.monolingual.{name}: format {entry.format} is for pairs of languages; give a text file")
    source, target = split_pair(name)
    paths = [
        path.replace("{source}", source).replace("{target}", target).replace("{pair}", name)
        for path in (entry.path, entry.target_path)
        if path
    ]
    located = [(path,) for path in files_at(paths[0], reader.endings)] if reader.endings else [tuple(paths)]
    requests = [
        ReadRequest(
            pair=name,
            format=entry.format,
            paths=each,
            domain=_domain(entry, each),
            columns=entry.columns,
            split=entry.split,
            role=role,
            codes=entry.codes,
            min_scores=entry.min_scores,
            key_language=code_in_pair(source, target or source, settings.split.key_language),
            max_line_bytes=settings.clean.max_line_bytes,
            catalog_roots=settings.catalogs,
        )
        for each in located
    ]
    keys = [entry.columns, entry.split, entry.codes, entry.min_scores]
    keys += [entry.synthetic.model_dump()] if entry.synthetic else []
    own = entry.clean.model_dump(exclude_none=True) if entry.clean else {}
    keys += [own] if own else []
    clean = settings.clean.model_copy(update=own) if own else None
    return [
        _part(reader, located, keys)._replace(clean=clean, synthetic=entry.synthetic)
        for request in requests
        for located in reader.locate(request)
    ]


def _domain(entry: Files, paths: tuple[str, ...]) -> str:
    return entry.domain or Path(paths[0] if paths else entry.format).name


def _synthetic_domain(entry: Files) -> str:
    """Name of a synthetic text's domain, which is no real text's."""
    assert entry.synthetic is not None
    name = entry.domain or Path(entry.path).name or entry.format
    return " ".join(filter(None, [name, "(synthetic)", entry.synthetic.tag]))


def _part(reader: ReaderEntry, request: ReadRequest, keys: list[Any]) -> CorpusPart:
    read = partial(_read_until_fault if reader.tolerant else _read, reader, request)
    inside = [path for path in request.paths if disk_file(path) != path]
    decisive = tuple(_as_json(key) for key in (*keys, inside) if key)
    return CorpusPart(read, request.paths, request.domain, reader.catalog, decisive, reader.tolerant)


def _as_json(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return (
        {str(key): item for key, item in value.items()}
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, tuple)
        else value
    )


def _read(reader: ReaderEntry, request: ReadRequest) -> Iterator[Row]:
    return reader.read(request)


def _read_until_fault(reader: ReaderEntry, request: ReadRequest) -> Iterator[Row]:
    """The rows up to what is wrong with the file, then one bad row."""
    try:
        yield from reader.read(request)
    except UserError:
        yield 1, None, None, None
