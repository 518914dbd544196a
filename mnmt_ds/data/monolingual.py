"""The self-supervised side of an epoch: which sentences of which language, under which noise.

What is drawn is a function of (seed, epoch, index) alone, as for the pairs. A source is a task on a language's text;
its number counts on from the pairs'.

Letters: N items (sentences or blocks).
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
from mnmt_ds.data.framing import Frame, FramingSettings, frame_of
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.monolingual_pool import BlockPool, TextPool, language_pool
from mnmt_ds.data.word_boundaries import WordBoundaries
from mnmt_ds.distributed import seed_of
from mnmt_ds.errors import UserError


class DenoisingSource(NamedTuple):
    """A task on one language's text."""

    task: Settings
    """What is hidden, and what is predicted."""
    language: str
    """The language."""
    pool: TextPool
    """Its sentences or blocks."""
    frame: Frame
    """Tags and end symbols around them."""

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
        max_length: int,
    ) -> None:
        """Collects the text of every language.

        Args:
            corpus: a prepared corpus.
            pairs: the run's pairs.
            settings: which tasks on how much text.
            framing: which tags stand where.
            seed: the run's seed.
            max_length: longest sentence or block that is used, in tokens with tag and end symbol.

        Raises:
            UserError: when there is no text.
        """
        self.settings, self.seed, self.max_length, self.first_number = settings, seed, max_length, len(pairs)
        self.words = WordBoundaries(corpus.tokenizer)
        max_block = min(settings.block_tokens, max_length - 2)
        languages_of_pairs = [language for pair in pairs for language in split_pair(pair)]
        self.pools: dict[str, TextPool] = {}
        self.sentences: dict[str, int] = {}
        for language in dict.fromkeys([*languages_of_pairs, *corpus.monolingual]):
            pool = language_pool(corpus, pairs, language, settings.bitext)
            if len(pool):
                self.sentences[language] = len(pool)
                self.pools[language] = pool if settings.unit == "sentence" else BlockPool(pool, max_block)
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

    def items_per_epoch(self, parallel: int) -> dict[str, int]:
        """Decides how many items of each language an epoch draws: p proportional to n^(1/T).

        Args:
            parallel: parallel sentences of the epoch.

        Returns:
            Sentences or blocks by language.
        """
        languages = list(self.pools)
        total = sum(self.sentences.values())
        weights = [(self.sentences[language] / total) ** (1 / self.settings.temperature) for language in languages]
        items = {}
        for language, weight in zip(languages, weights, strict=True):
            sentences = self.settings.ratio * parallel * weight / sum(weights)
            items[language] = max(1, round(sentences * len(self.pools[language]) / self.sentences[language]))
        return items

    def mix_into(
        self, parallel: EpochPlan, sentences: int, epoch: int, max_tokens: int, part: int = 0, done: int = 0
    ) -> EpochPlan:
        """Spreads every task's batches over an epoch's parallel plan.

        Args:
            parallel: the plan of the pairs.
            sentences: parallel sentences of the whole epoch.
            epoch: number of the epoch.
            max_tokens: padded tokens of a micro-batch.
            part: how often the rest of the epoch was planned anew.
            done: parallel sentences of the epoch that came before; as large a part of every language's items is left
                out.

        Returns:
            One plan of all micro-batches.
        """
        counts = self.items_per_epoch(sentences)
        plans = [parallel]
        for number, task in enumerate(self.settings.tasks):
            drawn = [
                self._draw(task, language, count, epoch, count * done // sentences)
                for language, count in counts.items()
            ]
            seed = seed_of(self.seed, "order", task.name, f"{epoch}+{part}" if part else epoch)
            plan = plan_batches(drawn, seed, max_tokens, parallel.batches_per_update)
            plans.append(plan._replace(pair=plan.pair + self.first_number + number * len(self.pools)))
        return interleave_plans(plans)._replace(epoch=epoch)

    def _draw(self, task: Settings, language: str, count: int, epoch: int, first: int) -> PairLengths:
        """The epoch's items of a language from ``first`` on, the same for every task; those too long are left out."""
        pool = self.pools[language]
        index_N = draw_items(len(pool), count - first, epoch * count + first, self.seed, language)
        length_N = pool.lengths(index_N) + 2  # a tag, an end symbol, at most
        fits_N = length_N <= self.max_length
        index_N, length_N = index_N[fits_N], length_N[fits_N]
        return PairLengths(index_N, length_N, np.ones_like(length_N) if isinstance(task, MlmTask) else length_N)

    def make_batch(self, epoch: int, number: int, chosen: NDArray[np.int64]) -> Batch:
        """Makes a micro-batch of a source; its divisors are filled in once the update is known.

        Args:
            epoch: number of the epoch: another one, other noise.
            number: the source's number, counted on from the pairs.
            chosen: numbers of its items.

        Returns:
            The batch.
        """
        source = self.sources[number - self.first_number]
        rows = []
        for index in chosen.tolist():
            seed = seed_of(self.seed, "noise", source.name, epoch, index)
            random = np.random.Generator(np.random.Philox(seed))
            pieces = source.pool.pieces(index)
            rows.append(apply_noise(pieces, source.task, self.words, random, self.settings.end_is_word))
        batch = collate_noised(rows, source.frame, self.settings.cut_to_shortest, self.settings.cut_counts_tag)
        return batch._replace(pair=number, task=source.task.name)  # type: ignore[attr-defined]
