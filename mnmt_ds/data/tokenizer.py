"""Text to ids and back: SentencePiece models, then ``<mask>``, then one tag a language.

Ids: BOS 0, PAD 1, EOS 2, UNK 3, the pieces, ``<mask>``, ``__xx__`` for each language in order. A pretrained model's
tokenizer numbers its pieces, tags and mask as it always did; the four special ids are the same there.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple, NotRequired

import numpy as np
import sentencepiece
from pydantic import Field
from typing_extensions import TypedDict

from mnmt_ds.data.language_choice import codes_for
from mnmt_ds.errors import UserError
from mnmt_ds.files import write_bytes, write_text
from mnmt_ds.json_files import InsidePath, read_json

SPECIALS = 4
"""Ids below this are special symbols."""
UNK = 3
"""Id of an unknown piece."""
JOINT = "*"
"""The name under which one model for all languages stands."""
MASK = "<mask>"
"""The symbol that stands for hidden words."""
ORIGINAL = "original."
"""What the name of a pretrained model's file begins with here."""
DERIVATION = "derivation.json"
"""Name of the file that says which rows of a pretrained model the ids are."""
EXPORTED = "sentencepiece"
"""Directory of the tokenizer in an export."""
VOCABULARY = "vocabulary.json"
"""Name of the file that lists the symbols of a given numbering."""


class Derivation(NamedTuple):
    """Maps the ids of a tokenizer to rows of a pretrained model's embedding and projection matrices."""

    base_hash: str
    """Hash of the pretrained model's tokenizer."""
    base_size: int
    """Its ids."""
    rows: tuple[int, ...]
    """For each id its id there; -1: it is new."""
    new: Mapping[int, tuple[int, ...]]
    """For each new id the ids there whose rows' mean its row starts as; none: drawn."""


class DerivationJson(TypedDict):
    """JSON of a ``derivation.json``, which is checked when it is read."""

    base_hash: str
    base_size: int
    rows: list[int]
    new: dict[str, list[int]]


class TokenizerJson(TypedDict):
    """JSON of a ``tokenizer.json``, which is checked when it is read."""

    languages: list[str]
    models: Annotated[dict[str, InsidePath], Field(min_length=1)]
    hash: str
    symbols: NotRequired[InsidePath]
    """File of the symbols of a given numbering."""
    originals: NotRequired[list[InsidePath]]
    """Files of a pretrained model."""
    derived: NotRequired[bool]
    """Whether there is a ``DERIVATION``."""


