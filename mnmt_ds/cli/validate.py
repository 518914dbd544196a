"""Check a recipe, all its text and what was prepared from it; list every fault, write nothing."""

import argparse

from mnmt_ds.config.paths import path_option

HELP = "check a recipe and its text, write nothing"


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


def run(args: argparse.Namespace) -> int:
    """Prints all faults: of the recipe, its text, what was prepared, and what training would refuse.

    Args:
        args: the parsed arguments.

    Returns:
        0 where there is no fault, else 2.
    """
    from mnmt_ds.distributed import choose_accelerator

    choose_accelerator()
    from mnmt_ds.data.validate import validate
    from mnmt_ds.engine.recipe import load_recipe_with_faults
    from mnmt_ds.engine.start_faults import start_faults
    from mnmt_ds.engine.unused_settings import settings_without_effect
    from mnmt_ds.log import set_up_deepspeed

    set_up_deepspeed()
    recipe, faults, at_fault = load_recipe_with_faults(args.recipe, args.overrides)
    if recipe is not None:
        of_data = {keys[1:2] for keys in at_fault if keys[0] == "data"}
        if of_data <= {("tokenizer",)}:
            faults += validate(recipe.data, args.processes, checks_tokenizer=not of_data)
        faults += start_faults(recipe, at_fault, needs_corpus=False)
        if not at_fault:
            print("".join(f"warning: {line}\n" for line in settings_without_effect(recipe)), end="")
    faults = list(dict.fromkeys(faults))
    for fault in faults:
        print(fault)
    print(f"{args.recipe}: {len(faults) or 'no'} fault{'s' if len(faults) != 1 else ''}")
    return 2 if faults else 0
