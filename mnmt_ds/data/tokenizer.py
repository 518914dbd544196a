"""Text to ids and back: SentencePiece models, then ``<mask>``, then one tag a language.

Ids: BOS 0, PAD 1, EOS 2, UNK 3, the pieces, ``<mask>``, ``__xx__`` for each language in order.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from mnmt_ds.errors import UserError

SPECIALS = 4
UNK = 3
JOINT = "*"
"""The name under which one model for all languages stands."""


class Tokenizer:
    """One SentencePiece model for all languages, or one a language whose pieces are merged by their text."""

    def __init__(self, languages: Sequence[str], models: dict[str, bytes]) -> None:
        self.languages: tuple[str, ...] = tuple(languages)
        self._bytes = models
        self._models = {name: sentencepiece.SentencePieceProcessor(model_proto=model) for name, model in models.items()}
        first = next(iter(self._models.values()))
        self._pieces: list[str] = [first.id_to_piece(i) for i in range(SPECIALS)]
        self._ids: dict[str, np.ndarray] = {}
        place = {piece: i for i, piece in enumerate(self._pieces)}
        for name, model in self._models.items():
            pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
            for piece in pieces:
                if place.setdefault(piece, len(self._pieces)) == len(self._pieces):
                    self._pieces.append(piece)
            self._ids[name] = np.array([place[piece] for piece in pieces], np.int64)

    @classmethod
    def open(cls, directory: Path | str) -> "Tokenizer":
        """Reads what ``save_to`` wrote; UserError where it is missing or was changed."""
        directory = Path(directory)
        try:
            facts = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
            models = {name: (directory / file).read_bytes() for name, file in facts["models"].items()}
            tokenizer = cls(facts["languages"], models)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UserError(f"{directory}: no readable tokenizer ({reason}); run mnmt-ds prepare again") from None
        if tokenizer.hash != facts["hash"]:
            raise UserError(
                f"{directory}: its files give the hash {tokenizer.hash[:12]}, its tokenizer.json says"
                f" {facts['hash'][:12]}; a file was changed: run mnmt-ds prepare again"
            )
        return tokenizer

    def save_to(self, directory: Path | str) -> None:
        """Writes the models and tokenizer.json into a directory."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        files = {name: "spm.model" if name == JOINT else f"spm.{name}.model" for name in self._bytes}
        for name, file in files.items():
            (directory / file).write_bytes(self._bytes[name])
        facts = {"languages": self.languages, "size": self.size, "models": files, "hash": self.hash}
        temporary = directory / ".tokenizer.json.tmp"
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        shutil.move(temporary, directory / "tokenizer.json")

    def encode(self, text: str, lang: str) -> list[int]:
        """Ids of the pieces alone, without tags and end symbol."""
        return self.encode_many([text], lang)[0]

    def encode_many(self, texts: Sequence[str], lang: str) -> list[list[int]]:
        """``encode`` for each text."""
        name = self._model_of(lang)
        encoded: list[list[int]] = self._models[name].encode(list(texts), num_threads=1)
        if name == JOINT:
            return encoded
        ids = self._ids[name]
        return [ids[pieces].tolist() for pieces in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """Text; special symbols, ``<mask>`` and tags are left out, an unknown piece is written " ⁇ "."""
        kept = [int(i) for i in ids if UNK <= int(i) < len(self._pieces)]
        if JOINT in self._models:
            return str(self._models[JOINT].decode(kept))
        return "".join(" ⁇ " if i == UNK else self._pieces[i] for i in kept).replace("▁", " ").strip()

    def piece(self, id_: int) -> str:
        """The symbol of any id."""
        names = (*self._pieces, "<mask>", *(f"__{language}__" for language in self.languages))
        return names[id_]

    def starts_word(self) -> np.ndarray:
        """Mask over all ids: pieces that begin a word (with ▁)."""
        return np.array([self.piece(i).startswith("▁") for i in range(self.size)])

    def tag(self, lang: str) -> int:
        """Id of a language's tag."""
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
        digest = hashlib.sha256(json.dumps([self.languages, list(self._bytes)]).encode())
        for model in self._bytes.values():
            digest.update(hashlib.sha256(model).digest())
        return digest.hexdigest()

    def _model_of(self, lang: str) -> str:
        self.tag(lang)
        return JOINT if JOINT in self._models else lang
