"""A prepared corpus, opened for training and evaluation."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from typing_extensions import TypedDict

from mnmt_ds.data.indexed import IndexedDataset
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.tokenizer import Tokenizer
from mnmt_ds.errors import UserError
from mnmt_ds.file_integrity import first_altered, read_checked_json
from mnmt_ds.json_files import InsidePath, check_shape, reason

MANIFEST = "manifest.json"
"""Name of the manifest in a corpus's directory."""
FORMAT = 1
"""Version of the directory's layout."""
SEQUENCES_AT_ONCE = 1 << 17
"""Of sources and targets, when all of a split are looked at; even."""
Verify = Callable[..., None]
"""Called with names of files of a corpus that are about to be read; raises a UserError where one was altered."""


class Split:
    """Sentence pairs of one language pair's train, dev or test set."""

    def __init__(self, directory: Path, pair: str, name: str, verify: Verify) -> None:
        """Opens a pair's split.

        Args:
            directory: the corpus's directory.
            pair: the pair's name.
            name: train, dev or test.
            verify: called before files are read.
        """
        self._directory, self._verify = directory, verify
        self._texts = [f"text/{pair}.{name}.{side}" for side in ("src", "tgt")]
        verify(f"bin/{pair}.{name}.idx", f"bin/{pair}.{name}.bin")
        self._data = IndexedDataset(directory / "bin" / f"{pair}.{name}")

    def __len__(self) -> int:
        return len(self._data) // 2

    @property
    def source_lengths(self) -> np.ndarray:
        """Pieces of each source, without special symbols; int32."""
        return self._data.lengths[0::2]

    @property
    def target_lengths(self) -> np.ndarray:
        """Pieces of each target, without special symbols; int32."""
        return self._data.lengths[1::2]

    def pieces(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads a sentence pair.

        Args:
            i: its number in the split.

        Returns:
            Ids of source and target (int64), without special symbols.
        """
        return self._data[2 * i], self._data[2 * i + 1]

    def target_pieces_used(self, size: int) -> NDArray[np.bool_]:
        """Finds out which pieces the targets are made of.

        Args:
            size: of the vocabulary.

        Returns:
            Whether each id stands in a target; (size,).
        """
        used = np.zeros(size, np.bool_)
        start = 0
        for first in range(0, len(self._data), SEQUENCES_AT_ONCE):
            lengths = self._data.lengths[first : first + SEQUENCES_AT_ONCE]
            end = start + int(lengths.sum(dtype=np.int64))
            is_target = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
            used[self._data.ids[start:end][is_target]] = True
            start = end
        return used

    def text(self) -> tuple[list[str], list[str]]:
        """Reads the split's text, cleaned but not tokenised.

        Returns:
            All sources and all targets.
        """
        self._verify(*self._texts)
        source, target = ((self._directory / name).read_bytes().decode().split("\n")[:-1] for name in self._texts)
        return source, target


class MonolingualSentences:
    """Monolingual sentences of one language."""

    def __init__(self, directory: Path, lang: str, verify: Verify) -> None:
        """Opens a language's text.

        Args:
            directory: the corpus's directory.
            lang: the language.
            verify: called before files are read.
        """
        self._directory, self._verify = directory, verify
        self._text = f"text/mono.{lang}"
        verify(f"bin/mono.{lang}.idx", f"bin/mono.{lang}.bin")
        self._data = IndexedDataset(directory / "bin" / f"mono.{lang}")

    def __len__(self) -> int:
        return len(self._data)

    @property
    def lengths(self) -> np.ndarray:
        """Pieces of each sentence; int32."""
        return self._data.lengths

    def pieces(self, i: int) -> np.ndarray:
        """Reads a sentence.

        Args:
            i: its number.

        Returns:
            Its ids (int64), without special symbols.
        """
        return self._data[i]

    def text(self) -> list[str]:
        """Reads the text, cleaned but not tokenised.

        Returns:
            All sentences.
        """
        self._verify(self._text)
        return (self._directory / self._text).read_bytes().decode().split("\n")[:-1]


def changed_settings(manifest: Mapping[str, Any], settings: DataSettings) -> list[str]:
    """Lists the settings that are not those of the prepared corpus (its directory aside).

    Args:
        manifest: the corpus's manifest.
        settings: the recipe's ``data`` section.

    Returns:
        Names such as ``pairs`` and ``clean.max_words``.
    """
    prepared, current = manifest["settings"], settings.model_dump(mode="json")
    with contextlib.suppress(ValidationError):  # settings that the corpus is older than have their defaults
        prepared = DataSettings.model_validate(prepared).model_dump(mode="json")
    names = []
    for name in current:
        if name == "directory" or prepared.get(name) == current[name]:
            continue
        if name in ("clean", "split", "tokenizer"):
            section = prepared.get(name)
            before = section if isinstance(section, dict) else {}
            names += [f"{name}.{key}" for key in current[name] if before.get(key) != current[name][key]]
        else:
            names.append(name)
    return names


class _PairJson(TypedDict):
    splits: dict[str, dict[str, Any]]


class _FileJson(TypedDict):
    size: int
    sha256: str


class ManifestJson(TypedDict):
    """JSON of a corpus's manifest, which is checked when it is read."""

    format: int
    hash: str
    tokenizer_hash: str
    settings: dict[str, Any]
    pairs: dict[str, _PairJson]
    monolingual: dict[str, Any]
    files: dict[InsidePath, _FileJson]


class Corpus:
    """Corpus that ``mnmt-ds prepare`` made: splits by pair, the tokenizer, the manifest."""

    def __init__(self, directory: Path, manifest: dict[str, Any], tokenizer: Tokenizer) -> None:
        """Wraps what ``open`` read.

        Args:
            directory: the corpus's directory.
            manifest: its manifest.
            tokenizer: its tokenizer.
        """
        self.directory = directory
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.pairs: tuple[str, ...] = tuple(manifest["pairs"])
        """Names of the pairs."""
        self.monolingual: tuple[str, ...] = tuple(manifest["monolingual"])
        """Languages with monolingual text."""
        self.hash: str = manifest["hash"]
        """SHA-256 over every file of text and ids and the tokenizer: equal data, equal hash."""

    @classmethod
    def open(cls, directory: Path | str) -> "Corpus":
        """Opens a prepared directory.

        Args:
            directory: what ``data.directory`` says.

        Returns:
            The corpus.

        Raises:
            UserError: when it is missing or incomplete, or its ids are another tokenizer's.
        """
        directory = Path(directory)
        path = directory / MANIFEST
        try:
            manifest = read_checked_json(path)
            is_known_format = manifest.get("format") == FORMAT
            if is_known_format:
                check_shape(manifest, ManifestJson)
        except FileNotFoundError:
            raise UserError(f"{path}: no prepared corpus here; run mnmt-ds prepare") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a readable manifest ({reason(error)}); run mnmt-ds prepare again") from None
        if not is_known_format:
            raise UserError(f"{path}: made by another version of mnmt-ds; run mnmt-ds prepare again")
        for name, size in ((name, entry["size"]) for name, entry in manifest["files"].items()):
            try:
                actual_size = (directory / name).stat().st_size
            except OSError:
                raise UserError(f"{directory / name}: is missing; run mnmt-ds prepare again") from None
            if actual_size != size:
                raise UserError(
                    f"{directory / name}: {actual_size} bytes, but {size} when prepared; run mnmt-ds prepare again"
                )
        tokenizer = Tokenizer.open(directory / "tokenizer")
        if tokenizer.hash != manifest["tokenizer_hash"]:
            raise UserError(
                f"{directory / 'tokenizer'}: this tokenizer ({tokenizer.hash[:12]}) is not the one that made the ids"
                f" ({manifest['tokenizer_hash'][:12]}); run mnmt-ds prepare again"
            )
        corpus = cls(directory, manifest, tokenizer)
        corpus.verify(*(name for name in manifest["files"] if name.startswith("tokenizer/")))
        return corpus

    def split(self, pair: str, name: str) -> Split:
        """Opens a pair's split.

        Args:
            pair: name such as ``bs-en``.
            name: train, dev or test.

        Returns:
            Its sentence pairs.

        Raises:
            UserError: when the corpus has no such pair, or the pair no such split.
        """
        if pair not in self.pairs:
            raise UserError(f"pair '{pair}': not in {self.directory}, which has {', '.join(self.pairs)}")
        if name not in self.manifest["pairs"][pair]["splits"]:
            raise UserError(f"{self.directory}: pair {pair} has no {name} set; set data.split.{name} or give files")
        return Split(self.directory, pair, name, self.verify)

    def text_hash(self, pair: str, name: str) -> str:
        """Looks up the hash of a split's text.

        Args:
            pair: name such as ``bs-en``.
            name: train, dev or test.

        Returns:
            The first 16 digits of each side's SHA-256.
        """
        files = self.manifest["files"]
        return "".join(files[f"text/{pair}.{name}.{side}"]["sha256"][:16] for side in ("src", "tgt"))

    def monolingual_sentences(self, lang: str) -> MonolingualSentences:
        """Opens a language's monolingual text.

        Args:
            lang: the language.

        Returns:
            Its sentences.

        Raises:
            UserError: when the corpus has none of that language.
        """
        if lang not in self.monolingual:
            raise UserError(f"language '{lang}': no monolingual text in {self.directory}; add data.monolingual.{lang}")
        return MonolingualSentences(self.directory, lang, self.verify)

    def verify(self, *names: str) -> None:
        """Checks that files hold what was prepared; those that were not touched since the last time are not read.

        Args:
            *names: paths below the corpus's directory.

        Raises:
            UserError: that names the first one that was altered, or that the manifest does not know.
        """
        try:
            expected = {self.directory / name: str(self.manifest["files"][name]["sha256"]) for name in names}
            altered = first_altered(expected, self.directory)
        except KeyError as error:
            raise UserError(
                f"{self.directory / MANIFEST}: does not name {error.args[0]}; run mnmt-ds prepare again"
            ) from None
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror}); run mnmt-ds prepare again") from None
        if altered is not None:
            raise UserError(f"{altered}: its content changed since it was prepared; run mnmt-ds prepare again")
