"""Translate files or standard input: one output line for every input line, in order; empty lines stay empty."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mnmt_ds import files
from mnmt_ds.config.paths import path_option, stream_option
from mnmt_ds.data.language_pairs import split_pair

if TYPE_CHECKING:
    from mnmt_ds.data.worker_pool import ProgressBar
    from mnmt_ds.decoding.beam_search import BeamSettings
    from mnmt_ds.decoding.constraints import Phrase
    from mnmt_ds.decoding.loading import Translator
    from mnmt_ds.errors import UserError

HELP = "translate files or standard input with a trained model"
LOG = logging.getLogger(__name__)
WINDOW = 20_000
"""Lines that are read, sorted and translated together; memory is bounded by these."""
MANY_BEAMS = 8
"""Times as many beams as asked for, from which on forced texts are said to be slow."""
SENTENCES_A_PROCESS = 300
"""Below these, starting another process takes longer than it saves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import number_option

    parser.add_argument("model", type=path_option, help="model directory (run/best, run/best_<pair>) or run")
    parser.add_argument(
        "files",
        type=stream_option,
        nargs="*",
        default=[],
        help="UTF-8 text, one sentence a line (default, and -: standard input)",
    )
    parser.add_argument("--pair", required=True, help="source-target, such as bs-en")
    parser.add_argument("-o", "--output", type=stream_option, help="file to write (default, and -: standard output)")
    parser.add_argument(
        "--nbest",
        type=number_option(int, ge=0),
        default=0,
        metavar="N",
        help="write N hypotheses (with --sample N draws) as 'line ||| text ||| score'",
    )
    parser.add_argument(
        "--interactive", action="store_true", help="translate each line as it comes, and write it at once"
    )
    parser.add_argument("--pivot", metavar="LANG", help="translate into this language first, and from it on")
    add_ensemble_argument(parser)
    parser.add_argument(
        "--force", action="append", default=[], metavar="TEXT",
        help="text that every translation holds, somewhere; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--constraints", action="store_true",
        help="a line's further fields, after tabs, are texts that its translation holds",
    )  # fmt: skip
    parser.add_argument("--prefix", default="", metavar="TEXT", help="text with which every translation begins")
    parser.add_argument(
        "--split",
        type=number_option(int, ge=1),
        nargs="?",
        const=0,
        metavar="PIECES",
        help="translate lines of more pieces (default: than the model takes) in parts of whole sentences",
    )
    parser.add_argument(
        "--ban", action="append", default=[], metavar="PIECE", help="piece that is never generated; may be repeated"
    )
    add_sampling_arguments(parser)
    add_search_arguments(parser)


