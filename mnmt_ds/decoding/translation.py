"""Many sentences through the beam search: sorted by length, in token-budget batches, in one process or several.

Shape letters: B sentences, S source positions.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from mnmt_ds.batch import BOS, EOS, PAD, UNK
from mnmt_ds.data.framing import frame_source
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.data.worker_pool import end_with_parent
from mnmt_ds.decoding.beam_search import BeamSettings, Hypothesis, beam_search, length_limits
from mnmt_ds.decoding.constraints import Phrase, constrained, piece_count, search_width
from mnmt_ds.decoding.loading import Translator
from mnmt_ds.decoding.long_text import writes_spaces
from mnmt_ds.decoding.sampling import sampler
from mnmt_ds.errors import UserError
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.weights import describe_model, load_model

SPACE = "▁"
"""What a space before a word is among pieces."""
Pieces = Sequence[int] | NDArray[np.integer]
"""Ids of a sentence's pieces, without tags and end symbol."""


class DecodingBatch(NamedTuple):
    """One batch of framed sources of one language pair."""

    pair: str
    positions: list[int]
    """Where each sentence stood in the input."""
    sources: list[list[int]]
    start: tuple[int, ...]
    """The decoder's first inputs."""
    forced: tuple[int, ...] = ()
    """Pieces with which every translation begins."""
    phrases: Sequence[Sequence[Phrase]] = ()
    """Of each sentence the pieces of phrases that its translation must hold; empty: no sentence has any."""


class Decoder(Protocol):
    """Decodes batches and hands each back with its hypotheses, in any order."""

    def __call__(self, batches: Sequence[DecodingBatch]) -> Iterator[tuple[DecodingBatch, list[list[Hypothesis]]]]: ...


def make_batches(
    translator: Translator, pair: str, pieces: Sequence[Pieces], batch_tokens: int, prefix: str = "",
    phrases: Sequence[Sequence[Phrase]] = (), beam: int = 1,
) -> list[DecodingBatch]:  # fmt: skip
    """Cuts a pair's sentences into batches, longest sentences first; those of a batch have as many pieces forced.

    Sentences without a piece are left out: their translation is empty. Sources beyond the model's positions are cut.
    Where phrases let more beams run, a batch has fewer sentences, so that it is no larger.

    Args:
        translator: model and tokenizer.
        pair: source and target language, such as ``bs-en``.
        pieces: ids of each source sentence's pieces.
        batch_tokens: padded source tokens a batch at most; a batch has at least one sentence.
        prefix: text with which every translation begins.
        phrases: of each sentence what its translation must hold; empty: nothing.
        beam: hypotheses that are kept of a sentence.

    Returns:
        The batches.

    Raises:
        UserError: where prefix and phrases leave no room for a translation.
    """
    frame = translator.frame(pair)
    forced = tuple(translator.tokenizer.encode(prefix, split_pair(pair)[1])) if prefix else ()
    forced_pieces = [piece_count(each) for each in phrases] or [0] * len(pieces)
    most = max(forced_pieces, default=0)
    if len(forced) + most + frame.target_extra >= translator.max_positions:
        what = f"prefix of {len(forced)} pieces" + (f" and phrases of {most}" if most else "")
        raise UserError(f"{what}: the model has {translator.max_positions} positions")
    room = translator.max_positions - frame.source_extra
    filled = (i for i in range(len(pieces)) if len(pieces[i]))
    order = sorted(filled, key=lambda i: (-forced_pieces[i], -len(pieces[i]), i))
    batches: list[DecodingBatch] = []
    for position in order:
        source = frame_source(frame, [int(piece) for piece in pieces[position][:room]])
        is_other = bool(batches) and forced_pieces[batches[-1].positions[0]] != forced_pieces[position]
        most_tokens = batch_tokens * beam // search_width(beam, forced_pieces[position])
        if not batches or is_other or (len(batches[-1].positions) + 1) * len(batches[-1].sources[0]) > most_tokens:
            start = (frame.decoder_start, *frame.target_prefix)
            batches.append(DecodingBatch(pair, [], [], start, forced, [] if phrases else ()))
        if phrases:
            batches[-1] = batches[-1]._replace(phrases=[*batches[-1].phrases, phrases[position]])
        batches[-1].positions.append(position)
        batches[-1].sources.append(source)
    return batches


