"""How each step of a training grows with the number of language pairs, and what that means for thousands of them.

Made-up text of P languages into English, the same number of sentences of each, goes through every step: ``prepare``,
``prepare`` again, the start of a training, updates, validations, ``compare`` of two runs. The table has what each took
at each P, the exponent k of its growth a + b P^k through the three largest, and what that makes at ``--extrapolate``
pairs. Seconds are of all processors together (CPU), so that other work on the machine hardly counts.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mnmt_ds.bench.arguments import add_output
from mnmt_ds.bench.measuring import set_threads
from mnmt_ds.bench.publish import publish
from mnmt_ds.config.paths import path_option
from mnmt_ds.config.ranges import number_option
from mnmt_ds.errors import UserError
from mnmt_ds.files import write_text

HELP = "how prepare, training, validation and compare grow with the number of language pairs"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
UPDATES, VALIDATIONS = 6, 2
"""Of each training."""


class Quantity(NamedTuple):
    """One row of the table of quantities that grow with the number of pairs."""

    title: str
    unit: str


QUANTITIES = {
    "prepare": Quantity("prepare", "CPU s"),
    "prepare_again": Quantity("prepare again, nothing to do", "CPU s"),
    "corpus_files": Quantity("files of the corpus", ""),
    "start": Quantity("start of a training", "CPU s"),
    "start_mib": Quantity("memory after the start", "MiB"),
    "descriptors": Quantity("files that are open after a validation", ""),
    "update": Quantity("an update", "CPU ms"),
    "validation": Quantity("a validation", "CPU s"),
    "metrics_kib": Quantity("record of a validation", "KiB"),
    "compare": Quantity("compare, two runs", "CPU s"),
    "page_kib": Quantity("page of compare", "KiB"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's arguments.

    Args:
        parser: the benchmark's parser.
    """
    positive = number_option(int, ge=1)
    parser.add_argument("--pairs", type=positive, nargs="+", default=[10, 30, 100], help="default: 10 30 100")
    parser.add_argument("--sentences", type=positive, default=60, help="training sentences a pair (default: 60)")
    parser.add_argument("--extrapolate", type=positive, default=9900, help="pairs of the last column (default: 9900)")
    parser.add_argument("--place", type=path_option, help="directory to work in (default: the system's temporary one)")
    add_output(parser, "scale")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes the result file.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code 0.
    """
    set_threads()
    results: dict[int, dict[str, float]] = {}
    for pairs in sorted(set(args.pairs)):
        with tempfile.TemporaryDirectory(dir=args.place) as folder:
            results[pairs] = measure(Path(folder), pairs, args.sentences)
            print(f"{pairs} pairs: {sum(results[pairs][name] for name in ('prepare', 'start', 'compare')):.0f} CPU s")
    result = {"pairs": results, "sentences": args.sentences, "extrapolated_to": args.extrapolate}
    return publish("scale", table(results, args.extrapolate), result, args.out)


def table(results: Mapping[int, Mapping[str, float]], extrapolate: int) -> str:
    """Writes the results as a table.

    Args:
        results: quantities by number of pairs, ascending.
        extrapolate: number of pairs of the last column.

    Returns:
        Markdown.
    """
    counts = list(results)
    head = ["", *(f"{count:,} pairs" for count in counts), "growth", f"{extrapolate:,} pairs (reckoned)"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, quantity in QUANTITIES.items():
        values = [results[count][name] for count in counts]
        unit = f", {quantity.unit}" if quantity.unit else ""
        grown = growth(counts, values)
        cells = [_number(value) for value in [*values, grown.at(extrapolate)]]
        cells.insert(-1, f"P^{grown.exponent:.1f}" if grown.factor else "–")
        lines.append(f"| {quantity.title}{unit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class Growth(NamedTuple):
    """Fit of a quantity's growth with the number P of pairs: a + b P^k."""

    constant: float
    factor: float
    exponent: float

    def at(self, pairs: int) -> float:
        """Extrapolates to another number of pairs.

        Args:
            pairs: P.

        Returns:
            The value there.
        """
        return self.constant + self.factor * pairs**self.exponent


def growth(counts: Sequence[int], values: Sequence[float]) -> Growth:
    """Finds the growth a + b P^k that goes through the three largest measurements.

    Args:
        counts: numbers of pairs, ascending; with fewer than three k is 1, with one the value stays.
        values: the quantity at each.

    Returns:
        The growth; k is 0 where the quantity does not grow, at most 3.
    """
    if len(counts) < 2 or values[-1] <= values[-2]:
        return Growth(values[-1], 0.0, 0.0)
    exponent = 1.0
    if len(counts) > 2 and values[-2] > values[-3]:
        ratio = (values[-1] - values[-2]) / (values[-2] - values[-3])
        low, high = 0.01, 3.0
        for _ in range(60):  # the ratio rises with the exponent
            exponent = (low + high) / 2
            first, second, third = (count**exponent for count in counts[-3:])
            low, high = (low, exponent) if (third - second) / (second - first) > ratio else (exponent, high)
    factor = (values[-1] - values[-2]) / (counts[-1] ** exponent - counts[-2] ** exponent)
    return Growth(values[-1] - factor * counts[-1] ** exponent, factor, exponent)


