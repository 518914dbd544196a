"""Stage 3: SentencePiece models, the same on every machine: own sample, fixed thread count, no paths inside."""

import io
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

from mnmt_ds.data.build_cache import BuildStage, fingerprint_of, load_stage, new_stage
from mnmt_ds.data.settings import DataSettings, TokenizerSettings
from mnmt_ds.data.tokenizer import JOINT, Tokenizer
from mnmt_ds.data.worker_pool import Progress
from mnmt_ds.errors import UserError

THREADS = 2
"""Part of the result (sums are taken per thread), so that it is no setting."""


class TextFile(NamedTuple):
    """A text file of so many lines."""

    path: Path
    lines: int


class TrainingText(NamedTuple):
    """Training text in one language."""

    language: str
    text: TextFile
    sha256: str


def build_tokenizer_stage(
    work: Path, pool: Executor, settings: DataSettings, sides: Sequence[TrainingText]
) -> tuple[BuildStage, bool]:
    """The stage with the tokenizer, and whether it had to be made; a model of its own sees all text in its language."""
    wanted = settings.tokenizer
    print_ = fingerprint_of(
        wanted.model_dump(mode="json"), settings.languages, THREADS, [(side.language, side.sha256) for side in sides]
    )
    if stage := load_stage(work, "tokenizer", print_):
        return stage, False
    count = min(wanted.sample, sum(side.text.lines for side in sides))
    print(f"tokenizer: {wanted.kind}, {wanted.size:,} pieces, {count:,} sentences", file=sys.stderr, flush=True)
    names = [JOINT] if wanted.kind == "joint" else list(settings.languages)
    jobs = {}
    for name in names:
        texts = [side.text for side in sides if name in (JOINT, side.language)]
        jobs[name] = pool.submit(train_sentencepiece, texts, wanted, "all languages" if name == JOINT else name)
    with (
        new_stage(work, "tokenizer", print_) as (path, record),
        Progress("train SentencePiece", "models") as progress,
    ):
        models = {}
        for name, job in jobs.items():
            models[name] = job.result()
            progress.add(1)
        tokenizer = Tokenizer(settings.languages, models)
        tokenizer.save_to(path)
        record.update(hash=tokenizer.hash, size=tokenizer.size)
    stage = load_stage(work, "tokenizer", print_)
    assert stage is not None
    return stage, True


def train_sentencepiece(texts: Sequence[TextFile], settings: TokenizerSettings, what: str) -> bytes:
    """A SentencePiece model, serialised; UserError where the text cannot fill the vocabulary."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.set_min_log_level(2)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sampled(texts, settings),
            model_writer=model,
            vocab_size=settings.size,
            model_type=settings.model,
            character_coverage=settings.coverage,
            hard_vocab_limit=settings.hard_limit and settings.model == "unigram",
            normalization_rule_name=settings.normalization,
            byte_fallback=settings.byte_fallback,
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
        raise UserError(
            f"data.tokenizer: SentencePiece cannot make {settings.size} pieces for {what} ({reason});"
            " change size, or set hard_limit=false"
        ) from None
    return model.getvalue()


def sample_sizes(counts: Sequence[int], most: int, temperature: float) -> list[int]:
    """Sentences to take of each text: in proportion to n^(1/temperature), none more than it has, ``most`` in all."""
    taken = [0] * len(counts)
    open_ = [i for i, count in enumerate(counts) if count]
    left = min(most, sum(counts))
    while open_ and left > 0:
        weights = {i: counts[i] ** (1 / temperature) for i in open_}
        total = sum(weights.values())
        full = [i for i in open_ if counts[i] <= left * weights[i] / total]
        if not full:
            for i in open_:
                taken[i] = int(left * (weights[i] / total))
            break
        for i in full:
            taken[i] = counts[i]
            left -= counts[i]
        open_ = [i for i in open_ if i not in full]
    return taken


def _sampled(texts: Sequence[TextFile], settings: TokenizerSettings) -> Iterator[str]:
    takes = sample_sizes([text.lines for text in texts], settings.sample, settings.temperature)
    for text, take in zip(texts, takes, strict=True):
        with text.path.open("rb") as stream:
            for j, line in enumerate(stream):
                if (j + 1) * take // text.lines > j * take // text.lines:
                    yield line[:-1].decode()