def untranslatable_ids(tokenizer: Tokenizer, settings: BeamSettings) -> tuple[int, ...]:
    """Lists the ids that no translation may hold: start symbol, padding, mask and tags; the unknown piece if so set.

    Args:
        tokenizer: the model's tokenizer.
        settings: whether the unknown piece is banned.

    Returns:
        The ids, as ``beam_search`` bans them.

    Raises:
        UserError: where a piece that is to be banned is not in the vocabulary.
    """
    unknown = (UNK,) if settings.ban_unknown else ()
    return (
        BOS,
        PAD,
        *unknown,
        *_ids_of(tokenizer, settings.banned_pieces),
        *range(tokenizer.piece_count, tokenizer.size),
    )


def _ids_of(tokenizer: Tokenizer, pieces: Sequence[str]) -> list[int]:
    """Ids of pieces; UserError where the vocabulary has no such piece."""
    if not pieces:
        return []
    id_of = {tokenizer.piece(id_): id_ for id_ in range(tokenizer.piece_count)}
    for piece in pieces:
        if id_of.get(piece, EOS) == EOS:
            raise UserError(f"piece '{piece}': not in the vocabulary; a word's first piece begins with ▁ (U+2581)")
    return [id_of[piece] for piece in pieces]


def encode_phrase(tokenizer: Tokenizer, text: str, language: str, banned: Collection[int]) -> Phrase:
    """Tokenises a phrase that translations must hold.

    Args:
        tokenizer: of the model.
        text: the phrase, from a word's beginning.
        language: its language.
        banned: tokens that are never generated.

    Returns:
        Ids of its pieces; the space before it is one where the language writes any.

    Raises:
        UserError: where no translation could hold it.
    """
    text = text.strip()
    ids = tokenizer.encode(text, language)
    if not writes_spaces(language) and len(ids) > 1 and tokenizer.piece(ids[0]) == SPACE:
        ids = ids[1:]
    if not ids:
        raise UserError("an empty phrase: give the text that translations must hold")
    if UNK in ids:
        raise UserError(f"phrase '{text}': holds what the vocabulary cannot write; leave it out")
    if hit := [tokenizer.piece(i) for i in ids if i in banned]:
        raise UserError(f"phrase '{text}': its piece {hit[0]} is banned; leave out one of both")
    return tuple(ids)


def decode_batch(
    model: Transformer | Sequence[Transformer], batch: DecodingBatch, settings: BeamSettings, banned: Sequence[int]
) -> list[list[Hypothesis]]:
    """Translates one batch on the model's device.

    Args:
        model: the model, in eval mode, or those of an ensemble.
        batch: framed sources of one pair.
        settings: beam, length penalty and limits.
        banned: ids that are never generated.

    Returns:
        For each sentence of the batch its hypotheses, best first.
    """
    models = [model] if isinstance(model, Transformer) else model
    device = models[0].embedding.weight.device
    source_BS = pad_sequence([torch.tensor(source) for source in batch.sources], batch_first=True, padding_value=PAD)
    choose, limit, width = None, None, settings.beam
    if settings.sample_temperature:
        choose = sampler(settings, f"{batch.pair} {batch.positions} {batch.sources[0]}")
    elif any(batch.phrases):
        forced_pieces = piece_count(batch.phrases[0])
        width = search_width(settings.beam, forced_pieces)
        choose = constrained(batch.phrases, width, batch.forced)
        positions = min(each.settings.max_positions for each in models) - len(batch.start) - len(batch.forced) + 1
        limit = (length_limits(source_BS, settings, positions) + forced_pieces).tolist()
    rows = beam_search(
        models,
        source_BS.to(device),
        (*batch.start, *batch.forced),
        settings,
        limit,
        banned,
        continuations=choose,
        width=width,
    )
    if not batch.forced:
        return rows
    return [[each._replace(tokens=[*batch.forced, *each.tokens]) for each in row] for row in rows]


def hypothesis_text(translator: Translator, hypothesis: Hypothesis) -> str:
    """Formats a hypothesis as one line of text.

    Args:
        translator: model and tokenizer.
        hypothesis: a finished translation.

    Returns:
        The text without line ends.
    """
    return " ".join(translator.tokenizer.decode(hypothesis.tokens).replace("\r", "\n").split("\n"))


