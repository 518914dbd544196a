"""Tokenizers made of a pretrained model's: with tags for languages that it lacks, or without pieces that no text needs.

Old pieces keep their splits. What a new id's row of weights starts from is part of the tokenizer (``Derivation``).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mnmt_ds.data.tokenizer import JOINT, SPECIALS, Derivation, Tokenizer
from mnmt_ds.errors import UserError

UNUSED_SYMBOL = "<unused"
"""What the names of ids without meaning begin with."""
UNUSED_TYPE = 5
"""SentencePiece's type of a piece that is split again into smaller ones."""


def add_languages(tokenizer: Tokenizer, starts: Mapping[str, str]) -> Tokenizer:
    """Adds language tags: unused ids take them first, then new ids behind all others.

    Args:
        tokenizer: of a pretrained model.
        starts: by language what its tag's row starts as: that of another language's tag, ``mean`` of all tags' rows, or
            ``random``.

    Returns:
        The tokenizer with these tags; the same one where there are none.

    Raises:
        UserError: where a language has a tag already, or its relative has none.
    """
    if not starts:
        return tokenizer
    if JOINT not in tokenizer.serialised:
        raise UserError("data.tokenizer.new_languages: the tokenizer has a model a language; take a joint one")
    symbols, origin = list(tokenizer.symbols), origin_of(tokenizer)
    rows, new = list(origin.rows), dict(origin.new)
    tags = [tokenizer.tag(language) for language in tokenizer.languages]
    underscored = not tags or symbols[tags[0]].startswith("__")
    unused = iter([i for i in range(tokenizer.piece_count, len(symbols)) if symbols[i].startswith(UNUSED_SYMBOL)])
    for language, start in starts.items():
        if language in tokenizer.languages:
            raise UserError(f"data.tokenizer.new_languages.{language}: the tokenizer has that language; leave it out")
        relatives = {"mean": tags, "random": []}
        try:
            chosen = relatives[start] if start in relatives else [tokenizer.tag(start)]
        except UserError as error:
            raise UserError(f"data.tokenizer.new_languages.{language}: {error}, or write mean or random") from None
        tag = f"__{language}__" if underscored else language
        if tag in symbols:
            raise UserError(
                f"data.tokenizer.new_languages.{language}: '{tag}' is a piece already; name it otherwise, such as"
                " xxx_Latn"
            )
        token_id = next(unused, len(symbols))
        if token_id == len(symbols):
            symbols.append("")
            rows.append(-1)
        symbols[token_id] = tag
        rows[token_id] = -1
        new[token_id] = tuple(origin.rows[i] for i in chosen)
    languages = (*tokenizer.languages, *starts)
    derivation = Derivation(origin.base_hash, origin.base_size, tuple(rows), new)
    return Tokenizer(languages, tokenizer.serialised, symbols, tokenizer.originals, derivation)


def trim(tokenizer: Tokenizer, used: NDArray[np.bool_]) -> Tokenizer:
    """Removes the pieces that no text needs; what they would spell is split into smaller pieces.

    Special symbols, tags, ``<mask>`` and pieces of one character stay.

    Args:
        tokenizer: of a pretrained model.
        used: by id, whether some text has it, (V,).

    Returns:
        The smaller tokenizer, which splits those texts as before.
    """
    symbols, origin = tokenizer.symbols, origin_of(tokenizer)
    kept_ids = [
        i
        for i, symbol in enumerate(symbols)
        if i < SPECIALS
        or (used[i] or len(symbol) == 1 if i < tokenizer.piece_count else not symbol.startswith(UNUSED_SYMBOL))
    ]
    derivation = Derivation(
        origin.base_hash,
        origin.base_size,
        tuple(origin.rows[i] for i in kept_ids),
        {new_id: origin.new[i] for new_id, i in enumerate(kept_ids) if i in origin.new},
    )
    names = [symbols[i] for i in kept_ids]
    model = _without(tokenizer.serialised[JOINT], set(names))
    return Tokenizer(tokenizer.languages, {JOINT: model}, names, tokenizer.originals, derivation)


def origin_of(tokenizer: Tokenizer) -> Derivation:
    """Computes which row of a pretrained model's matrices each id of a tokenizer comes from.

    Args:
        tokenizer: any.

    Returns:
        Its derivation; of a tokenizer that was not derived, that from itself.
    """
    if tokenizer.derivation is not None:
        return tokenizer.derivation
    return Derivation(tokenizer.hash, tokenizer.size, tuple(range(tokenizer.size)), {})


def new_piece_ids(tokenizer: Tokenizer) -> list[int]:
    """Lists the pieces that the pretrained model's tokenizer lacks.

    Args:
        tokenizer: any.

    Returns:
        Their ids in order; none of a tokenizer that was not derived.
    """
    new = tokenizer.derivation.new if tokenizer.derivation is not None else ()
    return sorted(i for i in new if i < tokenizer.piece_count)


def used_ids(tokenizer: Tokenizer, lines: Sequence[str], language: str) -> NDArray[np.bool_]:
    """Finds the ids that text has.

    Args:
        tokenizer: that splits it.
        lines: the text.
        language: its language.

    Returns:
        By id, whether the text has it, (V,).
    """
    used = np.zeros(tokenizer.size, bool)
    for ids in tokenizer.encode_many(lines, language):
        used[ids] = True
    return used


def _without(serialised: bytes, kept_symbols: set[str]) -> bytes:
    """The model with every other piece marked unused, so that its text is split again."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(serialised)
    for piece in proto.pieces:
        if piece.type == 1 and piece.piece not in kept_symbols:
            piece.type = UNUSED_TYPE
    return bytes(proto.SerializeToString())
