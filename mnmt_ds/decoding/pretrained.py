"""A pretrained model as a whole: weights, tokenizer and framing of a transformers directory, or a model of ours."""

from pathlib import Path
from typing import NamedTuple

from mnmt_ds.data.derived_tokenizer import add_languages, new_piece_ids
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.data.pretrained_tokenizer import family_framing, open_family_tokenizer
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.decoding.loading import MODEL_NAMES, find_tokenizer, model_directory
from mnmt_ds.errors import UserError
from mnmt_ds.models.pretrained import (
    CARRIED,
    SHAPE,
    WeightSource,
    open_weights,
    read_config,
    settings_of,
    with_restored_words,
    with_vocabulary,
)
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.weights import describe_model


class PretrainedFacts(NamedTuple):
    """Facts about the model of a directory, read without its weights."""

    directory: Path
    """Directory of the weights; for a run that of its best model."""
    settings: ModelSettings
    vocabulary_size: int
    framing: FramingSettings
    pairs: tuple[str, ...]
    """Pairs that it was trained on; empty where the directory does not say."""


def describe_pretrained(path: Path) -> PretrainedFacts:
    """Reads what a directory says of its model.

    Args:
        path: a transformers directory of M2M-100 or dense NLLB-200, a model directory, or a run.

    Returns:
        Shape and framing.

    Raises:
        UserError: where there is no model, or one that cannot be used.
    """
    if path.is_file():
        raise UserError(
            f"{path}: a single file, such as fairseq's pickled checkpoints, is never read; convert it to a transformers"
            " directory (transformers has convert_m2m100_original_checkpoint_to_pytorch.py), and give that"
        )
    if not path.is_dir():
        raise UserError(f"{path}: no directory; give a transformers directory, a model directory or a run")
    if is_own(path):
        directory = model_directory(path)
        description = describe_model(directory)
        try:
            return PretrainedFacts(
                directory,
                ModelSettings(**description["model"]),
                int(description["vocabulary_size"]),
                FramingSettings(**description["framing"]),
                tuple(description["pairs"]),
            )
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{directory / 'model.json'}: describes no model; take another checkpoint") from None
    if not (path / "config.json").exists():
        raise UserError(f"{path}: neither config.json nor model.json there; give a model's directory, or a run")
    config = read_config(path / "config.json")
    settings, _ = settings_of(config, path / "config.json")
    return PretrainedFacts(path, settings, int(config["vocab_size"]), family_framing(path), ())


def open_pretrained(path: Path) -> tuple[WeightSource, Tokenizer]:
    """Opens a pretrained model's weights and tokenizer, and checks that they belong together.

    Args:
        path: as for ``describe_pretrained``.

    Returns:
        The weights, not read yet, and the tokenizer.

    Raises:
        UserError: where either is missing, damaged or not the other's.
    """
    facts = describe_pretrained(path)
    source = open_weights(facts.directory)
    if is_own(path):
        return source, find_tokenizer(facts.directory, describe_model(facts.directory)["tokenizer_hash"])
    return source, open_family_tokenizer(facts.directory)


def is_own(path: Path) -> bool:
    """Returns whether a directory is one of ours, not one of transformers'.

    Args:
        path: a directory.

    Returns:
        Whether it is a model directory or a run of ours.
    """
    candidates = [path / name / "model.json" for name in ("", *MODEL_NAMES)]
    return any(candidate.exists() for candidate in [*candidates, *path.glob("students/*/best/model.json")])


def with_pretrained(model: ModelSettings, framing: FramingSettings | None) -> tuple[ModelSettings, FramingSettings]:
    """Completes a recipe's settings by those of the model that ``init`` names.

    Args:
        model: the recipe's ``model`` section; ``init`` is set.
        framing: its ``framing`` section; None: it has none.

    Returns:
        The model with the pretrained model's shape and, where the recipe does not give them, its positions; and the
        pretrained model's framing.

    Raises:
        UserError: where the recipe asks for another shape or framing.
    """
    facts = describe_pretrained(Path(model.init))
    explicit_settings = {
        name: getattr(model, name) for name in CARRIED if name in model.model_fields_set and getattr(model, name)
    }
    taken = {name: getattr(facts.settings, name) for name in CARRIED}
    for name, value in explicit_settings.items():
        if name in SHAPE and value != taken[name]:
            raise UserError(f"model.{name}: is {value}, that of model.init={model.init} is {taken[name]}; leave it out")
    for side in ("encoder", "decoder"):
        first, count = getattr(model.freeze, f"{side}_layers"), taken[f"{side}_layers"]
        if first > count:
            raise UserError(f"model.freeze.{side}_layers: is {first}, model.init={model.init} has {count}; take fewer")
    if framing is not None and framing != facts.framing:
        pretrained_values, recipe_values = (settings.model_dump() for settings in (facts.framing, framing))
        odd = [
            f"{name}: is {recipe_values[name]}, there {pretrained_values[name]}"
            for name in pretrained_values
            if recipe_values[name] != pretrained_values[name]
        ]
        raise UserError(f"framing.{'; '.join(odd)}: not that of model.init={model.init}; leave the section out")
    if "max_positions" in explicit_settings:
        taken["max_positions"] = explicit_settings["max_positions"]
    return model.model_copy(update=taken), facts.framing


