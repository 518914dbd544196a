"""Settings of a prepared corpus: which pairs, from which files, how cleaned, split and tokenised."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mnmt_ds.config import FilePath, FilledPathText, PathText, Settings
from mnmt_ds.config.sections import ListedElsewhere
from mnmt_ds.data.language_identifiers import Identifier
from mnmt_ds.data.language_pairs import is_pair, reverse_pair, split_pair
from mnmt_ds.data.readers.registry import READERS, describe_formats

if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[tuple(READERS)]
"""Name of a corpus format: a key of ``READERS``."""


_SPECIAL_SYMBOL = re.compile(r"</?s>|<pad>|<unk>|<mask>|<0x[0-9a-f]{2}>|__\w+__", re.IGNORECASE)
"""What tokenizers have beside pieces of text."""


class SyntheticText(Settings):
    """How text that a model translated (``mnmt-ds synthesise``) is taken in. None of it is held out for dev or test."""

    tag: Annotated[str, Field(max_length=40)] = Field("", examples=["<bt>"])
    """A word that stands before each of its sources in training, such as <bt> for back-translation (Caswell et al.
    2019): of 3 characters or more, with a sign among them, and no special symbol. A tokenizer that is trained here has
    it as one piece, also where it stands in text. Empty: none."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """Most of the pair's training sentences that may be this text's, as a share; chosen by hash. null: all of it."""

    @field_validator("tag")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if "▁" in value or value != "".join(value.split()) or not value.isprintable():
            raise ValueError("write one word of printable characters, such as <bt>")
        if value and (len(value) < 3 or value.isalnum()):
            raise ValueError(f"'{value}' may stand in words of the text; write it with brackets, such as <bt>")
        if _SPECIAL_SYMBOL.fullmatch(value):
            raise ValueError(f"'{value}' is a special symbol of tokenizers; take another one, such as <bt>")
        return value


class CorpusRules(Settings):
    """Cleaning rules of one corpus; what is null is as ``data.clean`` says."""

    max_words: int | None = Field(default=None, ge=1)
    """Longest side, in words between spaces."""
    max_characters: int | None = Field(default=None, ge=1)
    """Longest side, in characters."""
    max_ratio: float | None = Field(default=None, ge=1)
    """Largest ratio of the sides' lengths in characters (15 added to each)."""
    min_script: float | None = Field(default=None, ge=0, le=1)
    """Smallest share of a side's letters in its language's script; 0: no check."""
    copied: Literal["drop", "keep"] | None = None
    """Pairs whose two sides are the same text."""
    placeholders: Literal["differ", "any", "keep"] | None = None
    """Drop pairs whose placeholders differ, pairs with any, or none."""
    language: Literal["report", "drop"] | None = None
    """Pairs with a side in another language."""


class Files(Settings):
    """One place that holds sentences. In ``path`` and ``target_path``, {source}, {target} and {pair} are filled in."""

    example: ClassVar = {"format": "tsv", "path": "corpora/{pair}.tsv"}

    format: Format = Field(description=f"{describe_formats()}.")
    path: PathText = ""
    """File, directory, zip archive, or a pattern with * (** for any directories); with moses the source side where
    ``target_path`` is given. .gz, .bz2, .xz, .zst and .zip are read as they are; ARCHIVE.zip/FILE is one file."""
    target_path: PathText = ""
    """With moses: the file of the target side; a * in it stands for what it stood for in ``path``."""
    columns: tuple[int | str, int | str] | None = None
    """Source and target column: numbers from 1 in a TSV without header (default 1, 2), names elsewhere (default: the
    language codes), with dots into inner records of JSON and Parquet."""
    min_scores: dict[int | str, Annotated[float, Field(ge=-1e9, le=1e9)]] = Field(
        default_factory=dict, examples=[{3: 1.05}]
    )
    """tsv, csv, json, parquet: the least score by column; rows with less, or without a score, are left out."""
    split: str = ""
    """flores: dev or devtest (default: dev for ``dev``, devtest for ``test``); huggingface: the split's name."""
    domain: str = ""
    """Name for the cap per domain; default: the file's name."""
    codes: dict[str, str] = Field(default_factory=dict, examples=[{"bs": "bos_Latn"}])
    """What a language is called in there where that differs, such as {bs: bos_Latn}."""
    clean: CorpusRules | None = None
    """Cleaning rules that differ from ``data.clean`` in this corpus; given dev and test sets are exempt in any case."""
    synthetic: SyntheticText | None = None
    """Training text that a model translated; null: real text."""

    @field_validator("columns")
    @classmethod
    def _from_one(cls, value: tuple[int | str, int | str] | None) -> tuple[int | str, int | str] | None:
        if any(isinstance(name, int) and name < 1 for name in value or ()):
            raise ValueError("columns are numbered from 1")
        return value

    @model_validator(mode="after")
    def _complete(self) -> "Files":
        reader = READERS[self.format]
        if not all(getattr(self, key) for key in reader.needs):
            raise ValueError(f"{self.format} needs 'path'")
        for key in ("target_path", "min_scores"):
            if getattr(self, key) and key not in reader.accepts:
                having = " and ".join(name for name, other in READERS.items() if key in other.accepts)
                raise ValueError(f"{self.format} has no '{key}'; only {having} has")
        return self


