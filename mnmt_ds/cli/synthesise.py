"""Make training text with a model: back-translation of monolingual text, or sequence-level distillation.

Text goes in a sentence a line; DIR/PAIR.SOURCE and DIR/PAIR.TARGET come out, aligned line for line, and the lines that
take them into a recipe are printed. What was cut off goes on with the same command. Several processes share the work:
those that torchrun, deepspeed or srun start, or any with --shard.
"""

import argparse
import logging
import os
import re
from pathlib import Path

from mnmt_ds.config.paths import path_option

HELP = "make training text with a model: back-translation, or sequence-level distillation"
LOG = logging.getLogger(__name__)
RANKS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
"""Variables of a launcher: the process's number, and how many there are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.cli.translate import add_ensemble_argument, add_sampling_arguments, add_search_arguments
    from mnmt_ds.config.ranges import number_option

    parser.add_argument("model", type=path_option, help="model directory (run/best, run/best_<pair>) or run")
    parser.add_argument(
        "files", type=path_option, nargs="+", metavar="TEXT",
        help="UTF-8 text, one sentence a line; .gz, .bz2, .xz, .zst and .zip are read as they are",
    )  # fmt: skip
    add_ensemble_argument(parser)
    parser.add_argument("--pair", required=True, help="source-target of the corpus that is made, such as bs-en")
    parser.add_argument(
        "--direction", required=True, choices=("back", "forward"),
        help="back: TEXT is in the target language, its sources are made; forward: TEXT is in the source language",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=path_option, required=True, metavar="DIR", help="directory to write")
    parser.add_argument(
        "--closest-to", type=path_option, metavar="FILE",
        help="given translations of TEXT, line for line: of the beam's hypotheses the one with the highest"
        " sentence-level chrF against them is taken",
    )  # fmt: skip
    parser.add_argument(
        "--chunk", type=number_option(int, ge=1), default=20_000, metavar="LINES",
        help="lines after which what is done is kept (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--shard", metavar="I/N", help="make the I-th of N parts (default: as the launcher says, else all)"
    )
    parser.add_argument("--fresh", action="store_true", help="begin anew what was begun or made in the directory")
    add_sampling_arguments(parser)
    add_search_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Makes the corpus, or this process's part of it.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.

    Raises:
        UserError: for faults of the arguments and of the text, before any work.
    """
    from mnmt_ds.cli.translate import open_ensemble, processes, search_settings
    from mnmt_ds.data.worker_pool import ProgressBar
    from mnmt_ds.decoding import synthesis
    from mnmt_ds.decoding.loading import warn_untrained_pair
    from mnmt_ds.errors import UserError
    from mnmt_ds.files import sha256

    rank, size = shard_of(args.shard)
    _check(args)
    if args.fresh and size > 1:
        raise UserError("--fresh: one process removes what others make; take it without launcher and --shard")
    search = search_settings(args)
    references = [args.closest_to] if args.closest_to else []
    plan = synthesis.SynthesisPlan(
        args.pair, args.direction, "", {}, synthesis.describe_files(args.files), synthesis.describe_files(references),
        args.chunk,
    )  # fmt: skip
    if not plan.lines:
        raise UserError(f"{args.files[0]}: no line of text; give text in the language that is translated")
    if references and (lines := plan.references[0][2]) != plan.lines:
        raise UserError(f"{args.closest_to}: {lines:,} lines, the text has {plan.lines:,}; give them line for line")
    translator = open_ensemble(args, plan.model_pair)
    translator.frame(plan.model_pair)
    for each in (translator, *translator.ensemble):
        warn_untrained_pair(each, plan.model_pair)
    facts = {**search.model_dump(mode="json"), "dtype": args.dtype}
    weights = [
        each.description.get("sha256") or sha256(each.directory / "model.safetensors")
        for each in (translator, *translator.ensemble)
    ]
    plan = plan._replace(model="+".join(weights), search=facts)
    if args.fresh:  # once all that may be wrong was looked at
        synthesis.start_anew(args.output, plan)
    record = synthesis.begin(args.output, plan)
    if record is not None and rank > 0:
        return 0
    if record is None:
        missing = synthesis.missing_chunks(args.output, plan)
        chunks = [number for number in missing if number % size == rank]
        if chunks_done := plan.chunks - len(missing):
            LOG.info("%s: %d of %d chunks are there already", args.output, chunks_done, plan.chunks)
        last = plan.lines - (plan.chunks - 1) * plan.chunk
        total = sum(last if number == plan.chunks - 1 else plan.chunk for number in chunks)
        with ProgressBar(f"synthesise {plan.pair}", "lines", total) as progress:
            synthesis.translate_chunks(
                args.output, plan, chunks, translator, search, args.batch_tokens,
                lambda sentences: processes(args, translator, sentences), progress.add,
            )  # fmt: skip
        record = synthesis.finish(args.output, plan, {"model_path": str(args.model)})
    if record is None:
        LOG.info("%s: this process's part is done; whoever comes last joins them", args.output)
        return 0
    _report(args.output, args.pair, args.direction, record)
    return 0


