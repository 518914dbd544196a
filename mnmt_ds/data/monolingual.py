"""The self-supervised side of an epoch: which sentences of which language, under which noise.

What is drawn is a function of (seed, epoch, index) alone, as for the pairs. A source is a task on a language's text;
its number counts on from the pairs'.

Letters: N items (sentences or blocks).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.batch import Batch
from mnmt_ds.config import Settings
from mnmt_ds.data.batching import PairLengths, moved_offset
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
    """One denoising task on one language's text."""

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
        """Name of the source in metrics and logs, such as ``cd:fr``."""
        return f"{self.task.name}:{self.language}"  # type: ignore[attr-defined]


class ItemRange(NamedTuple):
    """A language's items of an epoch: a part of an endless sequence of permutations of all of them."""

    first: int
    """Position in the sequence."""
    drawn: int
    """How many are drawn."""
    size: int
    """Items that the language has."""


class DenoisingSources:
    """All denoising sources of a run, task by task and language by language."""

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

    def items_per_epoch(self, parallel: int, settings: DenoisingSettings | None = None) -> dict[str, int]:
        """Decides how many items of each language an epoch draws: p proportional to n^(1/T).

        Args:
            parallel: parallel sentences of the epoch.
            settings: with ratio and temperature; None: the run's.

        Returns:
            Sentences or blocks by language.
        """
        languages, settings = list(self.pools), settings or self.settings
        total = sum(self.sentences.values())
        weights = [(self.sentences[language] / total) ** (1 / settings.temperature) for language in languages]
        items = {}
        for language, weight in zip(languages, weights, strict=True):
            sentences = settings.ratio * parallel * weight / sum(weights)
            items[language] = max(1, round(sentences * len(self.pools[language]) / self.sentences[language]))
        return items

    def items_of_epoch(
        self, epoch: int, parallel: int, settings: DenoisingSettings | None = None
    ) -> dict[str, ItemRange]:
        """Computes which items an epoch draws, where all epochs before it drew equally many.

        Args:
            epoch: its number, from 0.
            parallel: parallel sentences of an epoch.
            settings: with ratio and temperature; None: the run's.

        Returns:
            One range a language.
        """
        counts = self.items_per_epoch(parallel, settings)
        return {name: ItemRange(epoch * count, count, len(self.pools[name])) for name, count in counts.items()}

    def items_after(self, before: Mapping[str, ItemRange], parallel: int) -> dict[str, ItemRange]:
        """Computes which items the epoch after another one draws, whatever that one drew.

        Args:
            before: that one's items.
            parallel: parallel sentences of the coming epoch.

        Returns:
            One range a language.
        """
        items = {}
        for name, count in self.items_per_epoch(parallel).items():
            first, drawn, size = before.get(name, ItemRange(0, 0, 1))
            items[name] = ItemRange(
                moved_offset(first + drawn, size, len(self.pools[name])), count, len(self.pools[name])
            )
        return items

    def draw(self, items: Mapping[str, ItemRange], sentences_done: int, sentences: int) -> list[list[PairLengths]]:
        """Draws the items of an epoch, or of what is left of it.

        Args:
            items: the epoch's items of each language.
            sentences_done: parallel sentences of the epoch that came before; as large a part of every language's items
                is left out.
            sentences: parallel sentences of the whole epoch.

        Returns:
            Of each task the items of every language, the same for all tasks; also those that are too long.
        """
        index = {language: self._draw(language, items[language], sentences_done, sentences) for language in self.pools}
        return [[self._lengths(task, language, index[language]) for language in self.pools]
                for task in self.settings.tasks]  # fmt: skip

    def _draw(self, language: str, items: ItemRange, sentences_done: int, sentences: int) -> NDArray[np.int64]:
        skipped = items.drawn * sentences_done // sentences
        return draw_items(items.size, items.drawn - skipped, items.first + skipped, self.seed, language)

    def _lengths(self, task: Settings, language: str, index_N: NDArray[np.int64]) -> PairLengths:
        length_N = self.pools[language].lengths(index_N) + 2  # a tag, an end symbol, at most
        return PairLengths(index_N, length_N, np.ones_like(length_N) if isinstance(task, MlmTask) else length_N)

    def make_batch(self, epoch: int, number: int, chosen: NDArray[np.int64]) -> Batch:
        """Makes a micro-batch of a source; its divisors are filled in once the update is known.

        Args:
            epoch: number of the epoch: another one, other noise.
            number: the source's number, counted on from the pairs.
            chosen: numbers of its items, (B,).

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
