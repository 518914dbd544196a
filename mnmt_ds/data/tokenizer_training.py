"""Step 3 of ``prepare``: SentencePiece models, the same on every machine: fixed sample and threads, no paths inside."""

import io
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import sentencepiece

from mnmt_ds.data.build_cache import BuildOutput, fingerprint_of, finished_output, load_output, new_output
from mnmt_ds.data.settings import DataSettings, TokenizerSettings
from mnmt_ds.data.tokenizer import JOINT, Tokenizer
from mnmt_ds.data.worker_pool import ProgressBar
from mnmt_ds.errors import UserError

LOG = logging.getLogger(__name__)
THREADS = 2
"""Part of the result (sums are taken per thread), so that it is no setting."""


class TextFile(NamedTuple):
    """A text file and its number of lines."""

    path: Path
    """The file."""
    lines: int
    """Its lines, a sentence each."""


class TrainingText(NamedTuple):
    """A file of training text in one language."""

    language: str
    """The language."""
    text: TextFile
    """The file."""
    sha256: str
    """Hash of its content."""


def build_tokenizer(
    work: Path, pool: Executor, settings: DataSettings, texts: Sequence[TrainingText]
) -> tuple[BuildOutput, bool]:
    """Trains the tokenizer, unless that was done before; a language's own model sees all text in its language.

    Args:
        work: directory of the corpus's outputs.
        pool: worker processes, each of which trains a model.
        settings: the recipe's ``data`` section.
        texts: all training text.

    Returns:
        The output, with the tokenizer's files, and whether it had to be made.

    Raises:
        UserError: when the text cannot fill the vocabulary.
    """
    tokenizer_settings = settings.tokenizer
    fingerprint = fingerprint_of(
        sentencepiece.__version__,  # versions train different models of the same text
        tokenizer_settings.model_dump(mode="json"),
        settings.languages,
        THREADS,
        [(text.language, text.sha256) for text in texts],
        *settings.tags,
    )
    if output := load_output(work, "tokenizer", fingerprint):
        return output, False
    kind, size = tokenizer_settings.kind, tokenizer_settings.size
    count = min(tokenizer_settings.sample, sum(text.text.lines for text in texts))
    LOG.info("tokenizer: %s, %s pieces, %s sentences", kind, f"{size:,}", f"{count:,}")
    jobs = {}
    for name in [JOINT] if kind == "joint" else settings.languages:
        files = [text.text for text in texts if name in (JOINT, text.language)]
        label = "all languages" if name == JOINT else name
        jobs[name] = pool.submit(train_sentencepiece, files, tokenizer_settings, label, settings.tags)
    with (
        new_output(work, "tokenizer", fingerprint) as (path, record),
        ProgressBar("train SentencePiece", "models") as progress,
    ):
        models = {}
        for name, job in jobs.items():
            models[name] = job.result()
            progress.add(1)
        tokenizer = Tokenizer(settings.languages, models)
        tokenizer.save_to(path)
        record.update(hash=tokenizer.hash, size=tokenizer.size, sentencepiece=sentencepiece.__version__)
    return finished_output(work, "tokenizer", fingerprint), True


def train_sentencepiece(
    texts: Sequence[TextFile], settings: TokenizerSettings, label: str, tags: Sequence[str] = ()
) -> bytes:
    """Trains a SentencePiece model.

    Args:
        texts: training text.
        settings: size and kind of the model.
        label: whose model it is, for messages.
        tags: words that stand before synthetic text; each is a piece.

    Returns:
        The model, serialised.

    Raises:
        UserError: when the text cannot fill the vocabulary.
    """
    model = io.BytesIO()
    sentencepiece.set_min_log_level(2)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sample_sentences(texts, settings),
            model_writer=model,
            vocab_size=settings.size,
            model_type=settings.model,
            character_coverage=settings.coverage,
            hard_vocab_limit=settings.hard_limit and settings.model == "unigram",
            normalization_rule_name=settings.normalization,
            byte_fallback=settings.byte_fallback,
            user_defined_symbols=list(tags),
            num_threads=THREADS,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            max_sentence_length=1 << 24,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2] or "no reason given"
        remedy = (
            "raise size, or lower coverage (least: 0.98)" if "smaller than required_chars" in reason
            else "lower size, or set hard_limit=false"
        )  # fmt: skip
        raise UserError(
            f"data.tokenizer: SentencePiece cannot make {settings.size} pieces for {label} ({reason}); {remedy}"
        ) from None
    return model.getvalue()


def sample_sizes(counts: Sequence[int], max_total: int, temperature: float) -> list[int]:
    """Decides how many sentences of each text train a model: in proportion to n^(1/temperature).

    Args:
        counts: sentences n of each text.
        max_total: most sentences in all.
        temperature: 1: in proportion to the texts' sizes; the higher, the more alike.

    Returns:
        Sentences to take of each text, none more than it has.
    """
    sizes = [0] * len(counts)
    open_texts = [i for i, count in enumerate(counts) if count]
    remaining = min(max_total, sum(counts))
    while open_texts and remaining > 0:
        weights = {i: counts[i] ** (1 / temperature) for i in open_texts}
        total = sum(weights.values())
        exhausted = [i for i in open_texts if counts[i] <= remaining * weights[i] / total]
        if not exhausted:
            for i in open_texts:
                sizes[i] = int(remaining * (weights[i] / total))
            break
        for i in exhausted:
            sizes[i] = counts[i]
            remaining -= counts[i]
        open_texts = [i for i in open_texts if i not in exhausted]
    return sizes


def sample_sentences(texts: Sequence[TextFile], settings: TokenizerSettings) -> Iterator[str]:
    """Reads evenly spaced lines of each text.

    Args:
        texts: the files.
        settings: how many lines of all files together, and how they are shared out.

    Yields:
        Lines, without their ends.
    """
    sizes = sample_sizes([text.lines for text in texts], settings.sample, settings.temperature)
    for text, size in zip(texts, sizes, strict=True):
        with text.path.open("rb") as stream:
            for i, line in enumerate(stream):
                if (i + 1) * size // text.lines > i * size // text.lines:
                    yield line[:-1].decode()
