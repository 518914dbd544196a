"""Hugging Face datasets that were saved to disk: a ``translation`` column, or one column a language."""

from collections.abc import Iterator
from typing import Any

from mnmt_ds.data.readers.corpus_part import Row
from mnmt_ds.errors import UserError


def huggingface(path: str, split: str, names: tuple[str, str]) -> Iterator[Row]:
    """Two languages of a dataset; the same name twice for monolingual text."""
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
        chosen = split or "train"
        if chosen not in data:
            raise UserError(f"{path}: no split '{chosen}'; it has {', '.join(map(str, data))}: say which in 'split'")
        data = data[chosen]
    known = list(data.column_names)
    nested = "translation" in known
    if nested:
        known = list(data.features["translation"].keys() if hasattr(data.features["translation"], "keys")
                     else data.features["translation"].languages)  # fmt: skip
    for name in names:
        if name not in known:
            raise UserError(f"{path}: no column '{name}'; the columns are {', '.join(known)}: say which in 'columns'")
    columns = data.select_columns(["translation"] if nested else list(dict.fromkeys(names)))
    number = 0
    for batch in columns.iter(batch_size=1000):
        if nested:
            rows = [(cell[names[0]], cell[names[1]]) for cell in batch["translation"]]
        else:
            rows = list(zip(batch[names[0]], batch[names[1]], strict=True))
        for source, target in rows:
            number += 1
            yield number, source or "", target or "", None
