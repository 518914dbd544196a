"""Make a model directory of a pretrained model: M2M-100 or NLLB-200 as transformers keeps them, or a run's best."""

import argparse

from mnmt_ds.config.paths import path_option

HELP = "make a model directory of M2M-100, NLLB-200 or a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments.

    Args:
        parser: the command's parser.
    """
    parser.add_argument(
        "model", type=path_option, help="transformers directory (config.json, safetensors), model or run"
    )
    parser.add_argument("out", type=path_option, help="model directory to write")


def run(args: argparse.Namespace) -> int:
    """Writes the model directory, tensor by tensor, and prints what it holds.

    Args:
        args: the parsed arguments.

    Returns:
        The exit code.

    Raises:
        UserError: when the directory is not empty, or the model cannot be used.
    """
    from mnmt_ds.decoding.pretrained import describe_pretrained, open_pretrained
    from mnmt_ds.errors import file_fault
    from mnmt_ds.files import new_directory, refuse_filled
    from mnmt_ds.models.pretrained import write_own

    refuse_filled(args.out)
    facts = describe_pretrained(args.model)
    source, tokenizer = open_pretrained(args.model)
    description = {
        "model": source.settings.model_dump(mode="json"),
        "vocabulary_size": source.vocabulary_size,
        "framing": facts.framing.model_dump(mode="json"),
        "pairs": list(facts.pairs),
        "tokenizer_hash": tokenizer.hash,
    }
    try:
        with new_directory(args.out) as temporary:
            write_own(source, temporary, description)
            tokenizer.save_to(temporary / "tokenizer")
    except OSError as error:
        raise file_fault(error, args.out) or error from None
    weights = sum(shape.numel() for shape in source.shapes().values())
    for note in source.notes:
        print(note)
    print(
        f"{args.out}: {weights / 1e6:.1f}M parameters, {tokenizer.size:,} ids, {len(tokenizer.languages)} languages;"
        f" train from it with model.init={args.out}"
    )
    return 0
