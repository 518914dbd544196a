"""Measure speed and memory; each benchmark prints a table and writes a dated result file."""

import argparse
import importlib

from mnmt_ds.cli.printing import printed_docstring

BENCHMARKS = (
    "throughput",
    "loss",
    "teachers",
    "methods",
    "placement",
    "pipeline",
    "staged",
    "finetune",
    "linear",
    "checks",
    "scale",
)
HELP = f"measure speed and memory: {', '.join(BENCHMARKS)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name in BENCHMARKS:
        module = importlib.import_module(f"mnmt_ds.bench.{name}")
        sub = benchmarks.add_parser(name, help=module.HELP, description=printed_docstring(module), allow_abbrev=False)
        module.add_arguments(sub)
        sub.set_defaults(measure=module.run)


def run(args: argparse.Namespace) -> int:
    """Runs a benchmark.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.
    """
    return int(args.measure(args))
