"""Train a recipe: alone, or as a rank of a deepspeed, torchrun or srun job."""

import argparse
import os
from pathlib import Path

HELP = "train a model as a recipe says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings that replace the recipe's")
    parser.add_argument("--resume", action="store_true", help="go on from the run's newest good checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    parser.add_argument("--dump-config", action="store_true", help="print the whole resolved recipe and stop")
    parser.add_argument("--help-config", action="store_true", help="print every setting with its meaning and stop")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from mnmt_ds.config import describe, dump
    from mnmt_ds.engine.recipe import Recipe, load_recipe

    if args.help_config:
        print("\n".join(describe(Recipe)))
        return 0
    if args.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    recipe = load_recipe(args.recipe, args.overrides)
    if args.dump_config:
        print(dump(recipe), end="")
        return 0
    from mnmt_ds.distributed import job
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    with job(recipe.train.timeout_minutes):
        from mnmt_ds.engine.dry_run import check
        from mnmt_ds.engine.loop import train

        if args.dry_run:
            check(recipe)
            return 0
        train(recipe, args.resume)
    return 0
