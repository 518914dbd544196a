"""Stage 4: text to ids, tokenised in the workers, written as one indexed dataset a pair and split."""

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import lru_cache, partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnmt_ds.data import indexed
from mnmt_ds.data.build_cache import BuildStage, fingerprint_of, load_stage, new_stage
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.data.worker_pool import Progress, map_in_order

BLOCK = 4000


class ParallelText(NamedTuple):
    """Parallel files, one a language (one file: monolingual)."""

    paths: tuple[Path, ...]
    languages: tuple[str, ...]
    hashes: tuple[str, ...]
    """SHA-256 of each file."""
    sentences: int


def build_binary_stage(
    work: Path, pool: Executor, name: str, text: ParallelText, tokenizer: Path, hash_: str
) -> tuple[BuildStage, bool]:
    """The stage with ids.bin and ids.idx, and whether it had to be made."""
    print_ = fingerprint_of(text.hashes, text.languages, hash_, indexed.HEADER.hex())
    if stage := load_stage(work, f"binary.{name}", print_):
        return stage, False
    dtype = indexed.smallest_dtype(Tokenizer.open(tokenizer).size)
    with new_stage(work, f"binary.{name}", print_) as (directory, record):
        tokens = np.zeros(len(text.paths), np.int64)

        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            encode = partial(_encoded, languages=text.languages, tokenizer=tokenizer, dtype=dtype)
            with Progress(f"tokenise {name}", "sentences", text.sentences) as progress:
                for ids, lengths_NS in map_in_order(pool, encode, _blocks(text.paths)):
                    yield ids, lengths_NS
                    tokens[:] += lengths_NS.sum(0)
                    progress.add(len(lengths_NS))

        indexed.write_indexed_dataset(directory / "ids", blocks(), dtype)
        record.update(tokens=tokens.tolist(), sentences=text.sentences)
    stage = load_stage(work, f"binary.{name}", print_)
    assert stage is not None
    return stage, True


def _blocks(paths: tuple[Path, ...]) -> Iterator[tuple[list[bytes], ...]]:
    streams = [path.open("rb") for path in paths]
    try:
        while any(block := tuple(list(islice(stream, BLOCK)) for stream in streams)):
            yield block
    finally:
        for stream in streams:
            stream.close()


def _encoded(
    block: tuple[list[bytes], ...], languages: tuple[str, ...], tokenizer: Path, dtype: type[np.integer]
) -> tuple[np.ndarray, np.ndarray]:
    """All ids of a block, sentence by sentence and side by side within it, and lengths (sentence, side)."""
    encoder = _opened(tokenizer)
    sides = [
        encoder.encode_many([line[:-1].decode() for line in lines], language)
        for lines, language in zip(block, languages, strict=True)
    ]
    flat: list[int] = []
    for sentence in zip_longest(*sides, fillvalue=[]):
        for ids in sentence:
            flat += ids
    lengths_NS = np.array([[len(ids) for ids in side] for side in sides], np.int64).T
    return np.array(flat, dtype), lengths_NS


@lru_cache(maxsize=2)
def _opened(directory: Path) -> Tokenizer:
    return Tokenizer.open(directory)
