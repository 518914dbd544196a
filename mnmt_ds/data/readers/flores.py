"""FLORES-101, FLORES-200 and FLORES+: a directory with a file a language and split, the same sentences in each.

FLORES-101 and FLORES-200 have ``dev/bos_Latn.dev``, FLORES+ ``dev/dev.bos_Latn``, or ``dev/bos_Latn.jsonl`` or
``.parquet`` whose records have ``id`` and ``text``.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mnmt_ds.data.language_choice import codes_for
from mnmt_ds.data.readers import json_records, moses, parquet
from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.errors import UserError


def locate(request: ReadRequest) -> list[ReadRequest]:
    """Finds the two languages' files in the directory.

    Args:
        request: one path, the directory; ``split`` is dev or devtest (default: devtest for a test set, else dev's
            name); ``codes`` name a language's file where its code is not unique.

    Returns:
        One request with the two files' paths.

    Raises:
        UserError: when a language has no file in the directory, or several.
    """
    split = request.split or {"test": "devtest"}.get(request.role, request.role)
    paths = [find_file(request.paths[0], split, side, request.codes) for side in (request.source, request.target)]
    return [request._replace(paths=tuple(paths))]


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads the sentences that both files have: line by line, or of records by their ``id``.

    Args:
        request: two paths.

    Yields:
        A row a sentence.

    Raises:
        UserError: when a file cannot be read, or the two do not have the same sentences.
    """
    if not request.paths[0].endswith((".jsonl", ".parquet")):
        yield from moses.read(request)
        return
    source_path, target_path = request.paths
    targets = _texts_by_id(target_path, request)
    sources = _texts_by_id(source_path, request)
    if sources.keys() != targets.keys():
        only = sorted(sources.keys() ^ targets.keys())[0]
        raise UserError(f"{source_path}: has other sentences than {target_path} (id {only}); copy both again")
    for number, (identifier, text) in enumerate(sources.items(), 1):
        yield number, text, targets[identifier], None


def _texts_by_id(path: str, request: ReadRequest) -> dict[str, str]:
    records = parquet.records if path.endswith(".parquet") else json_records.records
    texts = {}
    for number, record in records(request._replace(paths=(path,), columns=("id", "text"))):
        text = record.get("text")
        if not isinstance(text, str) or record.get("id") is None:
            raise UserError(f"{path}:{number}: no record of FLORES+, which has 'id' and 'text'; copy the file again")
        texts[str(record["id"])] = text
    return texts


def find_file(directory: str, split: str, language: str, codes: Mapping[str, str]) -> str:
    """Finds a language's file: ``bos_Latn.dev`` for ``bs``, or what ``codes`` says.

    Args:
        directory: directory of FLORES.
        split: dev or devtest.
        language: the language's name in the recipe.
        codes: the file's name without the split, by language.

    Returns:
        Path of the file.

    Raises:
        UserError: when there is not exactly one such file.
    """
    root = Path(directory)
    if not root.is_dir():
        raise UserError(f"{root}: no such directory; mend the path in the recipe")
    folder = root / split if (root / split).is_dir() else root
    shape = re.compile(rf"(?:{split}\.)?(\w+?)(?:\.{split}|\.jsonl|\.parquet)|{split}\.(\w+)")
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        if match := shape.fullmatch(path.name):
            files.setdefault(match[1] or match[2], path)
    if language in codes:
        names = [name for name in files if name == codes[language]]
    else:
        names = codes_for(language, list(files), str(folder))
    if len(names) != 1:
        choice = f"one of {', '.join(files[name].name for name in names)}" if names else "the name without the split"
        raise UserError(
            f"{folder}: {len(names)} files for '{language}' in split {split};"
            f" say 'codes: {{{language}: ...}}', {choice}"
        )
    return str(files[names[0]])


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    (folder / "dev").mkdir()
    (folder / "dev" / "fra_Latn.dev").write_text("un chat\ndeux chats\n", encoding="utf-8")
    (folder / "dev" / "eng_Latn.dev").write_text("a cat\ntwo cats\n", encoding="utf-8")
    return {"path": str(folder), "split": "dev"}
