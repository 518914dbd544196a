"""Synthetic parallel text: a model translates text line for line, chunk by chunk; finished chunks stay.

A chunk is lines i·C to (i + 1)·C of the input, one file in ``parts/``. Processes that share a directory take every
N-th chunk each and need not know of one another: whoever finds all chunks there joins them, under a lock. So a killed
process costs the chunk that it was at, and any number of processes may go on.

Back-translation: Sennrich et al. 2016; sequence-level distillation and interpolation: Kim and Rush 2016.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import sacrebleu
from typing_extensions import TypedDict

from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.readers.lines import read_lines
from mnmt_ds.decoding.beam_search import BeamSettings, Hypothesis
from mnmt_ds.decoding.loading import Translator
from mnmt_ds.decoding.text_lines import decode_lines
from mnmt_ds.decoding.translation import hypothesis_text, translate_all
from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import read_checked_json, write_checked_json
from mnmt_ds.files import lock, remove, sha256, writing

Direction = Literal["back", "forward"]
MAX_LINE_BYTES = 1_000_000
"""Longest line that is read."""
PARTS, PLAN, RECORD = "parts", "parts/plan.json", "synthesis.json"
"""In the directory: the chunks, what they are chunks of, and what the finished corpus is."""
EXAMPLES = 5
"""Sentence pairs that the record shows."""


class ChunkJson(TypedDict):
    """A chunk's file."""

    translations: list[str]
    counts: dict[str, int]


class SynthesisPlan(NamedTuple):
    """What a synthetic corpus is made of; two runs with the same plan may share a directory."""

    pair: str
    """Source and target of the synthetic corpus."""
    direction: Direction
    """back: the text is in the target language, and its sources are made. forward: the other way round."""
    model: str
    """SHA-256 of the model's weights."""
    search: dict[str, Any]
    """``BeamSettings`` as JSON, and the weights' type."""
    inputs: list[list[Any]]
    """Path, SHA-256 and lines of each file of text, in order."""
    references: list[list[Any]]
    """The same of the references, of whose translations the closest ones are taken; empty: the best are."""
    chunk: int
    """Lines of a chunk."""

    @property
    def lines(self) -> int:
        """Lines of all text."""
        return sum(lines for _, _, lines in self.inputs)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.lines // self.chunk)

    @property
    def model_pair(self) -> str:
        """The pair that the model translates."""
        source, target = split_pair(self.pair)
        return f"{target}-{source}" if self.direction == "back" else self.pair


def describe_files(paths: Sequence[Path]) -> list[list[Any]]:
    """Reads text once, and says what it is.

    Args:
        paths: text files, plain or compressed.

    Returns:
        Path, SHA-256 of the file and number of its lines, for each.

    Raises:
        UserError: where a file cannot be read, is not UTF-8 or has a line that is too long.
    """
    return [[str(path), sha256(path), sum(1 for _ in _file_lines(path))] for path in paths]


