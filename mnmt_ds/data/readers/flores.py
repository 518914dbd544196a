"""FLORES-200: a directory with a file a language and split, line i of each the same sentence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers import moses
from mnmt_ds.data.readers.corpus_part import ReadRequest
from mnmt_ds.errors import UserError

read = moses.read


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


def find_file(directory: str, split: str, language: str, codes: Mapping[str, str]) -> str:
    """Finds a language's file: ``bos_Latn.dev`` for ``bs``, or what ``codes`` says.

    Args:
        directory: FLORES-200 directory.
        split: dev or devtest.
        language: the language's name in the recipe.
        codes: the file's name before the split, by language.

    Returns:
        Path of the file.

    Raises:
        UserError: when there is not exactly one such file.
    """
    root = Path(directory)
    folder = root / split if (root / split).is_dir() else root
    if language in codes or "_" in language:
        names = [f"{codes.get(language, language)}.{split}"]
    else:
        names = sorted(path.name for path in folder.glob(f"*_*.{split}") if _common_code(path.name[:3]) == language)
    files = [folder / name for name in names if (folder / name).is_file()]
    if len(files) != 1:
        choice = f"one of {', '.join(names)}" if len(names) > 1 else f"the name before .{split}"
        raise UserError(
            f"{folder}: {len(files)} files for '{language}' in split {split};"
            f" say 'codes: {{{language}: ...}}', {choice}"
        )
    return str(files[0])


def _common_code(code: str) -> str:
    """ISO 639-3 to the code in common use, which has two letters where there is one."""
    from babel.core import get_global

    aliases = get_global("language_aliases")
    return str(
        {"arb": "ar", "zho": "zh", "ekk": "et", "lvs": "lv", "swh": "sw", "khk": "mn"}.get(code)
        or aliases.get(code, code)
    )


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