def add_ensemble_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that names an ensemble's further models.

    Args:
        parser: the command's parser.
    """
    parser.add_argument(
        "--ensemble", type=path_option, action="append", default=[], metavar="MODEL",
        help="one more model, of whose and the first one's probabilities the mean is taken; of a run with several"
        " students all of them; may be repeated",
    )  # fmt: skip


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of commands that may draw translations.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import setting_option
    from mnmt_ds.decoding.beam_search import BeamSettings

    parser.add_argument(
        "--sample",
        type=setting_option(BeamSettings, "sample_temperature"),
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="TEMPERATURE",
        help="draw translations, do not search (default: 1)",
    )
    parser.add_argument(
        "--top-k", type=setting_option(BeamSettings, "sample_top_k"), default=0, metavar="K",
        help="draw from the K most probable tokens",
    )  # fmt: skip
    parser.add_argument(
        "--top-p", type=setting_option(BeamSettings, "sample_top_p"), default=1.0, metavar="P",
        help="draw from the most probable tokens that together have this probability",
    )  # fmt: skip
    parser.add_argument("--seed", type=setting_option(BeamSettings, "sample_seed"), default=0, help="of what is drawn")


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of everything that decodes.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import number_option, setting_option
    from mnmt_ds.decoding.beam_search import BeamSettings

    default = BeamSettings()
    parser.add_argument(
        "--beam",
        type=setting_option(BeamSettings, "beam"),
        default=default.beam,
        help="hypotheses kept (default: %(default)s)",
    )
    parser.add_argument(
        "--length-penalty",
        type=setting_option(BeamSettings, "length_penalty"),
        default=default.length_penalty,
        help="default: %(default)s",
    )
    parser.add_argument("--patient", action="store_true", help="search on until no running hypothesis looks better")
    parser.add_argument("--ban-unknown", action="store_true", help='never generate the unknown piece, written " ⁇ "')
    parser.add_argument(
        "--batch-tokens",
        type=number_option(int, ge=1),
        default=1024,
        help="padded source tokens a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=number_option(int, ge=1, le=4096),
        help="processes on a CPU (default: by the number of sentences)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda where there is one"
    )
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Translates the files or standard input.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code: 2 where a line was refused that came while others were translated.
    """
    from mnmt_ds.data.worker_pool import ProgressBar
    from mnmt_ds.decoding.loading import warn_untrained_pair
    from mnmt_ds.errors import UserError

    search = search_settings(args)
    if args.nbest > search.beam and not args.sample:
        raise UserError(f"--nbest {args.nbest}: a beam of {search.beam} has no more hypotheses; raise --beam")
    if args.nbest and args.split is not None:
        raise UserError("--nbest: parts of a line have no common hypotheses; leave out --nbest or --split")
    if args.prefix and args.split is not None:
        raise UserError("--prefix: it would begin every part of a line; leave out --prefix or --split")
    if args.force or args.constraints:
        for option, is_given in (("--sample", args.sample), ("--split", args.split is not None)):
            if is_given:
                forced = "--force" if args.force else "--constraints"
                raise UserError(f"{forced}: texts are forced into searched translations of whole lines; leave out"
                                f" {option}")  # fmt: skip
    if args.pivot and args.pivot in split_pair(args.pair):
        raise UserError(f"--pivot {args.pivot}: is a language of {args.pair} itself; leave it out")
    for path in filter(None, args.files):
        if not path.exists():
            raise UserError(f"{path}: no such file; give text files, or nothing for standard input")
        if path.is_dir() or not os.access(path, os.R_OK):
            raise UserError(f"{path}: cannot be read; give text files, or nothing for standard input")
    pairs = _steps(args)
    translator = open_ensemble(args, pairs[0])
    for pair in pairs:
        translator.frame(pair)
        for each in (translator, *translator.ensemble):
            warn_untrained_pair(each, pair)
    phrases = _Phrases(args, translator, search)
    single = args.interactive or ((not args.files or None in args.files) and sys.stdin.isatty())
    cut: list[int] = []
    refused = False
    with _output(args.output) as output, ProgressBar(f"translate {args.pair}", "lines") as progress:
        for first, lines in _windows(args.files, 1 if single else WINDOW, args.constraints):
            try:
                if isinstance(lines, UserError):
                    raise lines
                cut += _translate(translator, lines, first, args, search, phrases, output, progress)
            except UserError as error:
                if not single:
                    raise
                refused = True
                LOG.error("%s; line %d has no translation: %s", error, first + 1,
                          "nothing is written" if args.nbest else "an empty line is written")  # fmt: skip
                output.write(b"" if args.nbest else b"\n")
                output.flush()
            if cut and single:
                LOG.warning("line %d has more pieces than the model has positions; its end was left out; take --split"
                            " to translate it in parts", cut.pop() + 1)  # fmt: skip
    if cut:
        LOG.warning("%d line(s) had more pieces than the model has positions, the first is line %d; their ends were"
                    " left out; take --split to translate them in parts", len(cut), cut[0] + 1)  # fmt: skip
    return 2 if refused else 0


def open_ensemble(
    args: argparse.Namespace, pair: str, path: Path | None = None, data: Path | None = None
) -> "Translator":
    """Opens the model, and those whose probabilities are averaged with its own.

    Args:
        args: the parsed arguments.
        pair: what they are wanted for.
        path: the first model's directory or run; None: ``args.model``.
        data: prepared corpus with the tokenizer; None: as the run's recipe says.

    Returns:
        The model with the others.

    Raises:
        UserError: where one of them is missing, or they do not fit together.
    """
    from mnmt_ds.decoding.loading import join_ensemble, student_models

    first = open_model(args, path, data, pair)
    others = []
    for models in map(student_models, args.ensemble):
        is_first = [model.resolve() == first.directory.resolve() for model in models]
        others += [model for model, same in zip(models, is_first, strict=True) if not same or len(models) == 1]
    translator = join_ensemble(first, [open_model(args, other, data, pair) for other in others])
    if args.ensemble:
        LOG.info("ensemble of %d: %s", len(translator.models), ", ".join(map(str, translator.directories)))
    return translator


