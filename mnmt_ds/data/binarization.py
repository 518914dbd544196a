"""Step 4 of ``prepare``: text to ids, tokenised in the workers, written as one indexed dataset a pair and split.

Letters: N sentences of a block, S sides (one or two).
"""

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import lru_cache, partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnmt_ds.data import indexed, mapped_datasets
from mnmt_ds.data.build_cache import BuildOutput, fingerprint_of, finished_output, load_output, new_output
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.data.worker_pool import ProgressBar, map_in_order

BLOCK = 4000
"""Sentences that a worker tokenises at once."""


class ParallelText(NamedTuple):
    """Parallel files, one a language (one file: monolingual)."""

    paths: tuple[Path, ...]
    """Files of aligned lines."""
    languages: tuple[str, ...]
    """Language of each file."""
    hashes: tuple[str, ...]
    """SHA-256 of each file."""
    sentences: int
    """Lines of each file."""


def build_binary_dataset(
    work: Path, pool: Executor, name: str, text: ParallelText, tokenizer: BuildOutput
) -> tuple[BuildOutput, bool]:
    """Writes a text's ids, unless that was done before.

    Args:
        work: directory of the corpus's outputs.
        pool: worker processes.
        name: the text's name, such as ``bs-en.train`` or ``mono.fr``.
        text: the files to tokenise.
        tokenizer: the output with the tokenizer.

    Returns:
        The output, with ``ids.bin`` and ``ids.idx``, and whether it had to be made. Its record holds the tokens of each
        side, without special symbols.
    """
    output_name = f"binary.{name}"
    fingerprint = fingerprint_of(text.hashes, text.languages, tokenizer.record["hash"], mapped_datasets.HEADER.hex())
    if output := load_output(work, output_name, fingerprint):
        return output, False
    dtype = indexed.smallest_dtype(Tokenizer.open(tokenizer.directory).size)
    with new_output(work, output_name, fingerprint) as (directory, record):
        tokens = np.zeros(len(text.paths), np.int64)

        def id_blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            encode = partial(_encode_block, languages=text.languages, tokenizer=tokenizer.directory, dtype=dtype)
            with ProgressBar(f"tokenise {name}", "sentences", text.sentences) as progress:
                for ids, lengths_NS in map_in_order(pool, encode, _line_blocks(text.paths)):
                    yield ids, lengths_NS
                    tokens[:] += lengths_NS.sum(0)
                    progress.add(len(lengths_NS))

        indexed.write_indexed_dataset(directory / "ids", id_blocks(), dtype)
        record.update(tokens=tokens.tolist(), sentences=text.sentences)
    return finished_output(work, output_name, fingerprint), True


def _line_blocks(paths: tuple[Path, ...]) -> Iterator[tuple[list[bytes], ...]]:
    streams = [path.open("rb") for path in paths]
    try:
        while any(block := tuple(list(islice(stream, BLOCK)) for stream in streams)):
            yield block
    finally:
        for stream in streams:
            stream.close()


def _encode_block(
    block: tuple[list[bytes], ...], languages: tuple[str, ...], tokenizer: Path, dtype: type[np.integer]
) -> tuple[np.ndarray, np.ndarray]:
    """All ids of a block, sentence by sentence and side by side within it, and lengths (sentence, side)."""
    encoder = _open_tokenizer(tokenizer)
    sides = [
        encoder.encode_many([line[:-1].decode() for line in lines], language)
        for lines, language in zip(block, languages, strict=True)
    ]
    flat_ids: list[int] = []
    for sentence in zip_longest(*sides, fillvalue=[]):
        for ids in sentence:
            flat_ids += ids
    lengths_NS = np.array([[len(ids) for ids in side] for side in sides], np.int64).T
    return np.array(flat_ids, dtype), lengths_NS


@lru_cache(maxsize=2)
def _open_tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.open(directory)
