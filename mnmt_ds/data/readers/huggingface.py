"""Hugging Face datasets that were saved to disk: a ``translation`` column, or one column a language."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnmt_ds.data.readers.corpus_part import ReadRequest, Row
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
    columns = list(data.column_names)
    nested = "translation" in columns
    if nested:
        columns = list(data.features["translation"].keys() if hasattr(data.features["translation"], "keys")
                       else data.features["translation"].languages)  # fmt: skip
    source, target = request.names
    for name in (source, target):
        if name not in columns:
            raise UserError(f"{path}: no column '{name}'; the columns are {', '.join(columns)}: say which in 'columns'")
    selected = data.select_columns(["translation"] if nested else list(dict.fromkeys((source, target))))
    number = 0
    for batch in selected.iter(batch_size=1000):
        if nested:
            rows = [(cell[source], cell[target]) for cell in batch["translation"]]
        else:
            rows = list(zip(batch[source], batch[target], strict=True))
        for source_text, target_text in rows:
            number += 1
            yield number, source_text or "", target_text or "", None


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
