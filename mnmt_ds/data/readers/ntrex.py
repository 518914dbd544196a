"""NTREX-128: newstest2019 in 128 languages, a file a language, every two of which are parallel."""

import re
from pathlib import Path
from typing import Any

from mnmt_ds.data.language_choice import codes_for
from mnmt_ds.data.readers import moses
from mnmt_ds.data.readers.corpus_part import ReadRequest
from mnmt_ds.errors import UserError

read = moses.read
_NAME = re.compile(r"newstest2019-(?:src|ref)\.([\w-]+)\.txt(?:\.(?:gz|bz2|xz|zst))?")


def locate(request: ReadRequest) -> list[ReadRequest]:
    """Finds the two languages' files in the directory.

    Args:
        request: one path, the directory (or the repository that holds it); ``codes`` name a language's file where its
            code is not unique, such as {zh: zho-CN}.

    Returns:
        One request with the two files' paths.

    Raises:
        UserError: when a language has no file in the directory, or several.
    """
    root = Path(request.paths[0])
    if not root.is_dir():
        raise UserError(f"{root}: no such directory; mend the path in the recipe")
    folder = root / "NTREX-128" if (root / "NTREX-128").is_dir() else root
    files = {match[1]: path for path in sorted(folder.glob("newstest2019-*")) if (match := _NAME.fullmatch(path.name))}
    if not files:
        raise UserError(f"{folder}: has no file such as newstest2019-ref.fra.txt; give NTREX-128's directory")
    paths = [_file(folder, files, side, request.codes) for side in (request.source, request.target)]
    return [request._replace(paths=tuple(paths))]


def _file(folder: Path, files: dict[str, Path], language: str, codes: Any) -> str:
    """A language's file: as ``codes`` says, or the only one of the language."""
    if language in codes:
        names = [code for code in files if code.lower() == codes[language].replace("_", "-").lower()]
    else:
        names = codes_for(language, list(files), str(folder))
    if len(names) != 1:
        choice = f"one of {', '.join(names)}" if names else "the name between the dots"
        raise UserError(f"{folder}: {len(names)} files for '{language}'; say 'codes: {{{language}: ...}}', {choice}")
    return str(files[names[0]])


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    (folder / "newstest2019-ref.fra.txt").write_text("un chat\ndeux chats\n", encoding="utf-8")
    (folder / "newstest2019-src.eng.txt").write_text("a cat\ntwo cats\n", encoding="utf-8")
    return {"path": str(folder)}
