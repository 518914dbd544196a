"""Hugging Face datasets that were saved to disk: a ``translation`` column, or one column a language.

What a translation column of datasets 5 may hold: one text a language ({"en": …, "fr": …}, also as Json), parallel lists
of languages and texts ({"language": […], "translation": […]}), or a list with an element a language.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
from mnmt_ds.data.readers.records import names_in, texts_by_language
from mnmt_ds.errors import UserError


def read(request: ReadRequest) -> Iterator[Row]:
    """Reads two languages of a dataset; of monolingual text one language on both sides.

    Args:
        request: one path, the dataset's directory; ``columns`` or ``codes`` name the columns where they are not called
            as the languages; ``split`` chooses one of several splits (default: train).

    Yields:
        A row a record; a missing text is empty.

    Raises:
        UserError: when the package ``datasets`` is missing, or the directory, the split or a column.
    """
    (path,) = request.paths
    try:
        from datasets import Dataset, load_from_disk
    except ImportError:
        raise UserError(
            f"{path}: reading this needs the package 'datasets'; pip install 'mnmt_ds[huggingface]'"
        ) from None
    try:
        data: Any = load_from_disk(path)
    except Exception as error:  # what it raises is not documented
        raise UserError(f"{path}: not a dataset saved by save_to_disk ({' '.join(str(error).split())})") from None
    if not isinstance(data, Dataset):
        split = request.split or "train"
        if split not in data:
            raise UserError(f"{path}: no split '{split}'; it has {', '.join(map(str, data))}: say which in 'split'")
        data = data[split]
    source, target = names_in(path, request, data.column_names)
    if "translation" in data.column_names and not {source, target} <= set(data.column_names):
        yield from _nested_rows(path, data.select_columns(["translation"]), request)
        return
    for name in (source, target):
        if name not in data.column_names:
            columns = ", ".join(data.column_names)
            raise UserError(f"{path}: no column '{name}'; the columns are {columns}: say which in 'columns'")
        kind = data.features[name]
        if getattr(kind, "dtype", "") not in ("string", "large_string"):
            held = getattr(kind, "dtype", None) or type(kind).__name__
            raise UserError(f"{path}: column '{name}' holds {held}, not text; name another one in 'columns'")
    number = 0
    for batch in _batches(path, data, list(dict.fromkeys((source, target)))):
        for source_text, target_text in zip(batch[source], batch[target], strict=True):
            number += 1
            yield number, source_text or "", target_text or "", None


def _nested_rows(path: str, data: Any, request: ReadRequest) -> Iterator[Row]:
    """Rows of a translation column; a language that a record lacks is empty."""
    kind = data.features["translation"]
    declared = kind if isinstance(kind, dict) and "language" not in kind else getattr(kind, "languages", None)
    source, target = names_in(path, request, list(declared or ()))
    _check_languages(path, source, target, declared)
    seen: dict[str, None] = {}
    number = 0
    for batch in data.iter(batch_size=1000):
        for cell in batch["translation"]:
            number += 1
            texts = texts_by_language(cell)
            if texts is None:
                raise UserError(f"{path}: record {number}: its 'translation' is no texts by language; name 'columns'")
            if not seen and not declared:
                source, target = names_in(path, request, list(texts))
            seen.update(dict.fromkeys(texts))
            sides = [texts.get(name) or "" for name in (source, target)]
            for name, text in zip((source, target), sides, strict=True):
                if not isinstance(text, str):
                    kind = type(text).__name__
                    raise UserError(f"{path}: record {number}: '{name}' in 'translation' holds {kind}, not text")
            yield number, sides[0], sides[1], None
    if number:
        _check_languages(path, source, target, seen)


def _check_languages(path: str, source: str, target: str, column_languages: Iterable[str] | None) -> None:
    """UserError where a translation column lacks a language; None: it does not say which it has."""
    languages = list(column_languages or ())
    for name in (source, target) if column_languages is not None else ():
        if name not in languages:
            raise UserError(
                f"{path}: no column '{name}'; the columns are {', '.join(languages)}: say which in 'columns'"
            )


def _batches(path: str, data: Any, columns: list[str]) -> Iterator[Any]:
    """A dataset's records by the thousand; UserError where its files do not fit together."""
    try:
        for batch in data.select_columns(columns).iter(batch_size=1000):
            if not set(columns) <= set(batch):
                raise KeyError(f"no {' or '.join(columns)} in its files")
            yield batch
    except Exception as error:  # what it raises is not documented
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: its files do not fit together ({reason}); save it again") from None


def example(folder: Path) -> dict[str, Any]:
    """Writes a minimal example of the format, fr-en.

    Args:
        folder: an empty directory.

    Returns:
        Keys of the recipe's entry, ``format`` left out.
    """
    from datasets import Dataset

    rows = [{"fr": "un chat", "en": "a cat"}, {"fr": "deux chats", "en": "two cats"}]
    Dataset.from_list(rows).save_to_disk(str(folder / "text"))
    return {"path": str(folder / "text")}
