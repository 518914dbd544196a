"""Random batches of one language pair, or of a language under concurrent denoising, for the analyses."""

from collections.abc import Sequence

import numpy as np

from mnmt_ds.batch import Batch
from mnmt_ds.data.batching import EpochPlan, PairLengths, plan_batches, usable_lengths
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.denoising import ConcurrentTask, DenoisingSettings
from mnmt_ds.data.framing import FramingSettings, frame_of
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.loader import collate
from mnmt_ds.data.monolingual import DenoisingSources
from mnmt_ds.distributed import seed_of


def random_batches_of_pair(
    corpus: Corpus, framing: FramingSettings, pair: str, count: int, max_tokens: int, longest: int, seed: int
) -> list[Batch]:
    """Draws random training batches of a pair, without replacement.

    Args:
        corpus: the prepared corpus.
        framing: where language tags stand.
        pair: source and target language, such as ``bs-en``.
        count: batches wanted.
        max_tokens: padded tokens of a batch, on its longer side.
        longest: longest sentence in tokens.
        seed: of the draw.

    Returns:
        ``count`` batches; fewer where the pair has no more text.
    """
    source, target = split_pair(pair)
    frame = frame_of(framing, corpus.tokenizer.tag(source), corpus.tokenizer.tag(target))
    split = corpus.split(pair, "train")
    extra = len(frame.source_prefix) + len(frame.source_suffix)
    lengths = usable_lengths(split.source_lengths, split.target_lengths, extra, 1, min(longest, max_tokens))
    plan = plan_batches([lengths], seed_of(seed, "analyse", pair), max_tokens, 1)
    return [collate(split, chosen, frame, 0, 1) for chosen in _first(plan, count)]


def random_batches_by_language(
    corpus: Corpus, framing: FramingSettings, pairs: Sequence[str], count: int, max_tokens: int, longest: int, seed: int
) -> dict[str, list[Batch]]:
    """Draws random batches of concurrent denoising, for each language of the pairs.

    Args:
        corpus: the prepared corpus.
        framing: where language tags stand.
        pairs: language pairs of the run.
        count: batches wanted of each language.
        max_tokens: padded tokens of a batch, on its longer side.
        longest: longest sentence in tokens.
        seed: of the draw and of the noise.

    Returns:
        Batches by language; fewer than ``count`` where a language has no more text.
    """
    settings = DenoisingSettings(tasks=(ConcurrentTask(),))
    mono = DenoisingSources(corpus, pairs, settings, framing, seed, min(longest, max_tokens))
    batches = {}
    for number, source in enumerate(mono.sources):
        numbers = np.arange(len(source.pool))
        length = source.pool.lengths(numbers) + 2
        fits = length <= mono.max_length
        plan = plan_batches(
            [PairLengths(numbers[fits], length[fits], length[fits])],
            seed_of(seed, "analyse", source.name), max_tokens, 1,
        )  # fmt: skip
        batches[source.language] = [
            mono.make_batch(0, mono.first_number + number, chosen) for chosen in _first(plan, count)
        ]
    return batches


def _first(plan: EpochPlan, count: int) -> list[np.ndarray]:
    bounds = zip(plan.start[:-1], plan.start[1:], strict=True)
    return [plan.sentence[a:b] for a, b in list(bounds)[:count]]