class _Phrases:
    """What translations must hold: of the whole run, and of a line's own fields."""

    def __init__(self, args: argparse.Namespace, translator: "Translator", search: "BeamSettings") -> None:
        from mnmt_ds.decoding.translation import untranslatable_ids

        self._tokenizer, self._of_lines = translator.tokenizer, args.constraints
        self._language = split_pair(args.pair)[1]
        self._banned = frozenset(untranslatable_ids(translator.tokenizer, search))
        self._of_all = [self._encode(text) for text in args.force]
        self._beam, self._positions, self._warned = search.beam, translator.max_positions, False
        self._warn(self._of_all, "--force")

    def _encode(self, text: str) -> "Phrase":
        from mnmt_ds.decoding.translation import encode_phrase

        return encode_phrase(self._tokenizer, text, self._language, self._banned)

    def _warn(self, phrases: "list[Phrase]", place: str) -> None:
        """Says once where forced texts take many times the work of a plain search."""
        from mnmt_ds.decoding.constraints import piece_count, search_width

        width = search_width(self._beam, pieces := piece_count(phrases))
        if not self._warned and width >= MANY_BEAMS * self._beam and pieces < self._positions:  # more is refused
            LOG.warning("%s: %d pieces are forced, for which %d beams run, not %d: %d times the time, or more;"
                        " force shorter texts", place, pieces, width, self._beam, width // self._beam)  # fmt: skip
            self._warned = True

    def split(self, lines: list[str], first: int) -> "tuple[list[str], list[list[Phrase]]]":
        """The lines' texts, and of each the phrases; no list at all where nothing is forced."""
        from mnmt_ds.errors import UserError

        texts, phrases = lines, [self._of_all for _ in lines]
        if self._of_lines:
            texts, phrases = [], []
            for number, line in enumerate(lines, start=first + 1):
                text, *fields = line.split("\t")
                texts.append(text)
                try:
                    phrases.append([*self._of_all, *(self._encode(field) for field in fields if field.strip())])
                except UserError as error:
                    raise UserError(f"line {number}: {error}") from None
                self._warn(phrases[-1], f"line {number}")
        return texts, phrases if any(phrases) else []


def _steps(args: argparse.Namespace) -> list[str]:
    """The pairs through which the text goes."""
    source, target = split_pair(args.pair)
    return [f"{source}-{args.pivot}", f"{args.pivot}-{target}"] if args.pivot else [args.pair]


def search_settings(args: argparse.Namespace) -> "BeamSettings":
    """Makes the search settings that the arguments ask for.

    Args:
        args: the parsed arguments.

    Returns:
        The settings.

    Raises:
        UserError: where one of them would have no effect.
    """
    from mnmt_ds.decoding.beam_search import BeamSettings
    from mnmt_ds.errors import UserError

    sample = getattr(args, "sample", 0.0)
    if hasattr(args, "sample") and not sample:
        given = {"--top-k": (args.top_k, 0), "--top-p": (args.top_p, 1), "--seed": (args.seed, 0)}
        for option, (value, default) in given.items():
            if value != default:
                raise UserError(f"{option} {value}: says how translations are drawn; add --sample, or leave it out")
    drawn: dict[str, Any] = {}
    if sample:
        drawn = dict(sample_temperature=sample, sample_top_k=args.top_k, sample_top_p=args.top_p, sample_seed=args.seed)
    return BeamSettings(
        beam=1 if sample else args.beam, length_penalty=args.length_penalty, early_stopping=not args.patient,
        ban_unknown=args.ban_unknown, banned_pieces=tuple(getattr(args, "ban", ())), **drawn,
    )  # fmt: skip


def open_model(
    args: argparse.Namespace, path: Path | None = None, data: Path | None = None, pair: str = ""
) -> "Translator":
    """Opens the model that the arguments name, on their device.

    Args:
        args: the parsed arguments.
        path: model directory or run; None: ``args.model``.
        data: prepared corpus with the tokenizer; None: as the run's recipe says.
        pair: what the model is wanted for, where a run has several.

    Returns:
        The model with its tokenizer.

    Raises:
        UserError: when there is no such model, or no GPU where one is asked for.
    """
    import torch

    from mnmt_ds.decoding.loading import open_translator
    from mnmt_ds.distributed import uses_gpu
    from mnmt_ds.errors import UserError

    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU that torch can use; take --device cpu")
    device = args.device if args.device != "auto" else "cuda" if uses_gpu() else "cpu"
    if device == "cuda":  # one process a GPU, where a launcher started several
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.dtype]
    return open_translator(path or args.model, device, dtype, data, pair)


