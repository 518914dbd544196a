"""Average the weights of several checkpoints into one model."""

import argparse

from mnmt_ds.config.paths import path_option

OF_A_RUN = ("best", "best_*", "last", "last_model")
"""Models of a run that are averaged; not its averages, which hold them already."""
HELP = "average the weights of several checkpoints into one model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    parser.add_argument("out", type=path_option, help="model directory to write")
    parser.add_argument(
        "models", type=path_option, nargs="+", metavar="MODEL",
        help="model directories; of a run all its best, best_<pair> and last models",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Writes the averaged model with its tokenizer.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.

    Raises:
        UserError: when the directory is not empty, or the models do not fit together.
    """
    from mnmt_ds.decoding.loading import find_tokenizer
    from mnmt_ds.errors import UserError, file_fault
    from mnmt_ds.files import new_directory, refuse_filled
    from mnmt_ds.models.averaging import average_models, distinct_models
    from mnmt_ds.models.weights import describe_model, write_model

    refuse_filled(args.out)
    directories = []
    for path in args.models:
        if (path / "model.json").exists():
            directories.append(path)
        elif inside := [file.parent for name in OF_A_RUN for file in sorted(path.glob(f"{name}/model.json"))]:
            directories += inside
        else:
            raise UserError(f"{path}: holds no model; give a run, or its best, best_<pair> or last directory")
    models = distinct_models(directories)
    if len(models) == 1 < len(directories):
        update = describe_model(models[0]).get("update", "unknown")
        raise UserError(
            f"{', '.join(map(str, args.models))}: all {len(directories)} models are one snapshot, of update {update}"
            f" ({models[0].resolve()}); name models of other updates or runs"
        )
    weights, description = average_models(models)
    tokenizer = find_tokenizer(models[0], description["tokenizer_hash"])
    try:
        with new_directory(args.out) as temporary:
            write_model(temporary, weights, description)
            tokenizer.save_to(temporary / "tokenizer")
    except OSError as error:
        raise file_fault(error, args.out) or error from None
    repeated = len(directories) - len(models)
    print(f"{args.out}: the mean of {len(models)} models: {', '.join(map(str, models))}"
          + (f" ({repeated} more have the weights of one of these)" if repeated else ""))  # fmt: skip
    return 0
