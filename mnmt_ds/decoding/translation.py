"""Many sentences through the beam search: sorted by length, in token-budget batches, in one process or several."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from mnmt_ds.batch import BOS, PAD
from mnmt_ds.data.framing import frame_source
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.decoding.beam_search import Hypothesis, SearchSettings, beam_search
from mnmt_ds.decoding.loading import Translator
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.weights import load_model

Pieces = Sequence[int] | NDArray[np.integer]
"""Ids of a sentence's pieces, without tags and end symbol."""


class DecodingBatch(NamedTuple):
    """One batch: framed sources of one language pair."""

    pair: str
    places: list[int]
    """Where each sentence stood in the input."""
    sources: list[list[int]]
    start: int
    """The decoder's first input."""


class Decoder(Protocol):
    """Decodes batches and hands each back with its hypotheses, in any order."""

    def __call__(self, jobs: Sequence[DecodingBatch]) -> Iterator[tuple[DecodingBatch, list[list[Hypothesis]]]]: ...


def make_jobs(translator: Translator, pair: str, pieces: Sequence[Pieces], batch_tokens: int) -> list[DecodingBatch]:
    """Batches of at most ``batch_tokens`` padded source tokens (one sentence at least), longest sentences first.

    Sentences without a piece are left out: their translation is empty. Sources beyond the model's positions are cut.
    """
    frame = translator.frame(pair)
    room = translator.model.settings.max_positions - len(frame.source_prefix) - len(frame.source_suffix)
    order = sorted((i for i in range(len(pieces)) if len(pieces[i])), key=lambda i: (-len(pieces[i]), i))
    jobs: list[DecodingBatch] = []
    for place in order:
        source = frame_source(frame, [int(piece) for piece in pieces[place][:room]])
        if not jobs or (len(jobs[-1].places) + 1) * len(jobs[-1].sources[0]) > batch_tokens:
            jobs.append(DecodingBatch(pair, [], [], frame.decoder_start))
        jobs[-1].places.append(place)
        jobs[-1].sources.append(source)
    return jobs


def never_written(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids that no translation holds: start, padding, mask and tags."""
    return (BOS, PAD, *range(tokenizer.mask, tokenizer.size))


def decode(
    model: Transformer, job: DecodingBatch, settings: SearchSettings, banned: Sequence[int]
) -> list[list[Hypothesis]]:
    """The hypotheses of a batch."""
    device = model.embedding.weight.device
    source_BS = pad_sequence([torch.tensor(source) for source in job.sources], batch_first=True, padding_value=PAD)
    return beam_search(model, source_BS.to(device), job.start, settings, banned=banned)


def write_text(translator: Translator, hypothesis: Hypothesis) -> str:
    """A hypothesis as one line of text."""
    return " ".join(translator.tokenizer.decode(hypothesis.tokens).replace("\r", "\n").split("\n"))


@contextmanager
def decoder(translator: Translator, settings: SearchSettings, processes: int = 1) -> Iterator[Decoder]:
    """Decodes here, or in worker processes that each load the model and share the processors."""
    banned = never_written(translator.tokenizer)
    if processes <= 1:
        with _threads(useful_threads(translator.model)):
            yield lambda jobs: ((job, decode(translator.model, job, settings, banned)) for job in jobs)
        return
    threads = min(useful_threads(translator.model), max(1, (os.cpu_count() or 1) // processes))
    dtype = translator.model.embedding.weight.dtype
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=_open,
        initargs=(translator.directory, dtype, settings, banned, threads),
    )

    def in_pool(jobs: Sequence[DecodingBatch]) -> Iterator[tuple[DecodingBatch, list[list[Hypothesis]]]]:
        waiting = {pool.submit(_decode, job): job for job in jobs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()

    try:
        yield in_pool
    finally:
        pool.shutdown(cancel_futures=True)


def useful_threads(model: Transformer) -> int:
    """Threads that decoding gains from, for a model of this width.

    A step multiplies a few rows by small matrices: below some 128 columns a thread, waiting for one another costs
    more than the arithmetic (d_model 128 on two threads of one core: 28 times the time of one).
    """
    return max(1, min(torch.get_num_threads(), model.settings.d_model // 128))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def translate_all(
    translator: Translator,
    pieces: Mapping[str, Sequence[Pieces]],
    settings: SearchSettings,
    batch_tokens: int,
    processes: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, list[list[Hypothesis]]]:
    """Hypotheses of every pair's sentences (ids of their pieces) in input order; an empty list for an empty sentence.

    ``progress`` is told how many sentences are done.
    """
    jobs = [job for pair, sentences in pieces.items() for job in make_jobs(translator, pair, sentences, batch_tokens)]
    jobs.sort(key=lambda job: -len(job.sources[0]) * len(job.sources))
    result: dict[str, list[list[Hypothesis]]] = {pair: [[] for _ in rows] for pair, rows in pieces.items()}
    with decoder(translator, settings, min(processes, len(jobs))) as run:
        for job, hypotheses in run(jobs):
            for place, best in zip(job.places, hypotheses, strict=True):
                result[job.pair][place] = best
            progress(len(job.places))
    return result


_worker: tuple[Transformer, SearchSettings, Sequence[int]] | None = None


def _open(directory: Path, dtype: torch.dtype, settings: SearchSettings, banned: Sequence[int], threads: int) -> None:
    global _worker
    torch.set_num_threads(threads)
    _worker = load_model(directory)[0].to(dtype), settings, banned


def _decode(job: DecodingBatch) -> list[list[Hypothesis]]:
    assert _worker is not None
    model, settings, banned = _worker
    return decode(model, job, settings, banned)
