"""The tokenizer of a pretrained model as it is: M2M-100's and NLLB's files, any SentencePiece model, or our own.

Ids are those of transformers' tokenizers: M2M-100 numbers pieces by ``vocab.json`` and tags behind them; NLLB numbers
pieces as SentencePiece does, one on, and tags behind them. What a text spells like a tag or </s> stays text here.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import sentencepiece

from mnmt_ds.data import family_languages
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.data.sentencepiece_model import from_bpe_merges, has_all_parts
from mnmt_ds.data.tokenizer import EXPORTED, JOINT, MASK, SPECIALS, Tokenizer
from mnmt_ds.errors import UserError
from mnmt_ds.files import refuse_pointer
from mnmt_ds.json_files import read_json

LOG = logging.getLogger(__name__)
Family = Literal["m2m_100", "nllb"]
SENTENCEPIECE, M2M_VOCABULARY, FAST = "sentencepiece.bpe.model", "vocab.json", "tokenizer.json"
ORIGINALS = (
    SENTENCEPIECE, M2M_VOCABULARY, FAST, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "generation_config.json",
)  # fmt: skip
"""Files that an export gives back as they are."""
SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
"""Of ids 0 to 3, in both families."""
MOST_UNUSED = 256
"""A vocabulary that is so much larger than the tokenizer is another tokenizer's, not padded."""
CLASSES: dict[str, Family] = {
    "M2M100Tokenizer": "m2m_100", "NllbTokenizer": "nllb", "NllbTokenizerFast": "nllb",
}  # fmt: skip
"""transformers' name of a tokenizer, and its family."""


class FamilyFiles(NamedTuple):
    """Facts about the tokenizer of a transformers directory: its family, framing and vocabulary size."""

    family: Family
    legacy: bool
    """NLLB's old framing: the source's tag behind </s>."""
    language_codes: str
    """M2M-100's: which list of languages, m2m100 or wmt21."""
    vocabulary_size: int
    """Rows of the model's embeddings, where config.json gives them; else 0."""


def open_given_tokenizer(path: Path, languages: Sequence[str]) -> Tokenizer:
    """Opens a tokenizer that was made elsewhere.

    Args:
        path: a SentencePiece model; a transformers directory of M2M-100 or NLLB; a model directory, a run or a
            ``tokenizer`` directory of ours.
        languages: those that are needed; a SentencePiece model gets a tag for each.

    Returns:
        The tokenizer, which has a tag of every language.

    Raises:
        UserError: where there is no such tokenizer, or it lacks a language.
    """
    if not path.exists():
        raise UserError(f"data.tokenizer.model: '{path}' is neither unigram, bpe nor a path that is there")
    if path.is_file():
        tokenizer = number_sentencepiece(path, languages)
    elif own := next((directory for directory in own_places(path) if _is_own(directory)), None):
        tokenizer = Tokenizer.open(own)
    else:
        tokenizer = open_family_tokenizer(path)
    for language in languages:
        try:
            tokenizer.tag(language)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return tokenizer


def own_places(path: Path) -> list[Path]:
    """Lists where the tokenizer of one of our models or runs may be.

    Args:
        path: a model directory, a run or a tokenizer's own directory.

    Returns:
        Directories, the likeliest first.
    """
    above = [path.absolute().parent, path.absolute().parent.parent] if (path / "model.json").exists() else []
    return [path, path / EXPORTED, *(parent / "tokenizer" for parent in (path, *above))]


def number_sentencepiece(path: Path, languages: Sequence[str]) -> Tokenizer:
    """Numbers a SentencePiece model's pieces: our special symbols, its other pieces in order, ``<mask>``, a tag each.

    Args:
        path: the model's file.
        languages: which get a tag.

    Returns:
        The tokenizer.

    Raises:
        UserError: where the file is no SentencePiece model.
    """
    serialised = _read_sentencepiece(path)
    model = sentencepiece.SentencePieceProcessor(model_proto=serialised)
    ordinary = [
        model.id_to_piece(i)
        for i in range(model.get_piece_size())
        if not (model.is_control(i) or model.is_unknown(i) or model.is_unused(i))
    ]
    tags = [f"__{language}__" for language in languages]
    return Tokenizer(languages, {JOINT: serialised}, [*SPECIAL_SYMBOLS, *ordinary, MASK, *tags])


