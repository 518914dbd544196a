"""Stage 3 where the tokenizer is given: it is used as it is, with tags of new languages, or without unused pieces."""

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data.binarize_stage import ParallelText
from mnmt_ds.data.build_cache import BuildStage, built_stage, fingerprint_of, load_stage, new_stage
from mnmt_ds.data.derived_tokenizer import add_languages, trim, used_ids
from mnmt_ds.data.pretrained_tokenizer import open_given_tokenizer
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.tokenizer import Tokenizer

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
    place, new = settings.tokenizer.given, settings.tokenizer.new_languages
    if place is None:
        return None
    languages = [language for language in settings.languages if language not in new]
    return add_languages(open_given_tokenizer(place, languages), new)


def build_given_tokenizer_stage(
    work: Path, pool: Executor, settings: DataSettings, given: Tokenizer, texts: Sequence[ParallelText]
) -> tuple[BuildStage, bool]:
    """Writes a given tokenizer, without the pieces that no text uses where the recipe says so.

    Args:
        work: directory of the corpus's stages.
        pool: worker processes.
        settings: the recipe's ``data`` section.
        given: the tokenizer.
        texts: all text, held-out sets included.

    Returns:
        The stage, with the tokenizer's files, and whether it had to be made.
    """
    hashes = [text.hashes for text in texts] if settings.tokenizer.trim else []
    new_languages = settings.tokenizer.new_languages
    fingerprint = fingerprint_of(given.hash, new_languages, sorted(given.originals), settings.tokenizer.trim, hashes)
    if stage := load_stage(work, "tokenizer", fingerprint):
        return stage, False
    with new_stage(work, "tokenizer", fingerprint) as (path, record):
        tokenizer = given
        if settings.tokenizer.trim:
            files = [file for text in texts for file in zip(text.paths, text.languages, strict=True)]
            jobs = [pool.submit(_used_in_file, given, *file) for file in files]
            tokenizer = trim(given, np.logical_or.reduce([job.result() for job in jobs]))
            LOG.info("tokenizer: %s of %s ids are kept", f"{tokenizer.size:,}", f"{given.size:,}")
        tokenizer.save_to(path)
        record.update(hash=tokenizer.hash, size=tokenizer.size)
    return built_stage(work, "tokenizer", fingerprint), True


def _used_in_file(tokenizer: Tokenizer, path: Path, language: str) -> NDArray[np.bool_]:
    return used_ids(tokenizer, path.read_bytes().decode().split("\n")[:-1], language)
