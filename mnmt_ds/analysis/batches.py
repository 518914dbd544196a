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


def of_pair(
    corpus: Corpus, framing: FramingSettings, pair: str, count: int, max_tokens: int, longest: int, seed: int
) -> list[Batch]:
    """At most ``count`` batches of a pair's training set, drawn without replacement; fewer where it has no more."""
    source, target = split_pair(pair)
    frame = frame_of(framing, corpus.tokenizer.tag(source), corpus.tokenizer.tag(target))
    split = corpus.split(pair, "train")
    extra = len(frame.source_prefix) + len(frame.source_suffix)
    known = usable_lengths(split.source_lengths, split.target_lengths, extra, 1, min(longest, max_tokens))
    plan = plan_batches([known], seed_of(seed, "analyse", pair), max_tokens, 1)
    return [collate(split, chosen, frame, 0, 1) for chosen in _first(plan, count)]


def of_languages(
    corpus: Corpus, framing: FramingSettings, pairs: Sequence[str], count: int, max_tokens: int, longest: int, seed: int
) -> dict[str, list[Batch]]:
    """The same for concurrent denoising, by language."""
    settings = DenoisingSettings(tasks=(ConcurrentTask(),))
    mono = DenoisingSources(corpus, pairs, settings, framing, seed, min(longest, max_tokens))
    found = {}
    for number, source in enumerate(mono.sources):
        every = np.arange(len(source.pool))
        length = source.pool.lengths(every) + 2
        fits = length <= mono.max_length
        plan = plan_batches(
            [PairLengths(every[fits], length[fits], length[fits])],
            seed_of(seed, "analyse", source.name), max_tokens, 1,
        )  # fmt: skip
        found[source.language] = [
            mono.make_batch(0, mono.first_number + number, chosen) for chosen in _first(plan, count)
        ]
    return found


def _first(plan: EpochPlan, count: int) -> list[np.ndarray]:
    bounds = zip(plan.start[:-1], plan.start[1:], strict=True)
    return [plan.sentence[a:b] for a, b in list(bounds)[:count]]
