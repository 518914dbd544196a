"""Fine-tuning a model of NLLB's shape: ours under DeepSpeed against transformers' Seq2SeqTrainer, on the same batches.

Weights are random, made by transformers; all ways start from the same directory, and the first two give the same loss
before anything is timed. Each trains in a process of its own: target tokens a second of CPU time, and its peak memory.
The Trainer has its usual settings: fused AdamW, clipping at 1; in bf16 fp32 weights under autocast. ``trimmed`` leaves
out the words that the text does not use, as ``data.tokenizer.trim`` does.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnmt_ds.bench.arguments import add_output
from mnmt_ds.bench.measuring import set_threads
from mnmt_ds.bench.publish import publish
from mnmt_ds.config.paths import path_option
from mnmt_ds.config.ranges import number_option
from mnmt_ds.errors import UserError

HELP = "fine-tuning a model of NLLB's shape: speed and memory against transformers' Seq2SeqTrainer"
WAYS = ("trainer", "ours", "trimmed")
"""transformers' Seq2SeqTrainer; ours with the whole vocabulary; ours with the words that the text uses."""
Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's arguments.

    Args:
        parser: the benchmark's parser.
    """

    def number(name: str, default: int, description: str) -> None:
        parser.add_argument(
            name, type=number_option(int, ge=1), default=default, help=f"{description} (default: {default})"
        )

    number("--width", 1024, "d_model; feed-forward layers have four times as much")
    number("--layers", 2, "layers of encoder and of decoder")
    number("--vocabulary", 256_206, "words of the model")
    number("--words", 32_000, "words that the text uses")
    number("--max-tokens", 1024, "padded tokens of a micro-batch")
    number("--batches-per-update", 4, "micro-batches of an update")
    number("--updates", 3, "updates that are timed; one more warms up")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of both (default: bf16)")
    parser.add_argument("--deepspeed", type=path_option, default=Path("ds_configs/zero1.json"))
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS), help="what is measured")
    add_output(parser, "finetune")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=path_option, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table and writes the result file.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code 0.

    Raises:
        UserError: where transformers or accelerate is missing, or a way fails.
    """
    set_threads()
    if args.child:
        from mnmt_ds.bench import finetune_ways

        print(json.dumps(finetune_ways.measure(args)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        _in_child(args, "trainer", model)  # makes the model, in a process whose memory does not count
        rows = [_in_child(args, way, model) for way in args.ways]
    check_first_losses(rows, args.precision)
    peer = next((row for row in rows if row["way"] == "trainer"), rows[0])
    for row in rows:
        row["speed_ratio"] = row["tokens_per_cpu_second"] / peer["tokens_per_cpu_second"]
        row["memory_ratio"] = row["peak_mib"] / peer["peak_mib"]
    return publish("finetune", table(rows), {"rows": rows}, args.out)


def check_first_losses(rows: Sequence[Row], precision: str) -> None:
    """Refuses results of ways that do not compute the same.

    Args:
        rows: of the ways; a trimmed vocabulary has another loss.
        precision: bf16 is compared less closely.

    Raises:
        UserError: where losses before the first update differ.
    """
    losses = [row["first_loss"] for row in rows if row["way"] != "trimmed"]
    if any(not math.isclose(loss, losses[0], rel_tol=1e-5 if precision == "fp32" else 1e-2) for loss in losses):
        raise UserError(f"bench finetune: losses before the first update differ: {losses}; report this as a fault")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes the results as a table.

    Args:
        rows: one a way.

    Returns:
        Markdown.
    """
    lines = [
        "| way | words | precision | CPU s an update | target tokens a CPU second | to the Trainer | peak MiB |"
        " to the Trainer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['way']} | {r['words']:,} | {r['precision']} | {r['seconds']:.2f} | {r['tokens_per_cpu_second']:.0f} |"
        f" {r['speed_ratio']:.2f} | {r['peak_mib']:.0f} | {r['memory_ratio']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


def _in_child(args: argparse.Namespace, way: str, model: Path) -> Row:
    """Measures a way in a process of its own; where the model is not there yet, makes it."""
    command = [sys.executable, "-m", "mnmt_ds.cli.main", "bench", "finetune", "--child", way, "--model", str(model)]
    for name in ("width", "layers", "vocabulary", "words", "max_tokens", "batches_per_update", "updates"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    command += ["--precision", args.precision, "--deepspeed", str(args.deepspeed)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"bench finetune: {way} failed ({process.returncode}): {last_line}")
    row: Row = json.loads(process.stdout.strip().splitlines()[-1])
    return row