def measure(home: Path, pairs: int, sentences: int) -> dict[str, float]:
    """Measures all steps, from prepare to compare, on text of so many pairs.

    Args:
        home: an empty directory.
        pairs: P.
        sentences: training sentences of each pair.

    Returns:
        A value for every key of ``QUANTITIES``.
    """
    recipe = write_corpora(home, pairs, sentences)
    tool = [sys.executable, "-m", "mnmt_ds.cli.main"]
    values = {name: _cpu_seconds([*tool, "prepare", str(recipe)]) for name in ("prepare", "prepare_again")}
    values["corpus_files"] = sum(path.is_file() for path in (home / "data").rglob("*"))
    for name in ("first", "second"):
        script = f"from mnmt_ds.bench.scale import train; train({str(recipe)!r}, {str(home / name)!r})"
        values |= json.loads(_run([sys.executable, "-c", script]).splitlines()[-1])
    page = home / "report"
    values["compare"] = _cpu_seconds([*tool, "compare", str(home / "first"), str(home / "second"), "-o", str(page)])
    values["page_kib"] = (page / "compare.html").stat().st_size / 1024
    return values


def write_corpora(home: Path, pairs: int, sentences: int) -> Path:
    """Writes text of several languages into English, and a recipe.

    Args:
        home: where to.
        pairs: number of languages.
        sentences: training sentences of each; 4 more are held out for dev and 4 for test.

    Returns:
        The recipe.
    """
    random_words = random.Random(1)
    words = ["".join(random_words.choices(LETTERS, k=5)) for _ in range(300)]
    codes = [f"q{LETTERS[n // 26 % 26]}{LETTERS[n % 26]}{LETTERS[n // 676]}" for n in range(pairs)]
    (home / "text").mkdir()
    for code in codes:
        lines = []
        for _ in range(sentences + 8):
            english = random_words.choices(words, k=random_words.randint(6, 14))
            lines.append(" ".join(word[::-1] + code[1:] for word in english) + "\t" + " ".join(english))
        write_text(home / "text" / f"{code}.tsv", "\n".join(lines) + "\n")
    corpora = {
        f"{code}-en": {"train": [{"format": "tsv", "path": str(home / "text" / f"{code}.tsv")}]} for code in codes
    }
    data = {
        "directory": str(home / "data"), "pairs": [*corpora], "corpora": corpora, "split": {"dev": 4, "test": 4},
        "clean": {"min_script": 0.0}, "tokenizer": {"size": 400 + 2 * pairs, "hard_limit": False},
    }  # fmt: skip
    sections = {
        "name": "scale", "directory": str(home / "run"), "data": data, "model": {"preset": "tiny"},
        "method": {"name": "lssd", "variant": "whole"}, "train": {"max_tokens": 512, "max_steps": UPDATES},
        "validation": {"every": UPDATES // VALIDATIONS}, "deepspeed": "ds_configs/zero0.json",
    }  # fmt: skip
    write_text(home / "recipe.yaml", json.dumps(sections))
    return home / "recipe.yaml"


def train(recipe: str, directory: str) -> None:
    """Trains a few updates in this process and prints time and memory, as JSON.

    Args:
        recipe: path of the recipe.
        directory: of the run.
    """
    from mnmt_ds.distributed import job
    from mnmt_ds.engine.loop import advance, student_loops
    from mnmt_ds.engine.monitoring.meter import memory
    from mnmt_ds.engine.recipe import load_recipe
    from mnmt_ds.engine.training import Training
    from mnmt_ds.engine.validation_round import validate_students
    from mnmt_ds.log import set_up_deepspeed
    from mnmt_ds.metric_keys import MEMORY_CPU
    from mnmt_ds.run_files import METRICS

    set_up_deepspeed()
    with job():
        began = time.process_time()
        training = Training(load_recipe(Path(recipe), [f"directory={directory}"]), resume=False)
        start, start_bytes = time.process_time() - began, memory()[MEMORY_CPU]
        loops, updates, validations = student_loops(training), [], []
        for number in range(1, UPDATES + 1):
            began = time.process_time()
            advance(training, loops, stop=False)
            updates.append(time.process_time() - began)
            if number % (UPDATES // VALIDATIONS) == 0:
                began = time.process_time()
                validate_students(training)
                training.flush_log()
                validations.append(time.process_time() - began)
        log = Path(directory) / METRICS
        record = max(len(line) for line in log.read_bytes().splitlines() if b'"kind": "valid"' in line)
        values = {
            "start": start, "start_mib": start_bytes / 2**20, "descriptors": len(os.listdir("/proc/self/fd")),
            "update": 1000 * min(updates), "validation": min(validations), "metrics_kib": record / 1024,
        }  # fmt: skip
        training.close()
    print(json.dumps(values))


def _run(command: Sequence[str]) -> str:
    """Runs a command and gives what it prints; what it says on standard error is shown where it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"{' '.join(command[2:4])}: ended with {result.returncode}: {result.stderr.strip()[-400:]}")
    return result.stdout


def _cpu_seconds(command: Sequence[str]) -> float:
    """CPU seconds of a command and all of its children; it must end well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