def open_first_weights(init: str, tokenizer: Tokenizer, corpus: Path) -> tuple[WeightSource, str]:
    """Opens the model that a run starts from, and checks it against the run's tokenizer.

    Args:
        init: the model's directory or run.
        tokenizer: the run's: the model's own, or one derived from it, whose words the weights then have.
        corpus: the prepared corpus's directory, for errors.

    Returns:
        The weights, not read yet, and a line that says what is taken from the model and what is not.

    Raises:
        UserError: where the model cannot be used, or the tokenizer is another one.
    """
    path = Path(init)
    facts = describe_pretrained(path)
    source, description = open_weights(facts.directory), describe_model(facts.directory) if is_own(path) else {}
    expected_hash = description.get("tokenizer_hash") or open_family_tokenizer(path).hash
    update = f" of update {description['update']}" if "update" in description else ""
    words, derivation = "", tokenizer.derivation
    if derivation is not None and derivation.base_hash == expected_hash != tokenizer.hash:
        source = with_vocabulary(source, derivation.rows, derivation.new)
        kept_count = len(derivation.rows) - len(derivation.new)
        words = f" ({kept_count:,} of its {derivation.base_size:,} words, {len(derivation.new)} new ones)"
    elif expected_hash != tokenizer.hash:
        raise UserError(
            f"{corpus}: its tokenizer ({tokenizer.hash[:12]}) is not that of model.init={init} ({expected_hash[:12]});"
            f" set data.tokenizer.model={init} and run mnmt-ds prepare again"
        )
    taken = f"model.init: {facts.directory}: weights{update}{words}, shape and framing are taken"
    left = "optimizer, learning rate, order of the data and best dev losses start anew (--resume goes on with them)"
    return source, "; ".join([taken, left, *source.notes])


def open_for_export(directory: Path, tokenizer: Tokenizer, restore: Path | None) -> tuple[WeightSource, Tokenizer]:
    """Opens a model whose vocabulary is that of the pretrained model that it started from, new tags aside.

    Args:
        directory: a model directory.
        tokenizer: the model's.
        restore: the pretrained model, where the model's vocabulary was trimmed; None: it was not.

    Returns:
        The weights and the tokenizer with the whole vocabulary.

    Raises:
        UserError: where the vocabulary was trimmed and ``restore`` is not the model that it was trimmed from.
    """
    source, derivation = open_weights(directory), tokenizer.derivation
    rows = derivation.rows if derivation is not None else ()
    base_size = derivation.base_size if derivation is not None else 0
    pieces = new_piece_ids(tokenizer)
    others = [row for new_id, row in enumerate(rows) if new_id not in pieces]
    is_whole = len(others) >= base_size and all(row in (i, -1) for i, row in enumerate(others))
    if pieces and (restore is not None or not is_whole):
        raise UserError(
            f"{directory}: its vocabulary has new pieces, which the model that it started from lacks; "
            + ("leave out --restore" if is_whole else "it was trimmed, too: export it with --format ctranslate2")
        )
    if restore is None:
        if not is_whole and tokenizer.originals:
            raise UserError(f"{directory}: its vocabulary was trimmed; add --restore and the model it started from")
        return source, tokenizer
    if derivation is None or is_whole:
        raise UserError(f"{directory}: its vocabulary is whole; leave out --restore")
    base, base_tokenizer = open_pretrained(restore)
    if base_tokenizer.hash != derivation.base_hash:
        raise UserError(f"{restore}: not the model that {directory} started from (its tokenizer is another one)")
    base_languages = set(base_tokenizer.languages)
    starts = {language: "random" for language in tokenizer.languages if language not in base_languages}
    whole = add_languages(base_tokenizer, starts)
    id_of = {symbol: i for i, symbol in reversed(list(enumerate(whole.symbols)))}
    restored_ids = [id_of[symbol] for symbol in tokenizer.symbols]
    return with_restored_words(source, base, restored_ids, whole.size), whole