@contextmanager
def open_decoder(translator: Translator, settings: BeamSettings, processes: int = 1) -> Iterator[Decoder]:
    """Decodes in this process, or in worker processes that each load the model and share the processors.

    Args:
        translator: model and tokenizer.
        settings: beam, length penalty and limits.
        processes: worker processes; 1: none, batches are decoded here.

    Yields:
        A function from batches to (batch, hypotheses), in any order.
    """
    banned = untranslatable_ids(translator.tokenizer, settings)
    if processes <= 1:
        with _threads(useful_threads(translator.model)):
            yield lambda batches: (
                (batch, decode_batch(translator.models, batch, settings, banned)) for batch in batches
            )
        return
    for each in (translator, *translator.ensemble):
        if describe_model(each.directory).get("sha256") != each.description.get("sha256"):
            raise UserError(f"{each.directory}: was replaced since it was read; name a copy, or one of snapshots/")
    threads = min(useful_threads(translator.model), max(1, (os.cpu_count() or 1) // processes))
    dtype = translator.model.embedding.weight.dtype
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=_open,
        initargs=(translator.directories, dtype, settings, banned, threads, os.getpid()),
    )

    def in_pool(batches: Sequence[DecodingBatch]) -> Iterator[tuple[DecodingBatch, list[list[Hypothesis]]]]:
        waiting = {pool.submit(_decode, batch): batch for batch in batches}
        for future in as_completed(waiting):
            yield waiting[future], future.result()

    try:
        yield in_pool
    finally:
        pool.shutdown(cancel_futures=True)


def useful_threads(model: Transformer) -> int:
    """Computes how many threads speed up decoding with a model of this width.

    A step multiplies a few rows by small matrices: below some 128 columns a thread, waiting for one another costs
    more than the arithmetic (d_model 128 on two threads of one core: 28 times the time of one).

    Args:
        model: the model; its width counts.

    Returns:
        Threads, at most torch's own number.
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


def _not_finite(translator: Translator, batch: DecodingBatch) -> str:
    """Says that a batch has no translations, and what helps."""
    dtype = str(translator.model.embedding.weight.dtype).removeprefix("torch.")
    remedy = "take another checkpoint" if dtype == "float32" else "take --dtype fp32, or another checkpoint"
    return f"a sentence of {batch.pair} has no translation: the model's scores are not finite in {dtype}; {remedy}"


def translate_all(
    translator: Translator,
    pieces: Mapping[str, Sequence[Pieces]],
    settings: BeamSettings,
    batch_tokens: int,
    processes: int = 1,
    progress: Callable[[int], None] = lambda count: None,
    prefix: str = "",
    phrases: Sequence[Sequence[Phrase]] = (),
) -> dict[str, list[list[Hypothesis]]]:
    """Translates all sentences of several pairs, long batches first.

    Args:
        translator: model and tokenizer.
        pieces: for each pair the ids of its source sentences' pieces.
        settings: beam, length penalty and limits.
        batch_tokens: padded source tokens a batch at most.
        processes: worker processes; 1: none.
        progress: called with the number of sentences done, batch by batch.
        prefix: text with which every translation begins.
        phrases: of each sentence of each pair what its translation must hold; empty: nothing.

    Returns:
        For each pair the hypotheses of its sentences in input order; an empty list for an empty sentence.

    Raises:
        UserError: where the model's scores are not finite, so that a sentence has no translation.
    """
    batches = [
        batch
        for pair, sentences in pieces.items()
        for batch in make_batches(translator, pair, sentences, batch_tokens, prefix, phrases, settings.beam)
    ]
    batches.sort(key=lambda batch: -len(batch.sources[0]) * len(batch.sources))
    result: dict[str, list[list[Hypothesis]]] = {pair: [[] for _ in rows] for pair, rows in pieces.items()}
    with open_decoder(translator, settings, min(processes, len(batches))) as run:
        for batch, hypotheses in run(batches):
            if not all(hypotheses):
                raise UserError(f"{translator.directory}: {_not_finite(translator, batch)}")
            for position, best in zip(batch.positions, hypotheses, strict=True):
                result[batch.pair][position] = best
            progress(len(batch.positions))
    return result


_worker: tuple[Sequence[Transformer], BeamSettings, Sequence[int]] | None = None


def _open(
    directories: Sequence[Path], dtype: torch.dtype, settings: BeamSettings, banned: Sequence[int], threads: int,
    parent: int,
) -> None:  # fmt: skip
    global _worker
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it, too, and ends the pool
    torch.set_num_threads(threads)
    _worker = [load_model(directory)[0].to(dtype) for directory in directories], settings, banned


def _decode(batch: DecodingBatch) -> list[list[Hypothesis]]:
    assert _worker is not None
    models, settings, banned = _worker
    return decode_batch(models, batch, settings, banned)
