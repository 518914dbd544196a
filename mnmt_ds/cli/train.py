"""Train a recipe: alone, or as a rank of a deepspeed, torchrun or srun job."""

import argparse
import os
from pathlib import Path

from mnmt_ds.cli.printing import PrintAction
from mnmt_ds.config.paths import path_option

HELP = "train a model as a recipe says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    parser.add_argument("recipe", type=path_option, help="YAML recipe")
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="settings that replace the recipe's")
    parser.add_argument("--resume", action="store_true", help="go on from the run's newest good checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    parser.add_argument(
        "--dump-config", action="store_true", help="print the recipe with every value as it is used, and stop"
    )
    parser.add_argument(
        "--help-config", action=PrintAction, make=_help_config, nargs="?", const="", metavar="SECTION",
        help="print all settings with their meanings as YAML, or those of a section (train, method.lssd, data.corpora),"
        " and stop",
    )  # fmt: skip
    parser.add_argument(
        "--json-schema", action=PrintAction, make=_json_schema, nargs=0, help="print a JSON schema of recipes, and stop"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Trains, or prints what is asked for.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.

    Raises:
        UserError: when the recipe, its data or this machine do not fit.
    """
    from mnmt_ds.config import dump
    from mnmt_ds.engine.recipe import load_recipe
    from mnmt_ds.errors import UserError

    if args.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    try:
        recipe = load_recipe(args.recipe, args.overrides)
    except UserError:
        raise UserError(*_all_faults(args.recipe, args.overrides)) from None
    if args.dump_config:
        print(dump(recipe), end="")
        return 0
    from mnmt_ds.distributed import job
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    with job(recipe.train.timeout_minutes):
        from mnmt_ds.engine.dry_run import check
        from mnmt_ds.engine.loop import train
        from mnmt_ds.hung_ranks import hang_detection

        if args.dry_run:
            check(recipe)
            return 0
        with hang_detection(recipe.directory, recipe.train.timeout_minutes):
            train(recipe, args.resume)
    return 0


def _all_faults(recipe: Path, overrides: list[str]) -> list[str]:
    """What a recipe that cannot be read has wrong, and all else that training would refuse."""
    from mnmt_ds.distributed import choose_accelerator

    choose_accelerator()
    from mnmt_ds.engine.start_faults import recipe_faults

    return recipe_faults(recipe, overrides)


def _help_config(section: str) -> str:
    """The YAML of a section; of the whole recipe where none is named."""
    from mnmt_ds.config.help_text import help_yaml
    from mnmt_ds.engine.recipe import Recipe

    return help_yaml(Recipe, section)


def _json_schema(_: str) -> str:
    """The JSON schema of recipes."""
    from mnmt_ds.config.json_schema import json_schema
    from mnmt_ds.engine.recipe import Recipe

    return json_schema(Recipe)
