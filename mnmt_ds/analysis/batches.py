"""Random batches for the analyses: of one language pair, of a language under concurrent denoising, or mixed ones.

Letters: B sentences, S source and T target positions, N sentences to draw from.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.data.batching import EpochPlan, PairLengths, plan_batches, usable_lengths
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.denoising import ConcurrentTask, DenoisingSettings
from mnmt_ds.data.framing import FramingSettings, frame_of
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.loader import collate
from mnmt_ds.data.monolingual import DenoisingSources
from mnmt_ds.data.word_boundaries import Ints
from mnmt_ds.distributed import seed_of


class TextSource(NamedTuple):
    """Text that batches are drawn from: a pair's training set, or a language's text under concurrent denoising."""

    name: str
    """Pair or language."""
    seed_name: str
    """What the draw is seeded by, beside the seed."""
    lengths: PairLengths
    """Lengths of the sentences that are short enough."""
    make_batch: Callable[[Ints], Batch]
    """From numbers of sentences to a batch."""


def sources_of_pairs(
    corpus: Corpus, framing: FramingSettings, pairs: Sequence[str], max_tokens: int, longest: int
) -> list[TextSource]:
    """Makes a source of each pair's training set.

    Args:
        corpus: the prepared corpus.
        framing: where language tags stand.
        pairs: source and target language of each, such as ``bs-en``.
        max_tokens: padded tokens of a batch, on its longer side.
        longest: longest sentence in tokens.

    Returns:
        A source a pair.
    """
    sources = []
    for pair in pairs:
        source, target = split_pair(pair)
        frame = frame_of(framing, corpus.tokenizer.tag(source), corpus.tokenizer.tag(target))
        split = corpus.split(pair, "train")
        extra, most = (frame.source_extra, frame.target_extra), min(longest, max_tokens)
        lengths = usable_lengths(split.source_lengths, split.target_lengths, *extra, most)
        sources.append(TextSource(pair, pair, lengths, partial(collate, split, frame=frame, pair=0, divisor=1)))
    return sources


def sources_of_languages(
    corpus: Corpus, framing: FramingSettings, pairs: Sequence[str], max_tokens: int, longest: int, seed: int
) -> list[TextSource]:
    """Makes a source of concurrent denoising of each language of the pairs.

    Args:
        corpus: the prepared corpus.
        framing: where language tags stand.
        pairs: language pairs of the run.
        max_tokens: padded tokens of a batch, on its longer side.
        longest: longest sentence in tokens.
        seed: of the noise.

    Returns:
        A source a language.
    """
    settings = DenoisingSettings(tasks=(ConcurrentTask(),))
    mono = DenoisingSources(corpus, pairs, settings, framing, seed, min(longest, max_tokens))
    sources = []
    for number, source in enumerate(mono.sources, start=mono.first_number):
        numbers = np.arange(len(source.pool))
        length = source.pool.lengths(numbers) + 2
        fits = length <= mono.max_length
        lengths = PairLengths(numbers[fits], length[fits], length[fits])
        sources.append(TextSource(source.language, source.name, lengths, partial(mono.make_batch, 0, number)))
    return sources


def random_batches(source: TextSource, count: int, max_tokens: int, seed: int) -> list[Batch]:
    """Draws random batches of one source, without replacement.

    Args:
        source: what they are drawn from.
        count: batches wanted.
        max_tokens: padded tokens of a batch, on its longer side.
        seed: of the draw.

    Returns:
        ``count`` batches; fewer where the source has no more text.
    """
    plan = plan_batches([source.lengths], seed_of(seed, "analyse", source.seed_name), max_tokens, 1)
    return [source.make_batch(chosen) for chosen in _first(plan, count)]


def mixed_batches(sources: Sequence[TextSource], left_out: str, count: int, max_tokens: int, seed: int) -> list[Batch]:
    """Draws random batches whose sentences are of all languages but one, as many of each as its share of the text.

    Args:
        sources: all languages (or pairs).
        left_out: the one that no sentence is of.
        count: batches wanted.
        max_tokens: padded tokens of a batch, on its longer side.
        seed: of the draw.

    Returns:
        ``count`` batches; fewer where there is no more text.
    """
    others = [source for source in sources if source.name != left_out]
    first = np.cumsum([0, *(len(source.lengths.sentence) for source in others)])
    source_N = np.concatenate([source.lengths.source for source in others])
    target_N = np.concatenate([source.lengths.target for source in others])
    draw_seed = seed_of(seed, "analyse", "all but", left_out)
    order_N = np.random.Generator(np.random.Philox(draw_seed)).permutation(len(source_N))  # mixes equally long ones
    plan = plan_batches([PairLengths(order_N, source_N[order_N], target_N[order_N])], draw_seed, max_tokens, 1)
    drawn = []
    for chosen in _first(plan, count):
        owner = np.searchsorted(first, chosen, side="right") - 1
        drawn.append(
            join_batches([
                source.make_batch(source.lengths.sentence[chosen[owner == i] - first[i]])
                for i, source in enumerate(others)
                if (owner == i).any()
            ])
        )  # fmt: skip
    return drawn


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Joins batches of several languages into one, whose loss sum is the sum of theirs.

    Args:
        batches: batches of one task.

    Returns:
        The batch; its pair is -1.
    """
    has_encoder_target = batches[0].encoder_target_BS is not None
    return batches[0]._replace(
        source_BS=_stack([batch.source_BS for batch in batches]),
        decoder_BT=_stack([batch.decoder_BT for batch in batches]),
        target_BT=_stack([batch.target_BT for batch in batches]),
        target_rows=None,
        encoder_target_rows=None,
        pair=-1,
        sentence_B=torch.cat([batch.sentence_B for batch in batches]),
        tokens=sum(batch.tokens for batch in batches),
        encoder_target_BS=_stack([batch.encoder_target_BS for batch in batches if batch.encoder_target_BS is not None])
        if has_encoder_target
        else None,
    )


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Rows of matrices of different widths, padded to the widest."""
    width = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([pad(tensor, (0, width - tensor.shape[1]), value=PAD) for tensor in tensors])


def _first(plan: EpochPlan, count: int) -> list[Ints]:
    return [plan.sentences_of(number) for number in range(min(count, len(plan.pair)))]