def open_family_tokenizer(directory: Path) -> Tokenizer:
    """Reads the tokenizer of a transformers directory.

    Args:
        directory: of M2M-100 or NLLB.

    Returns:
        The tokenizer, with the tags of all its languages; its size is the model's vocabulary.

    Raises:
        UserError: where files are missing, damaged or not of these families, or the numbers cannot be the model's.
    """
    files = read_family(directory)
    if files.family == "m2m_100":
        serialised = _read_sentencepiece(directory / SENTENCEPIECE)
        symbols = _m2m_symbols(directory, files.language_codes)
    elif (directory / SENTENCEPIECE).exists():
        serialised = _read_sentencepiece(directory / SENTENCEPIECE)
        symbols = _nllb_symbols(directory, serialised)
    else:
        serialised, symbols = _fast_model(directory / FAST)
    made_up = (files.vocabulary_size or len(symbols) + 8 * (files.family == "m2m_100")) - len(symbols)
    if not 0 <= made_up < MOST_UNUSED:
        raise UserError(
            f"{directory}: its tokenizer has {len(symbols):,} ids, config.json a vocabulary of"
            f" {files.vocabulary_size:,}; give the tokenizer that the model was trained with"
        )
    symbols += [f"<unused{i}>" for i in range(made_up)]
    languages = [language for symbol in symbols if (language := _language_of(symbol, files.family))]
    originals = {name: (directory / name).read_bytes() for name in ORIGINALS if (directory / name).is_file()}
    return Tokenizer(languages, {JOINT: serialised}, symbols, originals)


def family_framing(directory: Path) -> FramingSettings:
    """Looks up where the models of a family put language tags.

    Args:
        directory: a transformers directory of M2M-100 or NLLB.

    Returns:
        M2M-100 and NLLB: tag, pieces, </s>; NLLB's legacy files: pieces, </s>, tag. The decoder's inputs are </s>, the
        target's tag, then the pieces.

    Raises:
        UserError: where it is of neither family.
    """
    legacy = read_family(directory).legacy
    return FramingSettings(
        encoder_langtok_position="after_end" if legacy else "start", decoder_langtok_position="after_end"
    )


def read_family(directory: Path) -> FamilyFiles:
    """Reads what a transformers directory says of its tokenizer.

    Args:
        directory: of M2M-100 or NLLB.

    Returns:
        Its family and how that is parametrised.

    Raises:
        UserError: where the tokenizer is missing or of another kind.
    """
    config = read_object(directory / "config.json") if (directory / "config.json").exists() else {}
    config_path = directory / "tokenizer_config.json"
    tokenizer_config = read_object(config_path) if config_path.exists() else {}
    present = [name for name in (SENTENCEPIECE, M2M_VOCABULARY, FAST) if (directory / name).exists()]
    name = str(tokenizer_config.get("tokenizer_class") or config.get("tokenizer_class") or "")
    if name and name not in CLASSES and name not in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        raise UserError(f"{directory}: its tokenizer is {name}; known are {', '.join(CLASSES)}")
    family: Family = CLASSES.get(name, "m2m_100" if M2M_VOCABULARY in present else "nllb")
    missing = (
        [file for file in (SENTENCEPIECE, M2M_VOCABULARY) if file not in present]
        if family == "m2m_100"
        else ([] if {SENTENCEPIECE, FAST} & {*present} else [f"{SENTENCEPIECE} (or {FAST})"])
    )
    if missing:
        raise UserError(f"{directory}: {', '.join(missing)} is missing; copy the model's tokenizer files there")
    if tokenizer_config.get("sp_model_kwargs"):
        raise UserError(f"{config_path}: sp_model_kwargs are not supported; remove them")
    return FamilyFiles(
        family,
        bool(tokenizer_config.get("legacy_behaviour")),
        str(tokenizer_config.get("language_codes", "m2m100")),
        int(config.get("vocab_size", 0)),
    )


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object of a downloaded directory.

    Args:
        path: the file.

    Returns:
        Its values.

    Raises:
        UserError: where it cannot be read, or is something else.
    """
    refuse_pointer(path)
    try:
        return dict(read_json(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; download the whole directory again") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; download the file again") from None


def _m2m_symbols(directory: Path, language_codes: str) -> list[str]:
    """The symbol of every id: those of vocab.json, then the tags, then words that were added to them."""
    path = directory / M2M_VOCABULARY
    lists = {"m2m100": family_languages.M2M100, "wmt21": family_languages.WMT21}
    if language_codes not in lists:
        raise UserError(f"{directory}: language_codes '{language_codes}' are unknown; known are {', '.join(lists)}")
    symbols = _in_order(path, read_object(path))
    _check_specials(path, symbols)
    symbols += [f"__{language}__" for language in lists[language_codes]]
    declared = _declared_symbols(directory)
    for number, symbol in declared.items():
        if number < len(symbols) and symbols[number] != symbol:
            raise UserError(
                f"{directory}: id {number} is {symbols[number]}, and the added word {symbol}, too: both were trained as"
                " one; add words with the languages as additional_special_tokens, and train again"
            )
    added = [declared.get(number) for number in range(len(symbols), max([*declared, -1]) + 1)]
    if words := [word for word in added if word]:
        LOG.warning(
            "%s: %d added word(s), such as %s, are kept, but never found in text: they are split into pieces",
            directory, len(words), words[0],
        )  # fmt: skip
    return symbols + [word or f"<gap{number}>" for number, word in enumerate(added)]


def _nllb_symbols(directory: Path, serialised: bytes) -> list[str]:
    """The symbol of every id: SentencePiece's pieces one on, then the tags, then ``<mask>``."""
    model = sentencepiece.SentencePieceProcessor(model_proto=serialised)
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    if pieces[:3] != ["<unk>", "<s>", "</s>"]:
        raise UserError(
            f"{directory / SENTENCEPIECE}: its first pieces are {' '.join(pieces[:3])}, NLLB's are <unk> <s> </s>;"
            " give NLLB's own model"
        )
    symbols = [*SPECIAL_SYMBOLS, *pieces[3:]]
    declared = _declared_symbols(directory)
    behind = [declared[i] for i in sorted(declared) if i >= len(symbols)]
    if sorted(i for i in declared if i >= len(symbols)) != list(range(len(symbols), len(symbols) + len(behind))):
        raise UserError(f"{directory}: its added tokens do not follow the {len(symbols):,} pieces; download it again")
    return symbols + (behind or [*family_languages.NLLB200, MASK])


