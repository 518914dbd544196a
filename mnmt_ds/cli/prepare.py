"""Raw text to a cleaned, split, tokenised and binarised corpus, as the recipe's ``data:`` section says."""

import argparse
import logging

from mnmt_ds.config.paths import path_option

LOG = logging.getLogger(__name__)
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
    parser.add_argument(
        "--preview", type=path_option, metavar="FILE.html",
        help="write a page of what each rule would drop and repair, with examples, and prepare nothing",
    )  # fmt: skip
    parser.add_argument(
        "--examples", type=number_option(int, ge=1, le=1000), default=8, help="with --preview: rows a rule (default: 8)"
    )
    parser.add_argument("--fresh", action="store_true", help="redo everything, also what did not change")


def run(args: argparse.Namespace) -> int:
    """Prepares the recipe's corpus, or shows what would become of its text.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.
    """
    from mnmt_ds.data.prepare import prepare
    from mnmt_ds.engine.recipe import load_recipe
    from mnmt_ds.engine.unused_settings import settings_without_effect

    recipe = load_recipe(args.recipe, args.overrides)
    settings = recipe.data
    for line in settings_without_effect(recipe):
        if line.startswith("data."):
            LOG.warning("prepare: %s", line)
    if args.preview:
        from mnmt_ds.data.language_check import language_lines
        from mnmt_ds.data.preview import languages_by_text, preview
        from mnmt_ds.files import check_writable, write_text
        from mnmt_ds.reporting.preview_page import preview_page, preview_tables

        check_writable(args.preview)
        previews = preview(settings, args.processes, args.examples)
        write_text(args.preview, preview_page(settings.directory, previews))
        head, *rows = [preview_tables(previews)[0].head, *preview_tables(previews)[0].rows]
        widths = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
        for cells in (head, *rows):
            print("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))
        print(
            "\n".join(
                [
                    *language_lines(languages_by_text(previews), settings.clean.language_identifier),
                    f"written: {args.preview}",
                ]
            )
        )
        return 0
    prepare(settings, args.processes, args.fresh)
    return 0
