"""Raw text to a cleaned, split, tokenised and binarised corpus, as the recipe's ``data:`` section says."""

import argparse

from mnmt_ds.config.paths import path_option

HELP = "read, clean, split, tokenise and binarise the text that a recipe names"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    from mnmt_ds.config.ranges import number_option

    parser.add_argument("recipe", type=path_option, help="YAML recipe")
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="settings that replace the recipe's")
    parser.add_argument(
        "--processes", type=number_option(int, ge=1, le=4096), help="worker processes (default: one for each processor)"
    )
    parser.add_argument("--fresh", action="store_true", help="redo everything, also what did not change")


def run(args: argparse.Namespace) -> int:
    """Prepares the recipe's corpus.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.
    """
    from mnmt_ds.data.prepare import prepare
    from mnmt_ds.engine.recipe import load_recipe

    prepare(load_recipe(args.recipe, args.overrides).data, args.processes, args.fresh)
    return 0