def _declared_symbols(directory: Path) -> dict[int, str]:
    """The added tokens that a directory's files name with their ids."""
    declared = _added_tokens(directory / FAST) if (directory / FAST).exists() else {}
    path = directory / "tokenizer_config.json"
    entries = read_object(path).get("added_tokens_decoder", {}) if path.exists() else {}
    try:
        named = {int(number): str(entry["content"]) for number, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: added_tokens_decoder cannot be read; download the file again") from None
    for number, symbol in named.items():
        if declared.setdefault(number, symbol) != symbol:
            raise UserError(f"{path}: id {number} is {symbol}, in {FAST} {declared[number]}; download both again")
    return declared


def _added_tokens(path: Path) -> dict[int, str]:
    """The added tokens of a tokenizer.json by their ids."""
    try:
        return {int(entry["id"]): str(entry["content"]) for entry in read_object(path).get("added_tokens", ())}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: its added tokens cannot be read; download the file again") from None


def _fast_model(path: Path) -> tuple[bytes, list[str]]:
    """A SentencePiece model of the same splits as a tokenizer.json, and the symbol of every id."""
    values, added = read_object(path), _added_tokens(path)
    try:
        numbers = {str(symbol): int(number) for symbol, number in values["model"]["vocab"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: its model is not NLLB's; add {SENTENCEPIECE}") from None
    numbers |= {symbol: number for number, symbol in added.items()}
    symbols = _in_order(path, numbers)
    _check_specials(path, symbols)
    pieces = symbols[SPECIALS : min((number for number in added if number >= SPECIALS), default=len(symbols))]
    return from_bpe_merges(pieces, values, path), symbols


def _in_order(path: Path, numbers: Mapping[str, Any]) -> list[str]:
    """Symbols in the order of their ids, which are all there."""
    if not all(isinstance(number, int) for number in numbers.values()):
        raise UserError(f"{path}: its ids are not numbers; download the file again")
    symbols = sorted(numbers, key=lambda symbol: numbers[symbol])
    if [numbers[symbol] for symbol in symbols] != list(range(len(symbols))):
        raise UserError(f"{path}: its ids are not 0 to {len(symbols) - 1}, once each; download the file again")
    return symbols


def _check_specials(path: Path, symbols: Sequence[str]) -> None:
    if tuple(symbols[:SPECIALS]) != SPECIAL_SYMBOLS:
        raise UserError(
            f"{path}: ids 0 to 3 are {' '.join(symbols[:SPECIALS])}, of both families {' '.join(SPECIAL_SYMBOLS)};"
            " give a directory of M2M-100 or NLLB"
        )


def _language_of(symbol: str, family: Family) -> str:
    """The language of a tag: fr of ``__fr__``, fra_Latn of ``fra_Latn``; empty for any other symbol."""
    if family == "m2m_100":
        return symbol[2:-2] if len(symbol) > 4 and symbol.startswith("__") and symbol.endswith("__") else ""
    language, _, script = symbol.partition("_")
    is_tag = len(language) == 3 and len(script) == 4 and language.islower() and script.istitle() and symbol.isascii()
    return symbol if is_tag else ""


def _is_own(directory: Path) -> bool:
    """Whether a directory holds a tokenizer that ``Tokenizer.save_to`` wrote."""
    path = directory / "tokenizer.json"
    return path.is_file() and "models" in read_object(path)


def _read_sentencepiece(path: Path) -> bytes:
    refuse_pointer(path)
    try:
        serialised = path.read_bytes()
        sentencepiece.SentencePieceProcessor(model_proto=serialised)
        is_whole = has_all_parts(serialised)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; copy the model's tokenizer files there") from None
    except RuntimeError:
        is_whole = False
    if not is_whole:
        raise UserError(f"{path}: not a SentencePiece model, or cut short; download the file again")
    return serialised
