"""Measure speed and memory; each benchmark prints a table and writes a dated result file."""

import argparse
import importlib
from pathlib import Path

HELP = "measure speed and memory: throughput, loss, teachers, methods, placement, pipeline, staged"
BENCHMARKS = ("throughput", "loss", "teachers", "methods", "placement", "pipeline", "staged")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    folder = Path(__file__).parents[1] / "bench"
    for name in BENCHMARKS:
        if (folder / f"{name}.py").exists():
            module = importlib.import_module(f"mnmt_ds.bench.{name}")
            sub = which.add_parser(name, help=module.HELP, description=module.__doc__)
            module.add_arguments(sub)
            sub.set_defaults(measure=module.run)


def run(args: argparse.Namespace) -> int:
    return int(args.measure(args))
