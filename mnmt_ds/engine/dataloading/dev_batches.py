"""The dev sets as fixed batches, of which each rank makes its own; with many pairs a batch mixes them.

Letters: B sentences of a batch, S and T its source and target positions, N sentences of several pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.data.batching import PairLengths, fixed_batches
from mnmt_ds.data.corpus import Corpus, Split
from mnmt_ds.data.framing import Frame, FramingSettings
from mnmt_ds.data.loader import collate
from mnmt_ds.engine.dataloading.training_data import frame_of_pair, framed_lengths
from mnmt_ds.errors import FaultList
from mnmt_ds.kernels.target_rows import target_rows
from mnmt_ds.parallel_layout import ParallelLayout

MIXED_FROM = 64
"""Pairs from which on dev batches mix them: then many sets are far smaller than a batch."""
MIXED_AT_ONCE = 1 << 20
"""Sentences that are mixed with one another; their lengths are in memory at once."""


class DevBatches(NamedTuple):
    """A rank's share of all pairs' dev sets; all take equally many steps, since they gather together at ZeRO-3."""

    batches: list[Batch]
    """Every data_parallel_size-th batch."""
    steps: int
    """Batches that each rank runs, ``empty`` included."""
    empty: Batch
    """A batch that a rank runs, without counting it, where others have one more; one of its own where it has any."""
    pairs: list[NDArray[np.int64]] | None = None
    """Of each batch the pair's number of each sentence, (B,); None: a batch is of one pair."""


def mixes_pairs(count: int) -> bool:
    """Returns whether dev batches mix pairs, so that their losses are summed sentence by sentence.

    Args:
        count: number of pairs.

    Returns:
        True from ``MIXED_FROM`` pairs on.
    """
    return count >= MIXED_FROM


class _Chosen(NamedTuple):
    """Sentences of a rank's batch."""

    pair_B: NDArray[np.int64]
    sentence_B: NDArray[np.int64]


def dev_tokens(corpus: Corpus, pairs: Sequence[str], framing: FramingSettings, longest: int) -> dict[str, int]:
    """Counts the tokens of all pairs' dev sets.

    Args:
        corpus: prepared.
        pairs: names of language pairs.
        framing: where tags stand.
        longest: tokens that the model takes at most.

    Returns:
        Tokens by pair.

    Raises:
        UserError: where dev sets are empty.
    """
    tokens: dict[str, int] = {}
    faults = FaultList()
    for pair in pairs:
        lengths = framed_lengths(corpus.split(pair, "dev"), frame_of_pair(corpus, framing, pair), longest)
        tokens[pair] = int(lengths.target.sum())
        if not len(lengths.sentence):
            faults.faults.append(
                f"{corpus.directory}: the dev set of {pair} is empty;"
                f" give data.corpora.{pair}.dev or a larger data.split.dev"
            )
    faults.raise_any()
    return tokens