class PairFiles(Settings):
    """Places that one pair's sentences come from."""

    train: list[Files] = Field(default_factory=list, examples=[[Files.example]])
    """Training text; also the source of dev and test where those are not given."""
    dev: list[Files] = Field(default_factory=list, examples=[[Files.example]])
    """Given dev set, taken whole; empty: ``split.dev`` sentences are held out of ``train``."""
    test: list[Files] = Field(default_factory=list, examples=[[Files.example]])
    """Given test set, taken whole; empty: ``split.test`` sentences are held out of ``train``."""

    @model_validator(mode="after")
    def _real_and_synthetic(self) -> "PairFiles":
        for split in ("dev", "test"):
            if any(entry.synthetic for entry in getattr(self, split)):
                raise ValueError(f"{split}: synthetic text is for training alone; give real text")
        shares = [entry.synthetic.share or 0.0 for entry in self.train if entry.synthetic]
        if sum(shares) >= 1:
            raise ValueError(f"train: shares of synthetic text add up to {sum(shares):g}; leave some to real text")
        return self


class CleanSettings(Settings):
    """Rules by which sentence pairs are dropped, each counted in the report. Given dev and test sets are exempt."""

    bad_lines: Literal["error", "drop"] = "error"
    """Lines that are not UTF-8, hold a NUL byte or exceed ``max_line_bytes``: stop, or drop the pair and count it."""
    max_line_bytes: int = Field(default=1_000_000, ge=1)
    """Longest line, in bytes."""
    max_words: int = Field(default=250, ge=1)
    """Longest side, in words between spaces."""
    max_key_words: int | None = Field(default=None, ge=1)
    """Longest side in the key language (English), in words; null: no limit of its own."""
    max_characters: int = Field(default=2000, ge=1)
    """Longest side, in characters."""
    max_ratio: float = Field(default=4.0, ge=1)
    """Largest ratio of the sides' lengths in characters (15 added to each, so that short pairs may differ)."""
    min_script: float = Field(default=0.3, ge=0, le=1)
    """Smallest share of a side's letters in its language's script; 0: no check."""
    copied: Literal["drop", "keep"] = "drop"
    """Pairs whose two sides are the same text."""
    placeholders: Literal["differ", "any", "keep"] = "differ"
    """Drop pairs whose placeholders (%s, {name}, ...) differ, pairs with any, or none."""
    language: Literal["report", "drop"] = "report"
    """Pairs with a side that is for certain in another language (of 20 letters or more, and none that is close to its
    own), by ``language_identifier``: count them in a sample, or drop them."""
    language_identifier: Identifier = "py3langid"
    """Who identifies languages: py3langid (``pip install 'mnmt_ds[langid]'``, some 140 languages) or lingua
    (``'mnmt_ds[lingua]'``, 75 languages; ten times slower or more, with 1 GB of memory in every process that drops by
    it). They disagree on close languages."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Pairs that occurred before in the same pair's text."""
    drop_domains: tuple[str, ...] = ("iso_*",)
    """Domains (catalog or file names, shell patterns) that are left out: lists of names."""
    domain_cap: int | None = Field(default=None, ge=1)
    """Most sentence pairs of one domain, in each pair; null: no limit."""
    unicode: Literal["NFC", "keep"] = "NFC"
    """Unicode normal form of the kept text."""