def shard_of(text: str | None) -> tuple[int, int]:
    """Returns which part of the work this process does.

    Args:
        text: ``I/N`` as given on the command line; None: as the launcher's variables say.

    Returns:
        The part's number from 0, and how many parts there are.

    Raises:
        UserError: where the text is no such part.
    """
    from mnmt_ds.errors import UserError

    if text is not None:
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"--shard {text}: write I/N with I from 1 to N, such as 2/8")
        return int(match[1]) - 1, int(match[2])
    for rank_name, size_name in RANKS:
        rank, size = os.environ.get(rank_name, ""), os.environ.get(size_name, "")
        if not rank or not size:
            continue
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise UserError(f"{rank_name}={rank}, {size_name}={size}: no part of the work; take --shard I/N")
        return int(rank), int(size)
    return 0, 1


def _check(args: argparse.Namespace) -> None:
    """UserError for arguments that do not go together."""
    from mnmt_ds.data.language_pairs import is_pair
    from mnmt_ds.data.readers.archives import disk_file
    from mnmt_ds.errors import UserError

    if not is_pair(args.pair):
        raise UserError(f"--pair {args.pair}: write source-target, such as bs-en")
    if args.closest_to and args.direction == "back":
        raise UserError("--closest-to: sources are made, and the text is their reference; take it with forward")
    if args.closest_to and (args.sample or args.beam == 1):
        raise UserError("--closest-to: needs several hypotheses; leave out --sample, and take --beam 2 or more")
    if args.output.exists() and not args.output.is_dir():
        raise UserError(f"-o {args.output}: is no directory; name a new one")
    for path in [*args.files, *([args.closest_to] if args.closest_to else [])]:
        file = Path(disk_file(str(path)))
        if file.exists() and not file.is_file() and not file.is_dir():
            raise UserError(f"{path}: is no plain file, and text is read several times; write it into a file first")
        if not file.is_file() or not os.access(file, os.R_OK):
            raise UserError(f"{path}: cannot be read; give text files")


def _report(directory: Path, pair: str, direction: str, record: dict[str, object]) -> None:
    from mnmt_ds.config.yaml_values import format_value
    from mnmt_ds.decoding.synthesis import corpus_paths

    counts = record["counts"]
    assert isinstance(counts, dict)
    counts_text = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    source, target = corpus_paths(directory, pair)
    synthetic = {"tag": "<bt>"} if direction == "back" else {}
    entry = {"format": "moses", "path": str(source), "target_path": str(target), "synthetic": synthetic}
    counts_text = f" ({counts_text})" if counts_text else ""
    print(f"{directory}: {record['lines']:,} sentence pairs of {pair}{counts_text}; in a recipe,")
    print(f"among the entries of data.corpora.{pair}.train, after real text:")
    print(f"  - {format_value(entry)}")
