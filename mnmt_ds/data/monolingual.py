"""The self-supervised side of an epoch: which sentences of which language, under which noise.

What comes is a function of (seed, epoch, index) alone, as for the pairs. A source is a task on a language's text; its
number counts on from the pairs'.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.batch import Batch
from mnmt_ds.config import Settings
from mnmt_ds.data.batching import EpochPlan, PairLengths, interleave_plans, plan_batches
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.denoising import DenoisingSettings, MlmTask, apply_noise, collate_noised
from mnmt_ds.data.feistel_permutation import draw_items
from mnmt_ds.data.framing import Frame, FramingSettings, frame_of, split_pair
from mnmt_ds.data.monolingual_pool import BlockPool, TextPool, language_pool
from mnmt_ds.data.word_boundaries import WordBoundaries
from mnmt_ds.distributed import seed_of
from mnmt_ds.errors import UserError


class DenoisingSource(NamedTuple):
    """A task on one language's text."""

    task: Settings
    language: str
    pool: TextPool
    frame: Frame

    @property
    def name(self) -> str:
        """Such as ``cd:fr``."""
        return f"{self.task.name}:{self.language}"  # type: ignore[attr-defined]


class DenoisingSources:
    """All sources of a run, in order: task by task, language by language."""

    def __init__(
        self,
        corpus: Corpus,
        pairs: Sequence[str],
        settings: DenoisingSettings,
        framing: FramingSettings,
        seed: int,
        longest: int,
    ) -> None:
        self.settings, self.seed, self.longest, self.first = settings, seed, longest, len(pairs)
        self.words = WordBoundaries(corpus.tokenizer)
        most = min(settings.block_tokens, longest - 2)
        spoken = [language for pair in pairs for language in split_pair(pair)]
        self.pools: dict[str, TextPool] = {}
        self.sentences: dict[str, int] = {}
        for language in dict.fromkeys([*spoken, *corpus.monolingual]):
            pool = language_pool(corpus, pairs, language, settings.bitext)
            if len(pool):
                self.sentences[language] = len(pool)
                self.pools[language] = pool if settings.unit == "sentence" else BlockPool(pool, most)
        if not self.pools:
            raise UserError(
                f"{corpus.directory}: no text for denoising; add data.monolingual and prepare again, or set"
                " denoising.bitext: true"
            )
        tags = {language: corpus.tokenizer.tag(language) for language in self.pools}
        self.sources = [
            DenoisingSource(task, language, pool, frame_of(framing, tags[language], tags[language]))
            for task in settings.tasks
            for language, pool in self.pools.items()
        ]

    def counts(self, parallel: int) -> dict[str, int]:
        """Items of each language an epoch for so many parallel sentences; p proportional to n^(1/T)."""
        languages = list(self.pools)
        total = sum(self.sentences.values())
        raised = [(self.sentences[language] / total) ** (1 / self.settings.temperature) for language in languages]
        found = {}
        for language, weight in zip(languages, raised, strict=True):
            wanted = self.settings.ratio * parallel * weight / sum(raised)
            found[language] = max(1, round(wanted * len(self.pools[language]) / self.sentences[language]))
        return found

    def mixed(
        self, parallel: EpochPlan, sentences: int, epoch: int, max_tokens: int, part: int = 0, done: int = 0
    ) -> EpochPlan:
        """An epoch's parallel plan with every task's batches spread over it.

        Of the rest of an epoch of ``sentences``, its ``part``-th, without the first ``done`` of them: the same share of
        every language's items is left out.
        """
        counts = self.counts(sentences)
        plans = [parallel]
        for number, task in enumerate(self.settings.tasks):
            drawn = [
                self._drawn(task, language, count, epoch, count * done // sentences)
                for language, count in counts.items()
            ]
            seed = seed_of(self.seed, "order", task.name, f"{epoch}+{part}" if part else epoch)
            plan = plan_batches(drawn, seed, max_tokens, parallel.batches_per_update)
            plans.append(plan._replace(pair=plan.pair + self.first + number * len(self.pools)))
        return interleave_plans(plans)._replace(epoch=epoch)

    def _drawn(self, task: Settings, language: str, count: int, epoch: int, first: int) -> PairLengths:
        """The epoch's items of a language from ``first`` on, the same for every task; those too long are left out."""
        pool = self.pools[language]
        index_N = draw_items(len(pool), count - first, epoch * count + first, self.seed, language)
        length_N = pool.lengths(index_N) + 2  # a tag, an end symbol, at most
        fits = length_N <= self.longest
        index_N, length_N = index_N[fits], length_N[fits]
        return PairLengths(index_N, length_N, np.ones_like(length_N) if isinstance(task, MlmTask) else length_N)

    def batch(self, epoch: int, number: int, chosen: NDArray[np.int64]) -> Batch:
        """A micro-batch of a source (numbered from the pairs on); its divisors are filled once the update is known."""
        source = self.sources[number - self.first]
        rows = []
        for index in chosen.tolist():
            seed = seed_of(self.seed, "noise", source.name, epoch, index)
            random = np.random.Generator(np.random.Philox(seed))
            rows.append(apply_noise(source.pool.pieces(index), source.task, self.words, random))
        batch = collate_noised(rows, source.frame, self.settings.cut_to_shortest)
        return batch._replace(pair=number, task=source.task.name)  # type: ignore[attr-defined]
