"""Step 4 of ``prepare``: text to ids, tokenised in the workers, written as one indexed dataset a pair and split.

Letters: N sentences of a block, S sides (one or two).
"""

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import lru_cache, partial
from itertools import chain, islice, repeat, zip_longest
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
    tags: tuple[tuple[str, int], ...] = ()
    """(tag, lines) for each run of lines whose source gets this tag, "" for none; empty: no line gets one."""


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
    fingerprint = fingerprint_of(
        text.hashes, text.languages, tokenizer.record["hash"], mapped_datasets.HEADER.hex(), *text.tags
    )
    if output := load_output(work, output_name, fingerprint):
        return output, False
    dtype = indexed.smallest_dtype(_open_tokenizer(tokenizer.directory).size)
    with new_output(work, output_name, fingerprint) as (directory, record):
        tokens = np.zeros(len(text.paths), np.int64)

        def id_blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            encode = partial(_encode_block, languages=text.languages, tokenizer=tokenizer.directory, dtype=dtype)
            with ProgressBar(f"tokenise {name}", "sentences", text.sentences) as progress:
                for ids, lengths_NS in map_in_order(pool, encode, _line_blocks(text)):
                    yield ids, lengths_NS
                    tokens[:] += lengths_NS.sum(0)
                    progress.add(len(lengths_NS))

        indexed.write_indexed_dataset(directory / "ids", id_blocks(), dtype)
        record.update(tokens=tokens.tolist(), sentences=text.sentences)
    return finished_output(work, output_name, fingerprint), True


class _LineBlock(NamedTuple):
    """Aligned lines of every file, and their tags, where any line of the text has one."""

    sides: list[list[bytes]]
    tags: list[str]


def _line_blocks(text: ParallelText) -> Iterator[_LineBlock]:
    streams = [path.open("rb") for path in text.paths]
    tags = chain.from_iterable(repeat(tag, lines) for tag, lines in text.tags)
    try:
        while any(sides := [list(islice(stream, BLOCK)) for stream in streams]):
            yield _LineBlock(sides, list(islice(tags, len(sides[0]))))
    finally:
        for stream in streams:
            stream.close()


def _encode_block(
    block: _LineBlock, languages: tuple[str, ...], tokenizer: Path, dtype: type[np.integer]
) -> tuple[np.ndarray, np.ndarray]:
    """All ids of a block, sentence by sentence and side by side within it, and lengths (sentence, side)."""
    encoder = _open_tokenizer(tokenizer)
    sides = [
        encoder.encode_many([line[:-1].decode() for line in lines], language)
        for lines, language in zip(block.sides, languages, strict=True)
    ]
    tag_ids = {tag: encoder.ids_of_tag(tag, languages[0]) for tag in set(block.tags)}
    if tag_ids:
        sides[0] = [tag_ids[tag] + ids for tag, ids in zip(block.tags, sides[0], strict=True)]
    flat_ids: list[int] = []
    for sentence in zip_longest(*sides, fillvalue=[]):
        for ids in sentence:
            flat_ids += ids
    lengths_NS = np.array([[len(ids) for ids in side] for side in sides], np.int64).T
    return np.array(flat_ids, dtype), lengths_NS


@lru_cache(maxsize=2)
def _open_tokenizer(directory: Path) -> Tokenizer:
    """Opened once a process, not once a text: a vocabulary of 256k takes 0.3 s."""
    return Tokenizer.open(directory)
