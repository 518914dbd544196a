"""What the checks cost: a start on a large prepared corpus and a save, each with the checks and without, taking turns.

The corpus is the recipe's own, its training sets repeated until they have so many sentence pairs. A start is all that
happens before the first update, in a process that has imported everything; at the first start of all, digests of the
data are computed, the others find them. A save is a checkpoint of the recipe's model and optimizer after an update, its
flush to the disk included; without checks torch writes it with checksums of its own, as DeepSpeed does. Each figure is
the least of all rounds, in which other work on the machine has least part.

Letters: N sentence pairs, S sides.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mnmt_ds.bench.arguments import add_output, add_recipe, add_rounds
from mnmt_ds.bench.measuring import rotated, seconds_of, set_threads
from mnmt_ds.bench.publish import publish
from mnmt_ds.config.paths import path_option
from mnmt_ds.config.ranges import number_option

if TYPE_CHECKING:  # imported when the benchmark runs: DeepSpeed takes seconds
    from mnmt_ds.checkpoint_writer import WrittenFile
    from mnmt_ds.engine.recipe import Recipe
    from mnmt_ds.engine.training import Training

HELP = "what the checks of data, weights and checkpoints add to a start and a save"
Times = tuple[float, float]
"""Seconds on the clock, and of all processors together."""
WAYS = ["with", "without"]
"""With the checks, and without."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's arguments.

    Args:
        parser: the benchmark's parser.
    """
    add_recipe(parser, "launchers/recipes/bench.yaml")
    add_rounds(parser, 5, "starts and saves of each way")
    parser.add_argument(
        "--sentences", type=number_option(int, ge=1), default=5_000_000, help="sentence pairs (default: 5,000,000)"
    )
    parser.add_argument(
        "--place",
        type=path_option,
        help="directory on the disk that is measured (default: the system's temporary directory)",
    )
    add_output(parser, "checks")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes the result file.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code 0.
    """
    from mnmt_ds.distributed import job
    from mnmt_ds.engine.recipe import load_recipe
    from mnmt_ds.log import set_up_deepspeed

    set_threads()
    set_up_deepspeed()
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        home = Path(folder)
        recipe = load_recipe(args.recipe, [*args.overrides, "tracking.wandb=off"])
        mebibytes = enlarge(Path(recipe.data.directory), home / "data", args.sentences) / 2**20
        data = recipe.data.model_copy(update={"directory": str(home / "data")})
        with job():
            result = _measure(recipe.model_copy(update={"data": data}), home, args.rounds)
    result |= {"sentences": args.sentences, "data_mib": mebibytes}
    return publish("checks", table(result), result, args.out)