class Tokenizer:
    """Tokenizer of one SentencePiece model for all languages, or of one a language, pieces merged by their text."""

    def __init__(
        self, languages: Sequence[str], models: dict[str, bytes], symbols: Sequence[str] | None = None,
        originals: Mapping[str, bytes] | None = None, derivation: Derivation | None = None,
    ) -> None:  # fmt: skip
        """Numbers the pieces of the models.

        Args:
            languages: languages in the order of their tags.
            models: serialised SentencePiece models by language, or one under ``JOINT``.
            symbols: of one model under ``JOINT``: the symbol of every id, where the numbering is given; pieces come
                before all tags. A language's tag is ``__xx__`` there, or the language's code itself.
            originals: files of a pretrained model's directory that are kept beside, for an export, by name.
            derivation: whence the ids of a derived tokenizer come.
        """
        self.languages: tuple[str, ...] = tuple(languages)
        """Languages in the order of their tags."""
        self.serialised = models
        """Serialised SentencePiece models by language, or one under ``JOINT``."""
        self.derivation = derivation
        """Whence the ids come, where the tokenizer was derived from a pretrained model's."""
        self.originals = dict(originals or {})
        """Files of the pretrained model that this tokenizer comes from, by name."""
        self._models = {name: sentencepiece.SentencePieceProcessor(model_proto=model) for name, model in models.items()}
        pieces = {
            name: [model.id_to_piece(i) for i in range(model.get_piece_size())] for name, model in self._models.items()
        }
        names = tuple(dict.fromkeys(piece for model_pieces in pieces.values() for piece in model_pieces))
        tags = [f"__{language}__" for language in self.languages]
        self._names: dict[str, str] = {}
        """The tokenizer's own code of each language, by what it is called."""
        self._given = None if symbols is None else tuple(symbols)
        self.symbols: tuple[str, ...] = self._given or (*names, MASK, *tags)
        """The symbol of every id."""
        id_of_symbol = {symbol: i for i, symbol in reversed(list(enumerate(self.symbols)))}
        self.mask: int = len(names)
        """Id of ``<mask>``; where a given numbering has none, of its last symbol."""
        self._tags = {language: self.mask + 1 + i for i, language in enumerate(self.languages)}
        if symbols is not None:
            self.mask = id_of_symbol.get(MASK, len(symbols) - 1)
            self._tags = {
                language: id_of_symbol[tag if tag in id_of_symbol else language]
                for language, tag in zip(self.languages, tags, strict=True)
            }
        self.piece_count: int = min([self.mask, *self._tags.values()])
        """Special symbols and pieces together: from this id on there are tags, ``<mask>`` and unused ids."""
        piece_ids = {symbol: i for symbol, i in id_of_symbol.items() if SPECIALS <= i < self.piece_count}
        specials = {} if symbols is not None else {piece: i for i, piece in enumerate(self.symbols[:SPECIALS])}
        self._ids = {
            name: np.array([piece_ids.get(piece, specials.get(piece, UNK)) for piece in model_pieces], np.int64)
            for name, model_pieces in pieces.items()
        }
        self.is_numbered_by_model = all(np.array_equal(ids, np.arange(len(ids))) for ids in self._ids.values())
        """Ids of pieces are the numbers that SentencePiece gives them."""
        modelled = {*names}
        self._unmodelled = {symbol: i for symbol, i in piece_ids.items() if symbol not in modelled} if symbols else {}
        """Pieces that SentencePiece does not know: it gives their text as unknown."""
        self._model_ids = np.zeros(0, np.int64)
        """SentencePiece's number of each id, where one model is numbered otherwise."""
        if JOINT in models:
            self._model_ids = np.full(self.piece_count, self._models[JOINT].unk_id(), np.int64)
            self._model_ids[self._ids[JOINT][::-1]] = np.arange(len(self._ids[JOINT]))[::-1]
            self._model_ids[UNK] = self._models[JOINT].unk_id()

    @classmethod
    def open(cls, directory: Path | str) -> "Tokenizer":
        """Reads what ``save_to`` wrote.

        Args:
            directory: where the tokenizer's files are.

        Returns:
            The tokenizer.

        Raises:
            UserError: when a file is missing or was changed.
        """
        directory = Path(directory)
        try:
            record = read_json(directory / "tokenizer.json", TokenizerJson)
            models = {name: (directory / file).read_bytes() for name, file in record["models"].items()}
            symbols_file = record.get("symbols")
            symbols = read_json(directory / symbols_file, list[str]) if symbols_file else None
            languages, written = tuple(record["languages"]), str(record["hash"])
            actual = _hash_of(languages, models, symbols)
            if actual != written:  # SentencePiece is given nothing
                raise UserError(
                    f"{directory}: its files give the hash {actual[:12]}, its tokenizer.json says {written[:12]};"
                    " a file was changed: run mnmt-ds prepare again"
                )
            originals = {name: (directory / f"{ORIGINAL}{name}").read_bytes() for name in record.get("originals", ())}
            derivation = _read_derivation(directory / DERIVATION) if record.get("derived") else None
            return cls(languages, models, symbols, originals, derivation)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UserError(f"{directory}: no readable tokenizer ({reason}); run mnmt-ds prepare again") from None

    def save_to(self, directory: Path | str) -> None:
        """Writes the models and tokenizer.json into a directory.

        Args:
            directory: where to write; made where it is missing.
        """
        directory = Path(directory)
        files = {name: "spm.model" if name == JOINT else f"spm.{name}.model" for name in self.serialised}
        for name, file in files.items():
            write_bytes(directory / file, self.serialised[name])
        record = {"languages": self.languages, "size": self.size, "models": files, "hash": self.hash}
        for name, content in self.originals.items():
            write_bytes(directory / f"{ORIGINAL}{name}", content)
        if self._given is not None:
            record |= {"symbols": VOCABULARY, "originals": list(self.originals)}
            write_text(directory / VOCABULARY, json.dumps(self._given, ensure_ascii=False, indent=0) + "\n")
        if self.derivation is not None:
            record["derived"] = True
            write_text(directory / DERIVATION, json.dumps(self.derivation._asdict()) + "\n")
        write_text(directory / "tokenizer.json", json.dumps(record, indent=1) + "\n")

    def encode(self, text: str, lang: str) -> list[int]:
        """Tokenises a sentence.

        Args:
            text: the sentence.
            lang: its language.

        Returns:
            Ids of the pieces alone, without tags and end symbol.

        Raises:
            UserError: when the tokenizer does not know the language.
        """
        return self.encode_many([text], lang)[0]

    def encode_many(self, texts: Sequence[str], lang: str) -> list[list[int]]:
        """Tokenises sentences of one language.

        Args:
            texts: the sentences.
            lang: their language.

        Returns:
            Ids of each sentence's pieces.

        Raises:
            UserError: when the tokenizer does not know the language.
        """
        name = self._model_of(lang)
        encoded: list[list[int]] = self._models[name].encode(list(texts), num_threads=1)
        if self.is_numbered_by_model:
            return encoded
        ids, unknown = self._ids[name], self._models[name].unk_id()
        result = [ids[pieces].tolist() for pieces in encoded]
        for i, pieces in enumerate(encoded if self._unmodelled else ()):
            if unknown in pieces:
                names = self._models[name].encode(texts[i], out_type=str)
                result[i] = [self._unmodelled.get(piece, id_) for piece, id_ in zip(names, result[i], strict=True)]
        return result

    def decode(self, ids: Iterable[int]) -> str:
        """Joins pieces to text.

        Args:
            ids: any ids; special symbols, ``<mask>`` and tags are left out.

        Returns:
            The text; an unknown piece is written " ⁇ ".
        """
        piece_ids = [int(i) for i in ids if UNK <= int(i) < self.piece_count]
        if JOINT in self._models and not self._unmodelled:
            return str(self._models[JOINT].decode(self._model_ids[piece_ids].tolist()))
        return "".join(" ⁇ " if i == UNK else self.symbols[i] for i in piece_ids).replace("▁", " ").strip()

    def ids_of_tag(self, tag: str, lang: str) -> list[int]:
        """Tokenises a word that stands before sentences in training to mark them, such as <bt>.

        Args:
            tag: the word; empty: none.
            lang: language of the sentences.

        Returns:
            The id of the piece that it is, where the tokenizer was trained with it; else ids of the pieces that it is
            split into.
        """
        if not tag:
            return []
        model = self._models[self._model_of(lang)]
        piece = model.piece_to_id(tag)
        return self.encode(tag, lang) if piece == model.unk_id() else [int(self._ids[self._model_of(lang)][piece])]

    def round_trip(self, texts: Sequence[str], lang: str, without_unknown: bool = False) -> list[str]:
        """Encodes sentences and decodes them again: the best that a model of these pieces could write.

        Args:
            texts: the sentences.
            lang: their language.
            without_unknown: unknown pieces are left out, not written " ⁇ ".

        Returns:
            What comes back.
        """
        return [
            self.decode(i for i in ids if not (without_unknown and i == UNK)) for ids in self.encode_many(texts, lang)
        ]

    def piece(self, id_: int) -> str:
        """Looks up the symbol of an id.

        Args:
            id_: any id.

        Returns:
            A piece, a special symbol, ``<mask>`` or a tag such as ``__fr__``.
        """
        return self.symbols[id_]

    def tag(self, lang: str) -> int:
        """Looks up the tag of a language.

        Args:
            lang: the language.

        Returns:
            Id of its tag.

        Raises:
            UserError: when the tokenizer does not know the language, or knows several by that code.
        """
        return self._tags[self._name_of(lang)]

    @property
    def size(self) -> int:
        """Number of ids, special symbols, ``<mask>`` and tags included."""
        return len(self.symbols)

    @property
    def hash(self) -> str:
        """SHA-256 over languages, models and, where it is given, the numbering."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        return _hash_of(self.languages, self.serialised, self._given)

    def _model_of(self, lang: str) -> str:
        name = self._name_of(lang)
        return JOINT if JOINT in self._models else name

    def _name_of(self, lang: str) -> str:
        """The tokenizer's own code of a language."""
        if lang not in self._names:
            names = codes_for(lang, self.languages, "tokenizer")
            if len(names) > 1:
                raise UserError(f"language '{lang}': the tokenizer has {' and '.join(names)}; name one of them")
            if not names:
                languages = ", ".join(self.languages)
                raise UserError(f"language '{lang}': not in the tokenizer, which knows {languages or 'no language'}")
            (self._names[lang],) = names
        return self._names[lang]


def _read_derivation(path: Path) -> Derivation:
    values = read_json(path, DerivationJson)
    new = {int(new_id): tuple(rows) for new_id, rows in values["new"].items()}
    return Derivation(values["base_hash"], values["base_size"], tuple(values["rows"]), new)


def _hash_of(languages: Sequence[str], models: Mapping[str, bytes], symbols: Sequence[str] | None) -> str:
    digest = hashlib.sha256(json.dumps([languages, list(models)]).encode())
    for model in models.values():
        digest.update(hashlib.sha256(model).digest())
    if symbols is not None:
        digest.update(json.dumps(symbols).encode())
    return digest.hexdigest()
