"""Pieces that a given tokenizer lacks, learned from new text: its byte-pair encoding goes on where it ended.

First the characters that it does not know, then, as in training, the two neighbouring pieces that stand together most
often become one, again and again. New pieces score below all old ones: SentencePiece joins old pieces first, so that
text is split as before, and then some neighbours are joined. Numbers of old pieces stay; tags and what stands behind
them move on by as many ids as there are new pieces, as both families number them.
"""

import heapq
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import sentencepiece

from mnmt_ds.data.derived_tokenizer import origin_of
from mnmt_ds.data.tokenizer import JOINT, Derivation, Tokenizer
from mnmt_ds.errors import UserError

BPE = 2
"""SentencePiece's model type."""
NORMAL = 1
"""SentencePiece's type of a piece that text is split into."""
SPACE = "▁"
"""What a piece at the beginning of a word begins with."""
Pair = tuple[str, str]
"""Two neighbouring pieces."""
LEAST = 2
"""How often a new piece stands in the text at least."""


class NewPiece(NamedTuple):
    """A piece that is learned in addition to the tokenizer's own."""

    text: str
    """With ``SPACE`` for a space."""
    parts: tuple[str, ...]
    """The old pieces that it consists of; none: it is a character that was unknown."""


def learn_pieces(tokenizer: Tokenizer, lines: Iterable[str], count: int) -> list[NewPiece]:
    """Learns pieces of text that the tokenizer splits into many.

    Args:
        tokenizer: given, of one byte-pair model.
        lines: training text.
        count: most pieces.

    Returns:
        The pieces in the order in which they are learned; fewer where no other two pieces stand together twice.

    Raises:
        UserError: where its model is of another kind.
    """
    model = _processor(tokenizer)
    vocabulary = {*tokenizer.symbols, *(model.id_to_piece(i) for i in range(model.get_piece_size()))}
    words: Counter[tuple[str, ...]] = Counter()
    for line in lines:
        words.update(_words(model.encode(line, out_type=str), vocabulary))
    characters = Counter[str]()
    for word, times in words.items():
        for piece in word:
            characters.update({piece: times} if piece not in vocabulary and piece != SPACE else {})
    often = sorted((-times, text) for text, times in characters.items() if times >= LEAST and _is_text(text))
    new = [NewPiece(text, ()) for _, text in often[:count]]
    usable = vocabulary | {piece.text for piece in new}
    return new + _merges(words, usable, count - len(new))


def add_pieces(tokenizer: Tokenizer, pieces: Sequence[NewPiece]) -> Tokenizer:
    """Adds pieces to a tokenizer.

    Args:
        tokenizer: given, of one byte-pair model.
        pieces: as from ``learn_pieces``, of this tokenizer or of one that has the same pieces.

    Returns:
        The tokenizer with these pieces behind its own, before all tags; each one's row starts as the mean of its parts'
        rows, or drawn.
    """
    if not pieces:
        return tokenizer
    _processor(tokenizer)
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(tokenizer.serialised[JOINT])
    lowest = min(piece.score for piece in proto.pieces)
    for rank, piece in enumerate(pieces, start=1):
        proto.pieces.add(piece=piece.text, score=lowest - rank, type=NORMAL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    origin, first_id, count = origin_of(tokenizer), tokenizer.piece_count, len(pieces)
    id_of = {symbol: i for i, symbol in reversed(list(enumerate(tokenizer.symbols)))}
    symbols = [*tokenizer.symbols[:first_id], *(piece.text for piece in pieces), *tokenizer.symbols[first_id:]]
    rows = [*origin.rows[:first_id], *[-1] * count, *origin.rows[first_id:]]
    new = {i if i < first_id else i + count: sources for i, sources in origin.new.items()}
    started: dict[str, tuple[int, ...]] = {}
    for number, piece in enumerate(pieces):
        sources = [(origin.rows[id_of[part]],) if part in id_of else started.get(part, ()) for part in piece.parts]
        started[piece.text] = tuple(source for part in sources for source in part if source >= 0)
        new[first_id + number] = started[piece.text]
    derivation = Derivation(origin.base_hash, origin.base_size, tuple(rows), new)
    return Tokenizer(
        tokenizer.languages, {JOINT: proto.SerializeToString()}, symbols, tokenizer.originals, derivation
    )  # fmt: skip


def _processor(tokenizer: Tokenizer) -> sentencepiece.SentencePieceProcessor:
    """The tokenizer's one model; UserError where it is no byte-pair encoding with scores of its own."""
    from sentencepiece import sentencepiece_model_pb2

    if JOINT not in tokenizer.serialised:
        raise UserError("data.tokenizer.new_pieces: the tokenizer has a model a language; take a joint one")
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(tokenizer.serialised[JOINT])
    if proto.trainer_spec.model_type != BPE:
        raise UserError(
            "data.tokenizer.new_pieces: the tokenizer's model is unigram, whose splits all change with new pieces; take"
            " a byte-pair one, such as M2M-100's or NLLB's"
        )
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.serialised[JOINT])


def _words(pieces: Sequence[str], vocabulary: set[str]) -> list[tuple[str, ...]]:
    """A sentence's pieces word by word; unknown text as single characters."""
    words: list[list[str]] = []
    for piece in pieces:
        if piece.startswith(SPACE) or not words:
            words.append([])
        words[-1] += [piece] if piece in vocabulary else list(piece)
    return [tuple(word) for word in words]


def _is_text(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CZ"


def _merges(words: Counter[tuple[str, ...]], usable: set[str], count: int) -> list[NewPiece]:
    """The most frequent neighbours, one after another; of equally frequent ones the first by their text."""
    split, times = [list(word) for word in words], list(words.values())
    totals: Counter[Pair] = Counter()
    word_numbers: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, word in enumerate(split):
        for pair in zip(word, word[1:], strict=False):
            totals[pair] += times[number]
            word_numbers[pair].add(number)
    heap = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(heap)
    parts: dict[str, tuple[str, ...]] = {}
    while heap and len(parts) < count:
        negative, pair = heapq.heappop(heap)
        joined, total = "".join(pair), totals[pair]
        if total < LEAST or joined in usable or joined in parts or not all(p in usable or p in parts for p in pair):
            continue
        if total != -negative:  # it has become less frequent since
            heapq.heappush(heap, (-total, pair))
            continue
        parts[joined] = tuple(part for half in pair for part in parts.get(half, (half,)))
        grown = set[Pair]()
        for number in word_numbers.pop(pair):
            word = split[number]
            for old in zip(word, word[1:], strict=False):
                totals[old] -= times[number]
            split[number] = word = _joined(word, pair)
            for new in zip(word, word[1:], strict=False):
                totals[new] += times[number]
                word_numbers[new].add(number)
                grown.add(new)
        for new in grown:
            heapq.heappush(heap, (-totals[new], new))
    return [NewPiece(text, sources) for text, sources in parts.items()]


def _joined(word: Sequence[str], pair: Pair) -> list[str]:
    """A word in which two neighbours are one wherever they stand together, from the left."""
    result: list[str] = []
    index = 0
    while index < len(word):
        is_pair = tuple(word[index : index + 2]) == pair
        result.append("".join(pair) if is_pair else word[index])
        index += 1 + is_pair
    return result