def text_lines(files: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Reads the lines of several files, one after another.

    Args:
        files: as ``describe_files`` describes them.

    Yields:
        Lines, control characters replaced by spaces.
    """
    for path, *_ in files:
        yield from _file_lines(Path(path))


def begin(directory: Path, plan: SynthesisPlan) -> dict[str, Any] | None:
    """Writes the plan that a directory's chunks belong to, or checks that it is the same one.

    Args:
        directory: where the corpus is made; made where it is missing.
        plan: what is to be made.

    Returns:
        The record of the corpus, where it is already finished; else None.

    Raises:
        UserError: when another plan was begun there, or it holds something else.
    """
    values = plan._asdict()
    for name in (PLAN, RECORD):
        try:
            before = read_checked_json(directory / name)
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise UserError(f"{directory / name}: {error}; take --fresh to begin anew") from None
        if differing := [key for key in values if before.get(key) != values[key]]:
            raise UserError(f"{directory}: was begun with another {differing[0]}; name another directory, or --fresh")
        if name == RECORD:
            for file, digest in before["sha256"].items():
                if not (directory / file).exists() or sha256(directory / file) != digest:
                    raise UserError(f"{directory / file}: altered since it was made; take --fresh to make it again")
            return before
    if directory.exists() and not (directory / PARTS).is_dir() and any(directory.iterdir()):
        raise UserError(f"{directory}: exists and is no synthetic corpus; name a new directory")
    (directory / PARTS).mkdir(parents=True, exist_ok=True)
    with lock(directory / PARTS / "lock", wait=True):
        if not (directory / PLAN).exists():
            write_checked_json(directory / PLAN, values)
    return None


def start_anew(directory: Path) -> None:
    """Removes a synthetic corpus, finished or not, and nothing else.

    Args:
        directory: the corpus's directory.
    """
    for name in (PLAN, RECORD):
        if (directory / name).exists():
            pair = str(read_checked_json(directory / name)["pair"])
            for side in split_pair(pair):
                remove(directory / f"{pair}.{side}")
    remove(directory / RECORD)
    remove(directory / PARTS)


def missing_chunks(directory: Path, plan: SynthesisPlan, rank: int = 0, size: int = 1) -> list[int]:
    """Lists the chunks that a process has to make.

    Args:
        directory: the corpus's directory.
        plan: what is made.
        rank: of the process, from 0.
        size: processes that share the work.

    Returns:
        Numbers of chunks, ascending.
    """
    return [number for number in range(rank, plan.chunks, size) if _read_chunk(directory, plan, number) is None]


def translate_chunks(
    directory: Path,
    plan: SynthesisPlan,
    chunks: Sequence[int],
    translator: Translator,
    search: BeamSettings,
    batch_tokens: int,
    processes: Callable[[int], int],
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Translates chunks, and writes each as soon as it is done.

    Lines of more pieces than the model has positions get an empty translation, which ``prepare`` leaves out.

    Args:
        directory: the corpus's directory.
        plan: what is made.
        chunks: numbers of chunks, ascending.
        translator: the model.
        search: how it searches.
        batch_tokens: padded source tokens of a batch.
        processes: worker processes for so many sentences.
        progress: called with the number of lines done.
    """
    source = split_pair(plan.model_pair)[0]
    room = translator.model.settings.max_positions - translator.frame(plan.model_pair).source_extra
    for number, lines, references in _chunks_of(plan, chunks):
        pieces = translator.tokenizer.encode_many(lines, source)
        fitting = [ids if len(ids) <= room else [] for ids in pieces]
        rows = translate_all(
            translator, {plan.model_pair: fitting}, search, batch_tokens, processes(len(lines)), progress
        )[plan.model_pair]
        progress(sum(not ids for ids in fitting))
        made = [_choose(translator, row, references[i : i + 1]) if row else "" for i, row in enumerate(rows)]
        counts = Counter(
            {
                "too long": sum(len(ids) > room for ids in pieces),
                "empty": sum(not text for text in made),
                "copied": sum(bool(text) and text == line.strip() for text, line in zip(made, lines, strict=True)),
            }
        )
        write_checked_json(_path_of(directory, number), {"translations": made, "counts": counts}, indent=None)


def finish(directory: Path, plan: SynthesisPlan, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Joins the chunks to two files, aligned line for line, where all of them are there.

    Args:
        directory: the corpus's directory.
        plan: what is made.
        facts: what the record says beside the plan.

    Returns:
        The corpus's record; None where chunks are missing, which another process still makes.

    Raises:
        UserError: where the text is no more what it was.
    """
    if missing_chunks(directory, plan):
        return None
    with lock(directory / PARTS / "lock", wait=True):
        if (directory / RECORD).exists():
            return read_checked_json(directory / RECORD)
        paths = corpus_paths(directory, plan.pair)
        real, made = paths if plan.direction == "forward" else reversed(paths)
        counts: Counter[str] = Counter()
        examples: list[list[str]] = []
        lines = text_lines(plan.inputs)
        with writing(real) as real_file, writing(made) as made_file:
            for number in range(plan.chunks):
                chunk = _read_chunk(directory, plan, number)
                texts = list(islice(lines, plan.chunk))
                if chunk is None or len(chunk["translations"]) != len(texts):
                    raise UserError(f"{directory}: chunk {number} does not fit the text; take --fresh to begin anew")
                counts.update(chunk["counts"])
                for text, translation in zip(texts, chunk["translations"], strict=True):
                    real_file.write(f"{text}\n".encode())
                    made_file.write(f"{translation}\n".encode())
                    if len(examples) < EXAMPLES and translation:
                        examples.append([text, translation])
        if next(lines, None) is not None:
            raise UserError(f"{directory}: the text has grown since it was begun; take --fresh to begin anew")
        record = {
            **plan._asdict(), "lines": plan.lines, "counts": dict(counts), "examples": examples, **facts,
            "sha256": {path.name: sha256(path) for path in paths},
        }  # fmt: skip
        write_checked_json(directory / RECORD, record)
    for number in range(plan.chunks):
        remove(_path_of(directory, number))
    return record


def corpus_paths(directory: Path, pair: str) -> tuple[Path, Path]:
    """Names a synthetic corpus's files.

    Args:
        directory: the corpus's directory.
        pair: its language pair.

    Returns:
        Paths of the source's and of the target's text.
    """
    source, target = split_pair(pair)
    return directory / f"{pair}.{source}", directory / f"{pair}.{target}"


def closest(hypotheses: Sequence[str], reference: str) -> str:
    """Finds the hypothesis that is most like a reference, by sentence-level chrF (sequence-level interpolation).

    Args:
        hypotheses: translations of a sentence, best first.
        reference: its given translation.

    Returns:
        The first of those with the highest chrF.
    """
    return max(hypotheses, key=lambda text: sacrebleu.sentence_chrf(text, [reference]).score)


def _choose(translator: Translator, row: Sequence[Hypothesis], reference: Sequence[str]) -> str:
    if not reference:
        return hypothesis_text(translator, row[0])
    return closest([hypothesis_text(translator, each) for each in row], reference[0])


def _file_lines(path: Path) -> Iterator[str]:
    def checked() -> Iterator[bytes]:
        for number, line in enumerate(read_lines(str(path), MAX_LINE_BYTES), 1):
            if line is None:
                raise UserError(f"{path}:{number}: line of over {MAX_LINE_BYTES:,} bytes; give one sentence a line")
            yield line

    return decode_lines(checked(), str(path))


def _chunks_of(plan: SynthesisPlan, chunks: Sequence[int]) -> Iterator[tuple[int, list[str], list[str]]]:
    """Number, lines and references of each chunk."""
    wanted, lines, references = set(chunks), text_lines(plan.inputs), text_lines(plan.references)
    for number in range(max(chunks, default=-1) + 1):
        texts, refs = list(islice(lines, plan.chunk)), list(islice(references, plan.chunk))
        if number in wanted:
            yield number, texts, refs


def _path_of(directory: Path, number: int) -> Path:
    return directory / PARTS / f"{number:06d}.json"


def _read_chunk(directory: Path, plan: SynthesisPlan, number: int) -> dict[str, Any] | None:
    """A finished chunk; None where it is missing or damaged, so that it is made again."""
    try:
        chunk = read_checked_json(_path_of(directory, number), ChunkJson)
    except (OSError, ValueError):
        return None
    expected = min(plan.chunk, plan.lines - number * plan.chunk)
    return chunk if len(chunk["translations"]) == expected else None
