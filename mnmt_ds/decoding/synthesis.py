"""Synthetic parallel text: a model translates text line for line, chunk by chunk; finished chunks stay.

A chunk is lines i·C to (i + 1)·C of the input, one file in ``parts/``. Processes that share a directory take every
N-th chunk each and need not know of one another: whoever finds all chunks there joins them, under a lock. So a killed
process costs the chunk that it was at, and any number of processes may go on. A chunk says which plan and which lines
it is of; one of another plan or of other text counts as missing.

Back-translation: Sennrich et al. 2016; sequence-level distillation and interpolation: Kim and Rush 2016.
"""

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import sacrebleu
from typing_extensions import TypedDict

from mnmt_ds.data.language_pairs import reverse_pair, split_pair
from mnmt_ds.data.readers.archives import disk_file
from mnmt_ds.data.readers.lines import read_lines
from mnmt_ds.decoding.beam_search import BeamSettings, Hypothesis
from mnmt_ds.decoding.loading import Translator
from mnmt_ds.decoding.text_lines import decode_lines
from mnmt_ds.decoding.translation import hypothesis_text, translate_all
from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import read_checked_json, write_checked_json
from mnmt_ds.files import lock, remove_temporary_files, sha256, writing

Direction = Literal["back", "forward"]
MAX_LINE_BYTES = 1_000_000
"""Longest line that is read."""
PARTS, PLAN, RECORD = "parts", "parts/plan.json", "synthesis.json"
"""In the directory: the chunks, what they are chunks of, and what the finished corpus is."""
LOCK = "parts/lock"
EXAMPLES = 5
"""Sentence pairs that the record shows."""
_OWN_PART = re.compile(r"lock|plan\.json|\d{6,}\.json|\..+\.tmp")
"""Names of what is written into ``parts/``."""


class ChunkJson(TypedDict):
    """A chunk's file."""

    plan: str
    """``SynthesisPlan.digest``."""
    text: str
    """SHA-256 of its lines and references."""
    translations: list[str]
    counts: dict[str, int]


class PlanJson(TypedDict):
    """What tells ``plan.json`` and ``synthesis.json`` from other files of these names."""

    pair: str
    direction: Direction
    model: str
    search: dict[str, Any]
    inputs: list[list[Any]]
    references: list[list[Any]]
    chunk: int


class RecordJson(PlanJson):
    """``synthesis.json``."""

    lines: int
    counts: dict[str, int]
    sha256: dict[str, str]