class SplitSettings(Settings):
    """Held-out sets, chosen by a hash of the normalised English side. No dev or test sentence, held out or given, on
    either side of any pair, occurs in any training set in its language, whatever the language is called there."""

    key_language: str = "en"
    """The language (any code of it) whose text is hashed. A pair without it is hashed on the side whose two-letter code
    (three letters where there is none) comes first in the alphabet, in both directions of the pair."""
    dev: int = Field(default=1000, ge=1)
    """Sentence pairs of a dev set (at most a quarter of a pair's text)."""
    test: int = Field(default=1000, ge=0)
    """Sentence pairs of a test set (at most a quarter of a pair's text)."""
    seed: int = Field(1, ge=0)
    """Another seed, another choice."""


class TokenizerSettings(Settings):
    """SentencePiece: one model for all languages, or one a language with their vocabularies merged."""

    kind: Literal["joint", "per_language"] = "joint"
    """One model on all training text, or one a language on its own training side."""
    size: int = Field(default=32000, ge=8, le=10_000_000)
    """Pieces of the model (of each language's model), special symbols included."""
    model: Literal["unigram", "bpe"] | FilePath = "unigram"
    """SentencePiece's model type; or the path of a tokenizer that is used as it is: a SentencePiece model, a directory
    of M2M-100 or NLLB, a run or a model directory. Then no other setting here counts."""
    new_languages: dict[str, str] = Field(default_factory=dict, examples=[{"xx": "es"}])
    """With ``model: PATH``: languages that it lacks. Each gets a tag whose weights start as those of a relative's (a
    language that it has), as the mean of all tags' (mean), or drawn (random)."""
    new_pieces: dict[str, Annotated[int, Field(ge=1, le=1_000_000)]] = Field(
        default_factory=dict, examples=[{"xx": 4000}]
    )
    """With ``model: PATH``, a byte-pair one: by language how many pieces are learned of its prepared training text (of
    ``sample`` sentences at most); a piece's row starts as the mean of the old pieces that it consists of."""
    trim: bool = False
    """With ``model: PATH``: leave out all pieces that the prepared text does not use; other text is split smaller."""
    coverage: float = Field(default=0.9995, ge=0.98, le=1)
    """Share of characters that get a piece of their own (SentencePiece takes 0.98 to 1)."""
    hard_limit: bool = True
    """false: a small corpus may give fewer pieces than ``size``, without an error."""
    normalization: Literal["nmt_nfkc", "nfkc", "identity"] = "nmt_nfkc"
    """SentencePiece's normalisation rule."""
    byte_fallback: bool = False
    """Unknown characters become byte pieces (joint only)."""
    sample: int = Field(default=500_000, ge=1)
    """Most sentences that train a model; SentencePiece holds them all in memory (some 1 to 3 KB each)."""
    temperature: float = Field(default=1.0, ge=0.05)
    """The sample's share of a text of n sentences is proportional to n^(1/temperature)."""

    @model_validator(mode="after")
    def _bytes(self) -> "TokenizerSettings":
        if self.byte_fallback and self.kind == "per_language":
            raise ValueError("byte_fallback needs kind: joint")
        if self.given is None and (self.new_languages or self.new_pieces or self.trim):
            raise ValueError(
                "new_languages, new_pieces and trim are for a tokenizer that is given; set model to its path"
            )
        return self

    @property
    def given(self) -> Path | None:
        """The tokenizer that is used as it is; None: one is trained."""
        return self.model if isinstance(self.model, Path) else None


