"""Text to ids and back: SentencePiece models, then ``<mask>``, then one tag a language.

Ids: BOS 0, PAD 1, EOS 2, UNK 3, the pieces, ``<mask>``, ``__xx__`` for each language in order.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from typing_extensions import TypedDict

from mnmt_ds.errors import UserError
from mnmt_ds.files import write_bytes, write_text
from mnmt_ds.json_files import InsidePath, read_json

SPECIALS = 4
"""Ids below this are special symbols."""
UNK = 3
"""Id of an unknown piece."""
JOINT = "*"
"""The name under which one model for all languages stands."""


class TokenizerShape(TypedDict):
    """What every ``tokenizer.json`` holds."""

    languages: list[str]
    models: dict[str, InsidePath]
    hash: str


class Tokenizer:
    """One SentencePiece model for all languages, or one a language whose pieces are merged by their text."""

    def __init__(self, languages: Sequence[str], models: dict[str, bytes]) -> None:
        """Numbers the pieces of the models.

        Args:
            languages: languages in the order of their tags.
            models: serialised SentencePiece models by language, or one under ``JOINT``.
        """
        self.languages: tuple[str, ...] = tuple(languages)
        """Languages in the order of their tags."""
        self._serialised = models
        self._models = {name: sentencepiece.SentencePieceProcessor(model_proto=model) for name, model in models.items()}
        first = next(iter(self._models.values()))
        self._pieces: list[str] = [first.id_to_piece(i) for i in range(SPECIALS)]
        self._ids: dict[str, np.ndarray] = {}
        id_of_piece = {piece: i for i, piece in enumerate(self._pieces)}
        for name, model in self._models.items():
            pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
            for piece in pieces:
                if id_of_piece.setdefault(piece, len(self._pieces)) == len(self._pieces):
                    self._pieces.append(piece)
            self._ids[name] = np.array([id_of_piece[piece] for piece in pieces], np.int64)

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
            record = read_json(directory / "tokenizer.json", TokenizerShape)
            models = {name: (directory / file).read_bytes() for name, file in record["models"].items()}
            tokenizer = cls(record["languages"], models)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UserError(f"{directory}: no readable tokenizer ({reason}); run mnmt-ds prepare again") from None
        if tokenizer.hash != record["hash"]:
            raise UserError(
                f"{directory}: its files give the hash {tokenizer.hash[:12]}, its tokenizer.json says"
                f" {record['hash'][:12]}; a file was changed: run mnmt-ds prepare again"
            )
        return tokenizer

    def save_to(self, directory: Path | str) -> None:
        """Writes the models and tokenizer.json into a directory.

        Args:
            directory: where to write; made where it is missing.
        """
        directory = Path(directory)
        files = {name: "spm.model" if name == JOINT else f"spm.{name}.model" for name in self._serialised}
        for name, file in files.items():
            write_bytes(directory / file, self._serialised[name])
        record = {"languages": self.languages, "size": self.size, "models": files, "hash": self.hash}
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
        if name == JOINT:
            return encoded
        ids = self._ids[name]
        return [ids[pieces].tolist() for pieces in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """Joins pieces to text.

        Args:
            ids: any ids; special symbols, ``<mask>`` and tags are left out.

        Returns:
            The text; an unknown piece is written " ⁇ ".
        """
        piece_ids = [int(i) for i in ids if UNK <= int(i) < len(self._pieces)]
        if JOINT in self._models:
            return str(self._models[JOINT].decode(piece_ids))
        return "".join(" ⁇ " if i == UNK else self._pieces[i] for i in piece_ids).replace("▁", " ").strip()

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
        names = (*self._pieces, "<mask>", *(f"__{language}__" for language in self.languages))
        return names[id_]

    def tag(self, lang: str) -> int:
        """Looks up the tag of a language.

        Args:
            lang: the language.

        Returns:
            Id of its tag.

        Raises:
            UserError: when the tokenizer does not know the language.
        """
        if lang not in self.languages:
            raise UserError(f"language '{lang}': not in the tokenizer, which knows {', '.join(self.languages)}")
        return self.mask + 1 + self.languages.index(lang)

    @property
    def mask(self) -> int:
        """Id of ``<mask>``."""
        return len(self._pieces)

    @property
    def size(self) -> int:
        """Number of ids, special symbols, ``<mask>`` and tags included."""
        return len(self._pieces) + 1 + len(self.languages)

    @property
    def hash(self) -> str:
        """SHA-256 over languages and models."""
        digest = hashlib.sha256(json.dumps([self.languages, list(self._serialised)]).encode())
        for model in self._serialised.values():
            digest.update(hashlib.sha256(model).digest())
        return digest.hexdigest()

    def _model_of(self, lang: str) -> str:
        self.tag(lang)
        return JOINT if JOINT in self._models else lang
