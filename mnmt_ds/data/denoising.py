"""Self-supervised tasks on sentences of one language: what each hides, and where its losses are taken.

cd: concurrent denoising (paper 3, Section 4.1): one masked sentence, the masked pieces are predicted on both sides.
dae: the decoder rebuilds a noised sentence. mlm: the encoder alone predicts masked pieces. mass: the decoder predicts
a masked fragment.

Letters: B sentences, S source and T target positions; of one sentence T pieces.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator

from mnmt_ds.batch import EOS, PAD, Batch
from mnmt_ds.config import PaperDifference, Settings
from mnmt_ds.data.framing import Frame
from mnmt_ds.data.masking import MaskSettings, mask_fragment, mask_words
from mnmt_ds.data.noise import NoiseSettings, add_noise
from mnmt_ds.data.word_boundaries import Ints, WordBoundaries
from mnmt_ds.kernels.target_rows import target_rows


class ConcurrentTask(MaskSettings):
    """Concurrent denoising."""

    name: Literal["cd"] = "cd"
    """The task's name."""


class DaeTask(NoiseSettings):
    """Denoising auto-encoder."""

    later = ("random",)
    released_values: ClassVar = {"infill": 0.0, "mask": 0.3, "random": 0.1}
    differences: ClassVar = {
        "infill": PaperDifference("not said", "no spans", "mBART's noise"),
        "mask": PaperDifference("not said", "of the words, one by one", "mBART's noise"),
        "random": PaperDifference("not said", "of the masked words", "mBART's noise"),
    }

    name: Literal["dae"] = "dae"
    """The task's name."""


class MlmTask(MaskSettings):
    """Masked language model on the encoder."""

    released_values: ClassVar = {"ratio": 0.3}
    differences: ClassVar = {"ratio": PaperDifference("not said", "--mask-prob", "BERT's")}

    name: Literal["mlm"] = "mlm"
    """The task's name."""
    ratio: float = Field(default=0.15, gt=0, lt=1)
    """Share of the words that is chosen."""


class MassTask(MaskSettings):
    """Masked sequence to sequence."""

    later = ("hides",)
    released_values: ClassVar = {"hides": "words", "ratio": 0.3, "keep": 0.0, "random": 0.0}
    differences: ClassVar = {
        "hides": PaperDifference("a fragment (Song et al. 2019)", "whole words anywhere", "MASS as published"),
        "ratio": PaperDifference("half of the sentence (Song et al. 2019)", "MASK_RATIO", "MASS as published"),
        "keep": PaperDifference("10 % (Song et al. 2019)", "every place is <mask>", "MASS as published"),
        "random": PaperDifference("10 % (Song et al. 2019)", "every place is <mask>", "MASS as published"),
    }

    name: Literal["mass"] = "mass"
    """The task's name."""
    ratio: float = Field(default=0.5, gt=0, lt=1)
    """Share of the sentence that the fragment takes, or of its words."""
    hides: Literal["fragment", "words"] = "fragment"
    """fragment: consecutive pieces (Song et al. 2019); words: whole words anywhere."""


Task = Annotated[ConcurrentTask | DaeTask | MlmTask | MassTask, Field(discriminator="name")]


class DenoisingSettings(Settings):
    """Text of one language beside the pairs: where it comes from, how much of it, and for which tasks."""

    later = ("cut_counts_tag", "end_is_word")
    released_values: ClassVar = {"unit": "block", "cut_to_shortest": True, "cut_counts_tag": True, "end_is_word": True}
    differences: ClassVar = {
        "unit": PaperDifference("a sentence (3, 4.1)", "whole sentences up to 511 tokens", "the paper's"),
        "cut_to_shortest": PaperDifference("every masked token (3, Equation 6)", "silently", "the paper's"),
        "cut_counts_tag": PaperDifference("no cut", "so that the cut comes one place later", "the paper's"),
        "end_is_word": PaperDifference("words of the sentence (3, 4.1)", "special symbols begin words", "the paper's"),
    }

    tasks: tuple[Task, ...] = (ConcurrentTask(),)
    """Each drawn sentence takes part in every one of them."""
    ratio: float = Field(default=1.0, gt=0, le=1000)
    """Sentences of a task for each parallel sentence of an epoch (paper: half and half)."""
    temperature: float = Field(default=10 / 7, ge=0.05)
    """T in p proportional to n^(1/T) over languages."""
    bitext: bool = True
    """Both sides of the pairs' training sets count as text, beside ``data.monolingual``."""
    unit: Literal["sentence", "block"] = "sentence"
    """block: whole sentences joined by </s> (the released code)."""
    block_tokens: int = Field(default=511, ge=2, le=1_048_576)
    """Most tokens of a block."""
    cut_to_shortest: bool = False
    """Nothing counts beyond the length of the batch's shortest sentence (what the released code does)."""
    cut_counts_tag: bool = False
    """The shortest sentence's language tag is part of its length, so that the cut comes one place later (what the
    released code does)."""
    end_is_word: bool = False
    """cd, mlm: the end symbol of a sentence is a word of its own, which may be drawn and is predicted then (what the
    released code does)."""

    @model_validator(mode="after")
    def _once(self) -> "DenoisingSettings":
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) < len(names):
            raise ValueError("tasks: name at least one, and each once (cd, dae, mlm, mass)")
        return self


TASKS: dict[str, type[Settings]] = {"cd": ConcurrentTask, "dae": DaeTask, "mlm": MlmTask, "mass": MassTask}