class DataSettings(Settings):
    """Everything that ``mnmt-ds prepare`` needs; paths are relative to the working directory."""

    directory: FilledPathText = "data"
    """Where the prepared corpus is."""
    pairs: tuple[str, ...] = Field(examples=[["bs-en", "mr-en"]])
    """Language pairs, source-target: a list, or "bs-en,mr-en"."""
    source: Literal["auto", "files", "gettext", "cldr"] = "auto"
    """files: ``corpora`` alone. gettext: the system's catalogs, as they are when first read (later changes of the
    system are left alone; ``prepare --fresh`` reads anew). cldr: Babel's data. auto: ``corpora`` where it is given,
    else gettext, else (where catalogs are missing or too few) cldr for every pair."""
    corpora: dict[str, PairFiles] = Field(default_factory=dict, examples=[{"*": {"train": [Files.example]}}])
    """Files by pair; "*" stands for every pair that is not named. What concerns none of ``pairs`` is left unused."""
    monolingual: Annotated[dict[str, list[Files]], ListedElsewhere()] = Field(
        default_factory=dict, examples=[{"en": [{"format": "text", "path": "corpora/en.txt"}]}]
    )
    """Text in one language, by language."""
    catalogs: tuple[PathText, ...] = ("/usr/share/locale", "/usr/share/locale-langpack", "/usr/local/share/locale")
    """Where gettext looks for LANGUAGE/LC_MESSAGES/*.mo."""
    min_catalog_pairs: int = Field(300, ge=0)
    """With source auto: a pair with fewer clean sentence pairs from catalogs makes every pair fall back to cldr."""
    max_train: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, examples=[{"*": 100000, "bs-en": 5000}]
    )
    """Most real training sentences by pair (either direction's name, or "*"), chosen by hash."""
    clean: CleanSettings = CleanSettings()
    split: SplitSettings = SplitSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()

    @field_validator("pairs", mode="before", json_schema_input_type=tuple[str, ...] | str)
    @classmethod
    def _listed(cls, value: object) -> object:
        return [item.strip() for item in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> "DataSettings":
        if not self.pairs:
            raise ValueError("'pairs' is empty; name at least one, such as [fr-en]")
        for name in ("pairs", "corpora", "max_train"):
            for pair in getattr(self, name):
                if pair != "*" and not is_pair(pair):
                    raise ValueError(f"{name}: '{pair}': write source-target, such as fr-en")
        if len(set(self.pairs)) < len(self.pairs):
            raise ValueError("a pair is named twice; keep one")
        for lang in self.monolingual:
            if not lang.replace("_", "").isalnum():
                raise ValueError(f"monolingual '{lang}': write a language, such as fr")
            if any(entry.synthetic for entry in self.monolingual[lang]):
                raise ValueError(f"monolingual.{lang}: synthetic text has two sides; name it under corpora")
        for pair in self.pairs:
            if self.source == "files" and not self.files_of(pair).train:
                raise ValueError(f"source: files, but corpora has no train files for '{pair}'")
        return self

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages in the order in which the pairs (then ``monolingual``) name them: the order of the tags."""
        return tuple(dict.fromkeys([*(side for pair in self.pairs for side in split_pair(pair)), *self.monolingual]))

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the pairs' synthetic text, in the order of the alphabet."""
        entries = [entry for pair in self.pairs for entry in self.files_of(pair).train if entry.synthetic]
        return tuple(sorted({entry.synthetic.tag for entry in entries if entry.synthetic and entry.synthetic.tag}))

    @property
    def unused(self) -> list[str]:
        """Keys of ``corpora`` and ``max_train`` that concern none of the pairs."""
        limited = {*self.pairs, *map(reverse_pair, self.pairs), "*"}
        unused = [f"corpora.{name}" for name in self.corpora if name not in {*self.pairs, "*"}]
        return unused + [f"max_train.{name}" for name in self.max_train if name not in limited]

    def files_of(self, pair: str) -> PairFiles:
        """Looks up where a pair's text comes from.

        Args:
            pair: one of ``pairs``.

        Returns:
            The pair's entry of ``corpora``, else that of "*", else no files.
        """
        return self.corpora.get(pair) or self.corpora.get("*") or PairFiles()

    def limit_of(self, pair: str) -> int | None:
        """Looks up how large a pair's training set may be.

        Args:
            pair: one of ``pairs``.

        Returns:
            Most training sentences: the pair's own limit, else the opposite direction's, else that of "*"; None: all.
        """
        return self.max_train.get(pair, self.max_train.get(reverse_pair(pair), self.max_train.get("*")))
