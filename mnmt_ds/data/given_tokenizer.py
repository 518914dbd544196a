"""Step 3 of ``prepare`` with a given tokenizer: as it is, or with new tags or pieces, or without unused pieces."""

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data.binarization import ParallelText
from mnmt_ds.data.build_cache import BuildOutput, fingerprint_of, finished_output, load_output, new_output
from mnmt_ds.data.derived_tokenizer import add_languages, trim, used_ids
from mnmt_ds.data.new_pieces import add_pieces, learn_pieces
from mnmt_ds.data.pretrained_tokenizer import open_given_tokenizer
from mnmt_ds.data.settings import DataSettings, TokenizerSettings
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.data.tokenizer_training import TrainingText, sample_sentences
from mnmt_ds.errors import UserError

LOG = logging.getLogger(__name__)


def open_recipe_tokenizer(settings: DataSettings) -> Tokenizer | None:
    """Opens the tokenizer that a recipe gives, with tags of new languages.

    Args:
        settings: the recipe's ``data`` section.

    Returns:
        The tokenizer, which knows every language of the section; None: one is to be trained.

    Raises:
        UserError: where there is no such tokenizer, or it lacks a language.
    """
    path_or_name, new = settings.tokenizer.given, settings.tokenizer.new_languages
    if path_or_name is None:
        return None
    languages = [language for language in settings.languages if language not in new]
    return add_languages(open_given_tokenizer(path_or_name, languages), new)


def build_given_tokenizer(
    work: Path, pool: Executor, settings: DataSettings, base_tokenizer: Tokenizer, texts: Sequence[ParallelText],
    training: Sequence[TrainingText] = (),
) -> tuple[BuildOutput, bool]:  # fmt: skip
    """Writes a given tokenizer, with new pieces and without those that no text uses where the recipe says so.

    Args:
        work: directory of the corpus's outputs.
        pool: worker processes.
        settings: the recipe's ``data`` section.
        base_tokenizer: the tokenizer.
        texts: all text, held-out sets included.
        training: training text alone, of which new pieces are learned.

    Returns:
        The output, with the tokenizer's files, and whether it had to be made.
    """
    hashes = [text.hashes for text in texts] if settings.tokenizer.trim else []
    new_languages = settings.tokenizer.new_languages
    learned = settings.tokenizer.new_pieces
    sources = [[learned, *(text.sha256 for text in training if text.language in learned)]] if learned else []
    fingerprint = fingerprint_of(
        base_tokenizer.hash,
        new_languages,
        sorted(base_tokenizer.originals),
        settings.tokenizer.trim,
        hashes,
        *sources,
        *settings.tags,
    )
    if output := load_output(work, "tokenizer", fingerprint):
        return output, False
    with new_output(work, "tokenizer", fingerprint) as (path, record):
        tokenizer = base_tokenizer
        for language in learned:
            tokenizer = _with_pieces(tokenizer, language, settings.tokenizer, training)
        if settings.tokenizer.trim:
            files = [file for text in texts for file in zip(text.paths, text.languages, strict=True)]
            jobs = [pool.submit(_used_in_file, tokenizer, *file) for file in files]
            in_tags = [used_ids(tokenizer, [tag], text.languages[0]) for text in texts for tag, _ in text.tags]
            tokenizer = trim(tokenizer, np.logical_or.reduce([*(job.result() for job in jobs), *in_tags]))
            LOG.info("tokenizer: %s of %s ids are kept", f"{tokenizer.size:,}", f"{base_tokenizer.size:,}")
        tokenizer.save_to(path)
        record.update(hash=tokenizer.hash, size=tokenizer.size)
    return finished_output(work, "tokenizer", fingerprint), True


def _with_pieces(
    tokenizer: Tokenizer, language: str, settings: TokenizerSettings, training: Sequence[TrainingText]
) -> Tokenizer:
    """A tokenizer with the pieces that a language's training text gives."""
    files = [text.text for text in training if text.language == language]
    if not files:
        languages = ", ".join(dict.fromkeys(text.language for text in training))
        raise UserError(f"data.tokenizer.new_pieces.{language}: no training text in it; name one of {languages}")
    count = settings.new_pieces[language]
    pieces = learn_pieces(tokenizer, sample_sentences(files, settings), count)
    reason = "no other two pieces of its text stand together twice"
    fewer = f" instead of {count:,}: {reason}" if len(pieces) < count else ""
    LOG.info("tokenizer: %s new pieces of %s%s", f"{len(pieces):,}", language, fewer)
    return add_pieces(tokenizer, pieces)


def _used_in_file(tokenizer: Tokenizer, path: Path, language: str) -> NDArray[np.bool_]:
    return used_ids(tokenizer, path.read_bytes().decode().split("\n")[:-1], language)