def with_released_tasks(section: dict[str, Any]) -> dict[str, Any]:
    """Fills what ``profile: released`` sets in a ``denoising`` section and in its tasks.

    Args:
        section: its values as they were given.

    Returns:
        These, and the profile's where none is given.
    """
    filled = DenoisingSettings.with_released(section)
    if isinstance(tasks := filled.get("tasks"), list | tuple):
        filled["tasks"] = [
            TASKS[task["name"]].with_released(task) if isinstance(task, dict) and task.get("name") in TASKS else task
            for task in tasks
        ]
    return filled


class NoisedSentence(NamedTuple):
    """A sentence under a task's noise, as encoder input, decoder input and targets; PAD where nothing counts."""

    source: Ints
    """Encoder input without tag and end symbol."""
    decoder: Ints
    """Decoder input behind its start symbol."""
    target: Ints
    """One longer than ``decoder``: the last place is the end symbol's."""
    encoder_target: Ints | None = None
    """As long as ``source``, or one longer: the last place is then that of the symbol behind the source."""


def apply_noise(
    pieces_T: Ints, task: Settings, words: WordBoundaries, random: np.random.Generator, end_is_word: bool = False
) -> NoisedSentence:
    """Applies a task's noise to a sentence.

    Args:
        pieces_T: ids of the sentence, or of several joined by </s>.
        task: one of ``Task``.
        words: what the pieces say about words.
        random: source of the noise.
        end_is_word: cd, mlm: the end of a sentence may be drawn as a word.

    Returns:
        Inputs and targets of the sentence.
    """
    if isinstance(task, DaeTask):
        return NoisedSentence(add_noise(pieces_T, words, task, random), pieces_T, np.append(pieces_T, EOS))
    if isinstance(task, MassTask):
        mask = mask_fragment if task.hides == "fragment" else mask_words
        noisy_T, chosen_T = mask(pieces_T, words, task, random)
        decoder_T = np.where(chosen_T, pieces_T, words.mask)
        return NoisedSentence(noisy_T, decoder_T, np.append(np.where(chosen_T, pieces_T, PAD), PAD))
    assert isinstance(task, MaskSettings)
    size = len(pieces_T)
    if end_is_word:  # behind the source stands what the frame has there, whether or not the end is drawn
        ended_T = np.append(pieces_T, EOS)
        noisy_T, chosen_T = mask_words(ended_T, words, task, random, end_is_word)
        target_T = np.where(chosen_T, ended_T, PAD)
    else:
        noisy_T, chosen_T = mask_words(pieces_T, words, task, random)
        target_T = np.where(chosen_T, pieces_T, PAD)
    if isinstance(task, MlmTask):
        return NoisedSentence(noisy_T[:size], pieces_T[:0], np.full(1, PAD), target_T)
    decoder_target = target_T if end_is_word else np.append(target_T, PAD)
    return NoisedSentence(noisy_T[:size], pieces_T, decoder_target, target_T)


def collate_noised(
    rows: Sequence[NoisedSentence], frame: Frame, cut_to_shortest: bool = False, cut_counts_tag: bool = False
) -> Batch:
    """Makes a batch of sentences of one source; the caller fills in pair, sentence numbers and divisors.

    Args:
        rows: sentences under one task's noise.
        frame: the language's frame.
        cut_to_shortest: nothing counts beyond the length of the shortest sentence.
        cut_counts_tag: that length counts the language tag.

    Returns:
        The batch; (B, S) and (B, T) tensors. Its pair and sentence numbers are -1, its divisor 1.
    """
    prefix_size, suffix_size = len(frame.source_prefix), len(frame.source_suffix)
    source = np.full((len(rows), max(len(row.source) for row in rows) + prefix_size + suffix_size), PAD, np.int64)
    start = (frame.decoder_start, *frame.target_prefix)
    before = len(frame.target_prefix)
    decoder = np.full((len(rows), max(len(row.target) for row in rows) + before), PAD, np.int64)
    target, encoder_target = decoder.copy(), source.copy()
    shortest = min(len(row.source) for row in rows) if cut_to_shortest else source.shape[1]
    for i, row in enumerate(rows):
        size = len(row.source)
        source[i, : prefix_size + size + suffix_size] = [*frame.source_prefix, *row.source, *frame.source_suffix]
        decoder[i, : before + len(row.target)] = [*start, *row.decoder]
        target[i, before : before + len(row.target)] = row.target
        if row.target[-1] == EOS:  # the whole sentence counts, so does its tag
            target[i, :before] = frame.target_prefix
        if row.encoder_target is not None:
            encoder_target[i, prefix_size : prefix_size + len(row.encoder_target)] = row.encoder_target
    if cut_to_shortest:
        shortest += cut_counts_tag
        target[:, before + shortest :] = PAD
        encoder_target[:, prefix_size + shortest :] = PAD
    has_encoder_target = rows[0].encoder_target is not None
    return Batch(
        source_BS=torch.from_numpy(source),
        decoder_BT=torch.from_numpy(decoder),
        target_BT=torch.from_numpy(target),
        target_rows=target_rows(torch.from_numpy(target), PAD),
        pair=-1,
        sentence_B=torch.full((len(rows),), -1),
        tokens=int(max((target != PAD).sum(), (encoder_target != PAD).sum() if has_encoder_target else 0)),
        divisor=1,
        encoder_target_BS=torch.from_numpy(encoder_target) if has_encoder_target else None,
        encoder_target_rows=target_rows(torch.from_numpy(encoder_target), PAD) if has_encoder_target else None,
    )