def table(result: Mapping[str, Any]) -> str:
    """Writes the results as a table.

    Args:
        result: times of starts and saves, by way; of the first start; sizes in MiB.

    Returns:
        Markdown.
    """
    lines = [
        "| | without checks, s | with, s | more | CPU without, s | with, s | more |",
        "|---|---|---|---|---|---|---|",
    ]
    labels = {
        "starts": f"start, {result['sentences']:,} sentence pairs ({result['data_mib']:,.0f} MiB), not the first",
        "saves": f"save, {result['checkpoint_mib']:,.0f} MiB",
    }
    without_checks = result["starts"]["without"]
    rows = [(label, result[name]["without"], result[name]["with"]) for name, label in labels.items()]
    for label, *ways in [*rows, ("the first start", without_checks, result["first_start"])]:
        cells = []
        for clock in range(2):
            without, with_checks = (min(times[clock] for times in way) for way in ways)
            cells += [f"{without:.3f}", f"{with_checks:.3f}", f"{with_checks / without - 1:+.1%}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def enlarge(source: Path, target: Path, sentences: int) -> int:
    """Writes a prepared corpus whose training sets are those of another, repeated.

    Args:
        source: a prepared corpus.
        target: directory of the new one; its texts stay those of the other.
        sentences: sentence pairs in all, at least.

    Returns:
        Bytes of the training sets' ids.
    """
    from mnmt_ds.data.corpus import MANIFEST, Corpus
    from mnmt_ds.data.indexed import IndexedDataset, smallest_dtype, write_indexed_dataset
    from mnmt_ds.file_integrity import write_checked_json
    from mnmt_ds.files import sha256

    corpus = Corpus.open(source)
    manifest = json.loads(json.dumps(corpus.manifest))
    for name in manifest["files"]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    counts = {pair: len(corpus.split(pair, "train")) for pair in corpus.pairs}
    times, size = -(-sentences // sum(counts.values())), 0
    for pair, count in counts.items():
        dataset = IndexedDataset(source / "bin" / f"{pair}.train")
        lengths_NS = dataset.lengths.reshape(-1, 2)
        block = (dataset.ids, lengths_NS)
        write_indexed_dataset(
            target / "bin" / f"{pair}.train", (block for _ in range(times)), smallest_dtype(corpus.tokenizer.size)
        )
        tokens = [times * int(side) for side in lengths_NS.sum(axis=0)]
        manifest["pairs"][pair]["splits"]["train"] = {
            "sentences": times * count, "source_tokens": tokens[0], "target_tokens": tokens[1],
        }  # fmt: skip
        for kind in ("bin", "idx"):
            name = f"bin/{pair}.train.{kind}"
            manifest["files"][name] = {"size": (target / name).stat().st_size, "sha256": sha256(target / name)}
            size += manifest["files"][name]["size"]
    write_checked_json(target / MANIFEST, manifest)
    return size


def _measure(recipe: "Recipe", home: Path, rounds: int) -> dict[str, Any]:
    """Times of starts and saves by way, without a first round of each; of the first start; the checkpoint's size."""
    from mnmt_ds.engine.loop import advance, student_loops

    starts: dict[str, list[Times]] = {way: [] for way in WAYS}
    saves: dict[str, list[Times]] = {way: [] for way in WAYS}
    _started(recipe, home, {"with": []}, "with")  # what a process does once
    (home / "data" / ".hashes.jsonl").unlink(missing_ok=True)
    first: dict[str, list[Times]] = {"with": []}
    _started(recipe, home, first, "with")
    for number in range(rounds + 1):
        for way in rotated(WAYS, number):
            training = _started(recipe, home, starts, way, closes=False)
            advance(training, student_loops(training), stop=False)  # Adam has its moments
            with _checks(way):
                saves[way].append(_times_of(training.save))
            files = (path for path in (training.directory / "checkpoints").rglob("*") if path.is_file())
            size = sum(path.stat().st_size for path in files)
            _end(training)
    return {
        "starts": {way: times[1:] for way, times in starts.items()},
        "saves": {way: times[1:] for way, times in saves.items()},
        "first_start": first["with"],
        "checkpoint_mib": size / 2**20,
    }


def _started(
    recipe: "Recipe", home: Path, times: Mapping[str, list[Times]], way: str, closes: bool = True
) -> "Training":
    """A training that has started in a directory of its own; its times are noted."""
    from mnmt_ds.engine.training import Training

    run, trainings = Path(tempfile.mkdtemp(dir=home)) / "run", []
    with _checks(way):
        started = recipe.model_copy(update={"directory": run})
        times[way].append(_times_of(lambda: trainings.append(Training(started, resume=False))))
    if closes:
        _end(trainings[0])
    return trainings[0]


def _times_of(work: Callable[[], None]) -> Times:
    began = time.process_time()
    return seconds_of(work), time.process_time() - began


def _end(training: "Training") -> None:
    training.close()
    shutil.rmtree(training.directory)


def _write(save: Callable[[IO[bytes]], None], path: Path, hashing: ThreadPoolExecutor) -> "WrittenFile":
    """Writes a file of a checkpoint and takes no SHA-256 of it."""
    from mnmt_ds.checkpoint_writer import WrittenFile

    with path.open("wb") as file:
        save(file)
    return WrittenFile(path.stat().st_size, "0" * 64)


@contextmanager
def _checks(way: str) -> Iterator[None]:
    """Without: digests of data, the manifest's checksum, finite weights and digests of checkpoints are left out."""
    from mnmt_ds import checkpoint_writer
    from mnmt_ds.data import corpus
    from mnmt_ds.engine.checkpointing import checkpoint
    from mnmt_ds.engine.training import Training
    from mnmt_ds.json_files import read_json

    left_out: list[tuple[Any, str, Any]] = [
        (corpus, "first_altered", lambda expected, directory: None),
        (corpus, "read_checked_json", read_json),
        (checkpoint, "sha256", lambda path: "0" * 64),
        (checkpoint_writer, "write_hashed", _write),
        (Training, "_check_weights", lambda training: None),
    ]
    with ExitStack() as restored:
        for owner, name, replacement in left_out if way == "without" else ():
            restored.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, replacement)
        yield
