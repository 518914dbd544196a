"""Tatoeba's weekly exports: sentences with numbers, and links between them.

A directory holds either the whole export (``sentences.csv``, ``links.csv``) or that of languages
(``fra_sentences.tsv``, ``fra-eng_links.tsv``), compressed or not. All are tables with tabs, without header or quotes.
Tatoeba's "sentence pairs" are a plain ``tsv`` with ``columns: [2, 4]``.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.language_codes import fits
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.lines import DECOMPRESSORS, read_lines
from mnmt_ds.errors import UserError

_ENDING = rf"\.(?:csv|tsv)(?:{'|'.join(map(re.escape, DECOMPRESSORS))})?"
_SENTENCES = re.compile(rf"(?:(\w+)_)?sentences(?:_detailed)?{_ENDING}")
_LINKS = re.compile(rf"(?:(\w+)-(\w+)_)?links{_ENDING}")


def locate(request: ReadRequest) -> list[ReadRequest]:
    """Finds the files of sentences and links.

    Args:
        request: one path, the directory of the export.

    Returns:
        One request with three paths: the source's and the target's sentences, and the links.

    Raises:
        UserError: when one is missing.
    """
    root = Path(request.paths[0])
    if not root.is_dir():
        raise UserError(f"{root}: no such directory; mend the path in the recipe")
    files = sorted(path for path in root.glob("*") if path.is_file())
    sentences = [_sentence_file(root, files, name) for name in request.names]
    links = [path for path in files if (match := _LINKS.fullmatch(path.name)) and _joins(match, request.names)]
    if not links:
        raise UserError(
            f"{root}: has neither links.csv nor {request.names[0]}-{request.names[1]}_links.tsv; copy it there"
        )
    return [request._replace(paths=(*sentences, str(links[0])))]


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads every link between two sentences of the languages, once; the sentences of both are held in memory.

    Args:
        request: three paths, of sentences in source and target language and of links.

    Yields:
        A row a link, in the order of links, which are the rows' numbers.

    Raises:
        UserError: when a file is laid out otherwise, or no link joins the languages.
    """
    source_path, target_path, links_path = request.paths
    sources = _sentences(source_path, request.names[0], request.max_line_bytes)
    targets = _sentences(target_path, request.names[1], request.max_line_bytes)
    any_rows, seen = False, set[tuple[bytes, bytes]]()
    for number, cells in _cells(links_path, 2, request.max_line_bytes):
        link = (cells[0], cells[1]) if cells[0] in sources else (cells[1], cells[0])
        if link[0] in sources and link[1] in targets and link not in seen:
            seen.add(link)
            any_rows = True
            yield number, sources[link[0]], targets[link[1]], None
    if not any_rows:
        raise UserError(f"{links_path}: joins no '{request.names[0]}' with '{request.names[1]}'; give 'codes'")


def _sentence_file(root: Path, files: list[Path], language: str) -> str:
    matches = {path: match[1] for path in files if (match := _SENTENCES.fullmatch(path.name))}
    own = [path for path, code in matches.items() if code and fits(code, language)]
    whole = [path for path, code in matches.items() if not code]
    if not own + whole:
        raise UserError(f"{root}: has neither sentences.csv nor sentences of '{language}'; copy Tatoeba's export there")
    return str((own + whole)[0])


def _joins(match: re.Match[str], names: tuple[str, str]) -> bool:
    """Whether a file of links is the export's own, or that of the two languages in either order."""
    if not match[1]:
        return True
    return any(fits(match[1], a) and fits(match[2], b) for a, b in (names, names[::-1]))


def _sentences(path: str, language: str, max_bytes: int) -> dict[bytes, bytes]:
    """Text by number, of one language."""
    is_requested_by_code: dict[bytes, bool] = {}
    texts = {}
    for _, cells in _cells(path, 3, max_bytes):
        is_requested = is_requested_by_code.get(cells[1])
        if is_requested is None:
            is_requested = is_requested_by_code[cells[1]] = fits(cells[1].decode("utf-8", "replace"), language)
        if is_requested:
            texts[cells[0]] = cells[2]
    if not texts:
        raise UserError(f"{path}: holds no sentence in '{language}'; give 'codes' as Tatoeba calls it, such as cmn")
    return texts


def _cells(path: str, count: int, max_bytes: int) -> Iterator[tuple[int, list[bytes]]]:
    for number, line in enumerate(read_lines(path, max_bytes), 1):
        cells = (line or b"").removesuffix(b"\r").split(b"\t")
        if len(cells) < count:
            raise UserError(
                f"{path}:{number}: {len(cells)} columns where {count} are wanted; is this Tatoeba's export?"
            )
        yield number, cells


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    text = "1\tfra\tun chat\n2\teng\ta cat\n3\tfra\tdeux chats\n4\teng\ttwo cats\n"
    (folder / "sentences.csv").write_text(text, encoding="utf-8")
    (folder / "links.csv").write_text("1\t2\n2\t1\n3\t4\n4\t3\n", encoding="utf-8")
    return {"path": str(folder)}
