"""Say what a recipe will need before it runs: parameters, memory a rank, layouts that fit, passes over data, hours."""

import argparse
from typing import Any

from mnmt_ds.config.paths import path_option

HELP = "say what a recipe will need: memory, layouts that fit, passes, hours"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import number_option

    parser.add_argument("recipe", type=path_option, help="YAML recipe; its corpus must be prepared")
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="settings that replace the recipe's")
    parser.add_argument(
        "--devices",
        type=number_option(int, ge=1, le=1_000_000),
        metavar="N",
        help="ranks, one a device (default: as few as the recipe allows)",
    )
    parser.add_argument(
        "--memory",
        type=number_option(float, gt=0),
        metavar="GB",
        help="GB (1e9 bytes) of a device: list layouts that fit",
    )
    parser.add_argument("--gpu", action="store_true", help="plan for GPUs, also on a machine without one")
    parser.add_argument("--no-probe", action="store_true", help="do not measure the process's own memory")
    parser.add_argument("--calibrate", action="store_true", help="train ten updates on one rank to predict hours")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Prints the plan.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.
    """
    from mnmt_ds.data.corpus import Corpus
    from mnmt_ds.engine.recipe import load_recipe
    from mnmt_ds.engine.unused_settings import start_warnings
    from mnmt_ds.planning import report
    from mnmt_ds.planning.layouts import fitting_layouts
    from mnmt_ds.planning.plan import make_plan, memory_estimator
    from mnmt_ds.planning.probe import train_and_report

    recipe = load_recipe(args.recipe, args.overrides)
    if args.probe:
        print(train_and_report(recipe), flush=True)
        return 0
    plan: Any = make_plan(
        recipe, args.recipe, args.overrides, args.devices, args.gpu, not args.no_probe, args.calibrate
    )
    print("\n".join(report.plan_lines(plan)))
    for warning in start_warnings(recipe, Corpus.open(recipe.data.directory)):
        print(f"warning: {warning}")
    if args.memory is not None:
        device_bytes = args.memory * 1e9
        estimate = memory_estimator(recipe, plan.memories[0].base, plan.layout.on_cpu)
        choices = fitting_layouts(recipe, plan.layout, device_bytes, estimate)
        print("\n" + "\n".join(report.layout_lines(choices, plan.layout.ranks, device_bytes)))
    return 0
