"""Check a recipe, all its text and what was prepared from it; list every fault, write nothing."""

import argparse
from pathlib import Path

HELP = "check a recipe and its text, write nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import number_option

    parser.add_argument("recipe", type=Path, help="YAML recipe")
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="settings that replace the recipe's")
    parser.add_argument(
        "--processes", type=number_option(int, ge=1, le=4096), help="worker processes (default: one for each processor)"
    )


def run(args: argparse.Namespace) -> int:
    """Prints all faults.

    Args:
        args: the parsed arguments.

    Returns:
        0 where there is no fault, else 2.
    """
    from mnmt_ds.data.validate import validate
    from mnmt_ds.engine.recipe import load_recipe

    faults = validate(load_recipe(args.recipe, args.overrides).data, args.processes)
    for fault in faults:
        print(fault)
    print(f"{args.recipe}: {len(faults) or 'no'} fault{'s' if len(faults) != 1 else ''}")
    return 2 if faults else 0