def processes(args: argparse.Namespace, translator: "Translator", sentences: int) -> int:
    """Chooses the number of worker processes.

    Args:
        args: the parsed arguments.
        translator: the model.
        sentences: how many are translated.

    Returns:
        1 on a GPU; else as asked, or one for every ``SENTENCES_A_PROCESS``, at most one a processor.
    """
    if translator.model.embedding.weight.device.type != "cpu":
        return 1
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return args.jobs or max(1, min(available, sentences // SENTENCES_A_PROCESS))


def _translate(
    translator: "Translator", lines: list[str], first: int, args: argparse.Namespace, search: "BeamSettings",
    constraints: _Phrases, output: IO[bytes], progress: "ProgressBar",
) -> list[int]:  # fmt: skip
    """Translates lines, whose first has number ``first``, into the output; the numbers of those that were cut."""
    from mnmt_ds.decoding.long_text import join_parts, split_long
    from mnmt_ds.decoding.translation import hypothesis_text, translate_all

    longest = translator.max_positions
    lines, phrases = constraints.split(lines, first)
    cut: set[int] = set()
    pairs = _steps(args)
    for pair in pairs:
        source, target = split_pair(pair)
        is_last = pair == pairs[-1]
        room = longest - translator.frame(pair).source_extra
        segments = [[line] for line in lines]
        if args.split is not None:
            most = min(args.split or room, room)
            segments = [split_long(line, source, translator.tokenizer, most) or [""] for line in lines]
        texts = [segment[: 64 * longest] for each in segments for segment in each]  # what lies beyond cannot fit
        owner = [number for number, each in enumerate(segments) for _ in each]
        pieces = translator.tokenizer.encode_many(texts, source)
        cut |= {first + line for line, ids in zip(owner, pieces, strict=True) if len(ids) > room}
        draws = max(1, args.nbest) if args.sample and is_last else 1
        rows = translate_all(
            translator, {pair: pieces * draws}, search, args.batch_tokens, processes(args, translator, len(pieces)),
            progress.add if is_last else lambda count: None, args.prefix if is_last else "",
            phrases if is_last else (),
        )[pair]  # fmt: skip
        if args.nbest and is_last:
            for line in range(len(lines)):
                best = [each for row in rows[line :: len(lines)] for each in row]
                for each in sorted(best, key=lambda each: -each.score)[: args.nbest]:
                    text = hypothesis_text(translator, each)
                    output.write(f"{first + line} ||| {text} ||| {each.score:.4f}\n".encode())
            continue
        hypotheses: list[list[str]] = [[] for _ in lines]
        for line, row in zip(owner, rows, strict=True):
            hypotheses[line].append(hypothesis_text(translator, row[0]) if row else "")
        lines = [join_parts(each, target) for each in hypotheses]
        if is_last:
            output.write("".join(f"{line}\n" for line in lines).encode())
    output.flush()
    return sorted(cut)


def _windows(files: list[Path | None], size: int, fields: bool) -> "Iterator[tuple[int, list[str] | UserError]]":
    """(index of the first line, lines as text), over all files; or the fault of a window that is a single line.

    What the model never saw (control characters) becomes a space, but for the tabs between fields.
    """
    from mnmt_ds.decoding.text_lines import decode_line
    from mnmt_ds.errors import UserError

    first, window = 0, list[str]()
    for place, raw in _lines(files):
        try:
            window.append(decode_line(raw, place, fields))
        except UserError as error:
            if size > 1:
                raise
            yield first, error
            first += 1
        if len(window) >= size:
            yield first, window
            first, window = first + len(window), []
    if window:
        yield first, window


def _lines(files: list[Path | None]) -> Iterator[tuple[str, bytes]]:
    """Lines, split at \\n bytes alone, and where each stands."""
    for path in files or [None]:
        with contextlib.nullcontext(sys.stdin.buffer) if path is None else path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                yield f"{path or 'standard input'}:{number}", raw


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[IO[bytes]]:
    """A stream for lines: to a file that is there once whole, or to standard output."""
    if path is None:
        yield sys.stdout.buffer
        return
    with files.writing(path) as stream:
        yield stream