def dev_batches(
    corpus: Corpus, tokens: Mapping[str, int], framing: FramingSettings, max_tokens: int, longest: int,
    layout: ParallelLayout,
) -> DevBatches:  # fmt: skip
    """Makes batches of all pairs' dev sets, and keeps those of this rank.

    Args:
        corpus: prepared.
        tokens: of each pair, its count of dev tokens; one pair at least.
        framing: where tags stand.
        max_tokens: padded tokens of a batch.
        longest: tokens that the model takes at most.
        layout: of the ranks.

    Returns:
        The rank's batches.
    """
    pairs = [(corpus.split(pair, "dev"), frame_of_pair(corpus, framing, pair)) for pair in tokens]
    if mixes_pairs(len(tokens)):
        return _mixed(pairs, max_tokens, longest, layout)
    own: list[Batch] = []
    empty: Batch | None = None
    count = 0
    for number, ((split, frame), divisor) in enumerate(zip(pairs, tokens.values(), strict=True)):
        for sentences in fixed_batches(framed_lengths(split, frame, longest), max_tokens):
            is_own = count % layout.data_parallel_size == layout.data_parallel_rank
            if is_own or empty is None:
                batch = collate(split, sentences, frame, number, divisor)
                empty = own[0] if own else batch
                own += [batch] * is_own
            count += 1
    assert empty is not None, "no pair"
    return DevBatches(own, -(-count // layout.data_parallel_size), empty)


def _mixed(
    pairs: Sequence[tuple[Split, Frame]], max_tokens: int, longest: int, layout: ParallelLayout
) -> DevBatches:  # fmt: skip
    """Batches of sentences of like length, whatever their pairs."""
    own: list[_Chosen] = []
    first: _Chosen | None = None
    count = 0
    for pair_N, lengths in _joined(pairs, longest):
        for rows in fixed_batches(lengths._replace(sentence=np.arange(len(pair_N))), max_tokens):
            chosen = _Chosen(pair_N[rows], lengths.sentence[rows].astype(np.int64))
            own += [chosen] * (count % layout.data_parallel_size == layout.data_parallel_rank)
            first = first or chosen
            count += 1
    assert first is not None, "no pair"
    batches = _collate_mixed(pairs, own or [first])
    steps = -(-count // layout.data_parallel_size)
    return DevBatches(batches if own else [], steps, batches[0], [chosen.pair_B for chosen in own])


def _joined(pairs: Sequence[tuple[Split, Frame]], longest: int) -> Iterator[tuple[NDArray[np.int64], PairLengths]]:
    """The dev sets of successive pairs as one, some ``MIXED_AT_ONCE`` sentences: the pair of each, and its lengths."""
    parts: list[tuple[NDArray[np.int64], PairLengths]] = []
    for number, (split, frame) in enumerate(pairs):
        lengths = framed_lengths(split, frame, longest)
        parts.append((np.full(len(lengths.sentence), number), lengths))
        if number == len(pairs) - 1 or sum(len(pair_N) for pair_N, _ in parts) >= MIXED_AT_ONCE:
            columns = zip(*(lengths for _, lengths in parts), strict=True)
            yield np.concatenate([pair_N for pair_N, _ in parts]), PairLengths(*map(np.concatenate, columns))
            parts = []


def _collate_mixed(pairs: Sequence[tuple[Split, Frame]], chosen: Sequence[_Chosen]) -> list[Batch]:
    """Padded batches; each pair's sentences are read and framed at once."""
    batch_N = np.repeat(np.arange(len(chosen)), [len(batch.pair_B) for batch in chosen])
    row_N = np.concatenate([np.arange(len(batch.pair_B)) for batch in chosen])
    pair_N = np.concatenate([batch.pair_B for batch in chosen])
    sentence_N = np.concatenate([batch.sentence_B for batch in chosen])
    rows: list[list[tuple[Tensor, Tensor, Tensor]]] = [[()] * len(batch.pair_B) for batch in chosen]  # type: ignore[list-item]
    order = np.argsort(pair_N, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(pair_N[order])) + 1):
        split, frame = pairs[pair_N[places[0]]]
        batch = collate(split, sentence_N[places], frame, 0, 1)
        tensors = batch.source_BS, batch.decoder_BT, batch.target_BT
        sizes = [(tensor != PAD).sum(1).tolist() for tensor in tensors]
        for i, place in enumerate(places):
            source, decoder, target = (tensor[i, : size[i]] for tensor, size in zip(tensors, sizes, strict=True))
            rows[batch_N[place]][row_N[place]] = source, decoder, target
    return [_padded(*batch) for batch in zip(chosen, rows, strict=True)]


def _padded(chosen: _Chosen, rows: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Batch:
    source_BS, decoder_BT, target_BT = (
        torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True, padding_value=PAD)
        for part in zip(*rows, strict=True)
    )
    tokens = int((target_BT != PAD).sum())
    return Batch(
        source_BS, decoder_BT, target_BT, int(chosen.pair_B[0]), torch.from_numpy(chosen.sentence_B), tokens, tokens,
        target_rows=target_rows(target_BT, PAD),
    )  # fmt: skip