class SynthesisPlan(NamedTuple):
    """What a synthetic corpus is made of; two runs with the same plan may share a directory."""

    pair: str
    """Source and target of the synthetic corpus."""
    direction: Direction
    """back: the text is in the target language, and its sources are made. forward: the other way round."""
    model: str
    """SHA-256 of the model's weights; of an ensemble those of all, with + between."""
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
        return reverse_pair(self.pair) if self.direction == "back" else self.pair

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the translations; texts count by their content, wherever they lie."""
        return hashlib.sha256(json.dumps(_decisive(self._asdict()), sort_keys=True).encode()).hexdigest()


def describe_files(paths: Sequence[Path]) -> list[list[Any]]:
    """Reads text once, and says what it is.

    Args:
        paths: text files, plain or compressed.

    Returns:
        Path, SHA-256 of the file (of the archive that it is in) and number of its lines, for each.

    Raises:
        UserError: where a file cannot be read, is not UTF-8 or has a line that is too long.
    """
    return [[str(path), sha256(Path(disk_file(str(path)))), sum(1 for _ in _file_lines(path))] for path in paths]


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
    is_free = not _holds_other_files(directory)  # asked first: another process may begin at the same time
    if (record := _finished(directory, plan)) is not None:
        with contextlib.suppress(OSError):  # chunks that a killed process left; the directory may be read-only
            _remove_chunks(directory)
        return record
    if _read_own(directory / PLAN, PlanJson) is None and not is_free:
        raise UserError(f"{directory}: exists and is no synthetic corpus; name a new directory")
    (directory / PARTS).mkdir(parents=True, exist_ok=True)
    with lock(directory / LOCK, wait=True):
        before = _read_own(directory / PLAN, PlanJson)
        if before is None:
            write_checked_json(directory / PLAN, plan._asdict())
        else:
            _check_same(directory, before, plan)
    return None


def start_anew(directory: Path, plan: SynthesisPlan) -> None:
    """Removes a synthetic corpus, finished or not, and nothing else; its directory is then another plan's.

    Args:
        directory: the corpus's directory; nothing happens where it holds no such corpus.
        plan: what is to be made.

    Raises:
        UserError: where a file that is called like the plan or the record is none.
    """
    own = [_read_own(directory / name, PlanJson) for name in (PLAN, RECORD)]
    for values in filter(None, own):
        for path in corpus_paths(directory, values["pair"]):
            path.unlink(missing_ok=True)
    if any(own):
        (directory / RECORD).unlink(missing_ok=True)
        remove_temporary_files(directory)
        _remove_chunks(directory)
        write_checked_json(directory / PLAN, plan._asdict())


def missing_chunks(directory: Path, plan: SynthesisPlan) -> list[int]:
    """Lists the chunks that are still to be made.

    Args:
        directory: the corpus's directory.
        plan: what is made.

    Returns:
        Numbers of chunks, ascending.
    """
    return [number for number in range(plan.chunks) if _read_chunk(directory, plan, number) is None]


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
    room = translator.max_positions - translator.frame(plan.model_pair).source_extra
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
        chunk = {"plan": plan.digest, "text": _digest(lines, references), "translations": made, "counts": counts}
        write_checked_json(_path_of(directory, number), chunk, indent=None)


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
    if (record := _finished(directory, plan)) is not None:  # another process made the same chunks
        _remove_chunks(directory)
        return record
    if missing_chunks(directory, plan):
        return None
    with lock(directory / LOCK, wait=True):
        if (record := _finished(directory, plan)) is not None:
            return record
        remove_temporary_files(directory)
        paths = corpus_paths(directory, plan.pair)
        real, made = paths if plan.direction == "forward" else reversed(paths)
        counts: Counter[str] = Counter()
        examples: list[list[str]] = []
        with writing(real) as real_file, writing(made) as made_file:
            for number, texts, references in _chunks_of(plan, range(plan.chunks)):
                chunk = _read_chunk(directory, plan, number)
                if chunk is None or chunk["text"] != _digest(texts, references):
                    raise UserError(f"{directory}: chunk {number} is of other text than {_names(plan)} hold{_HOW}")
                counts.update(chunk["counts"])
                for text, translation in zip(texts, chunk["translations"], strict=True):
                    real_file.write(f"{text}\n".encode())
                    made_file.write(f"{translation}\n".encode())
                    if len(examples) < EXAMPLES and translation:
                        examples.append([text, translation])
        described = [describe_files([Path(path) for path, *_ in files]) for files in (plan.inputs, plan.references)]
        if described != [plan.inputs, plan.references]:
            for path in paths:
                path.unlink()
            raise UserError(f"{directory}: {_names(plan)} changed while it was made{_HOW}")
        record = {
            **plan._asdict(), "lines": plan.lines, "counts": dict(counts), "examples": examples, **facts,
            "sha256": {path.name: sha256(path) for path in paths},
        }  # fmt: skip
        write_checked_json(directory / RECORD, record)
        _remove_chunks(directory)
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
    requested, lines, references = set(chunks), text_lines(plan.inputs), text_lines(plan.references)
    for number in range(max(chunks, default=-1) + 1):
        texts, refs = list(islice(lines, plan.chunk)), list(islice(references, plan.chunk))
        if number in requested:
            yield number, texts, refs


def _path_of(directory: Path, number: int) -> Path:
    return directory / PARTS / f"{number:06d}.json"


def _read_chunk(directory: Path, plan: SynthesisPlan, number: int) -> dict[str, Any] | None:
    """A finished chunk; None where it is missing, damaged or of another plan, so that it is made again."""
    try:
        chunk = read_checked_json(_path_of(directory, number), ChunkJson)
    except (OSError, ValueError):
        return None
    expected = min(plan.chunk, plan.lines - number * plan.chunk)
    return chunk if chunk["plan"] == plan.digest and len(chunk["translations"]) == expected else None


def _remove_chunks(directory: Path) -> None:
    remove_temporary_files(directory / PARTS)
    for path in (directory / PARTS).glob("[0-9]*.json"):
        if _OWN_PART.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _finished(directory: Path, plan: SynthesisPlan) -> dict[str, Any] | None:
    """The record of a finished corpus; UserError where it is of another plan, or was altered."""
    record = _read_own(directory / RECORD, RecordJson)
    if record is None:
        return None
    _check_same(directory, record, plan)
    for file, digest in record["sha256"].items():
        if not (directory / file).is_file() or sha256(directory / file) != digest:
            raise UserError(f"{directory / file}: altered since it was made; take --fresh to make it again")
    return record


def _read_own(path: Path, shape: Any) -> dict[str, Any] | None:
    """A plan or record; None where there is none. UserError where the file is something else, or damaged."""
    try:
        return read_checked_json(path, shape)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(
            f"{path}: is not what synthesise wrote there ({error}); name another directory, or remove it by hand"
        ) from None


def _check_same(directory: Path, before: Mapping[str, Any], plan: SynthesisPlan) -> None:
    """UserError where a directory was begun with another plan."""
    values, old = _decisive(plan._asdict()), _decisive(before)
    for name, words in _WORDS.items():
        if old[name] != values[name]:
            raise UserError(f"{directory}: was begun with another {words}; name another directory, or --fresh")


_WORDS = {
    "pair": "pair", "direction": "direction", "inputs": "text, or text in another order", "references": "--closest-to",
    "model": "model", "search": "search", "chunk": "--chunk",
}  # fmt: skip
"""Parts of a plan, in words."""
_HOW = "; give the text that it was begun with, or take --fresh to begin anew"


def _decisive(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What of a plan decides the translations, as JSON values: all but where the texts lie."""
    texts = {name: [described[1:] for described in plan[name]] for name in ("inputs", "references")}
    return {**{name: plan[name] for name in _WORDS}, **texts}


def _digest(lines: Sequence[str], references: Sequence[str]) -> str:
    return hashlib.sha256("\n".join((*lines, "", *references)).encode()).hexdigest()


def _names(plan: SynthesisPlan) -> str:
    return ", ".join(str(path) for path, *_ in (*plan.inputs, *plan.references))


def _holds_other_files(directory: Path) -> bool:
    """Whether a directory holds anything but the beginnings of a synthetic corpus."""
    if not directory.is_dir():
        return False
    parts_directory = directory / PARTS
    if any(path != parts_directory for path in directory.iterdir()) or (
        parts_directory.exists() and not parts_directory.is_dir()
    ):
        return True
    return parts_directory.is_dir() and not all(_OWN_PART.fullmatch(path.name) for path in parts_directory.iterdir())
