"""``mnmt-ds prepare``: raw text to a tokenised corpus."""

import argparse
from pathlib import Path

from mnmt_ds.config import Settings, load
from mnmt_ds.data.settings import DataSettings

HELP = "read, clean, split, tokenise and binarise the text that a recipe names"


class _DataSection(Settings):
    data: DataSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that replace the recipe's")
    parser.add_argument("--processes", type=int, help="worker processes (default: one for each processor)")
    parser.add_argument("--fresh", action="store_true", help="redo everything, also what did not change")


def run(args: argparse.Namespace) -> int:
    """Prepares; returns the exit code."""
    from mnmt_ds.data.prepare import prepare

    prepare(load_data(args.recipe, args.overrides), args.processes, args.fresh)
    return 0


def load_data(recipe: Path, overrides: list[str]) -> DataSettings:
    """The recipe's ``data:`` section."""
    return load(_DataSection, recipe, overrides).data
