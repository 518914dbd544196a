"""Tiny pretrained models of both families: SentencePiece models trained here, random weights made by transformers."""

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

LOCALES = (
    "am", "ar", "bg", "bn", "cs", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hy", "ja", "ka", "km", "ko",
    "mr", "my", "pl", "ru", "sw", "ta", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
"""Languages of the text, in some 16 scripts."""
SHAPE: dict[str, Any] = dict(
    d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=64, encoder_layerdrop=0.0, decoder_layerdrop=0.0,
)  # fmt: skip


@cache
def lines_of(locale: str) -> tuple[str, ...]:
    """Names of languages, countries, currencies and days in a language, as CLDR has them; some joined to a sentence."""
    from babel import Locale

    data = Locale.parse(locale)
    names = [*data.languages.values(), *data.territories.values(), *data.currencies.values()]
    names += [name for width in data.days["format"].values() for name in width.values()]
    texts = dict.fromkeys(str(name) for name in names)
    return (*texts, *(", ".join(list(texts)[i : i + 5]) + "." for i in range(0, len(texts), 5)))


@cache
def sentencepiece_bytes(kind: str = "bpe", size: int = 2000) -> bytes:
    """A SentencePiece model numbered as fairseq's: <unk> 0, <s> 1, </s> 2."""
    import sentencepiece

    text = [line for locale in LOCALES for line in lines_of(locale)[::9]]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=size, model_type=kind, character_coverage=0.98,
        num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def write_tokenizer(directory: Path, family: str, **config: Any) -> Path:
    """The tokenizer files of a family, as its authors publish them."""
    import sentencepiece

    from mnmt_ds.data.family_languages import M2M100, NLLB200

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sentencepiece.bpe.model").write_bytes(sentencepiece_bytes())
    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_bytes())
    if family == "m2m_100":
        symbols = ["<s>", "<pad>", "</s>", "<unk>"]
        symbols += sorted(model.id_to_piece(i) for i in range(3, model.get_piece_size()))  # not SentencePiece's order
        (directory / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
        tags = [f"__{code}__" for code in M2M100]
    else:
        tags = list(NLLB200)
        _write_fast_file(directory, [*tags, "<mask>"])
    name = "M2M100Tokenizer" if family == "m2m_100" else "NllbTokenizer"
    values = {"tokenizer_class": name, "additional_special_tokens": tags, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(values))
    return directory


def _write_fast_file(directory: Path, symbols: list[str]) -> None:
    """tokenizer.json with tags, then mask, behind the pieces, as published (transformers 5 numbers the mask first)."""
    from transformers import NllbTokenizer

    path = directory / "tokenizer.json"
    NllbTokenizer.from_pretrained(directory).backend_tokenizer.save(str(path))
    values = json.loads(path.read_text())
    vocabulary = {symbol: i for symbol, i in values["model"]["vocab"].items() if symbol not in symbols}
    first = len(vocabulary)
    values["model"]["vocab"] = vocabulary | {symbol: first + i for i, symbol in enumerate(symbols)}
    kept = [entry for entry in values["added_tokens"] if entry["id"] < 4]
    values["added_tokens"] = kept + [{**kept[0], "id": first + i, "content": s} for i, s in enumerate(symbols)]
    path.write_text(json.dumps(values))


def write_model(directory: Path, family: str, seed: int = 0, **config: Any) -> Path:
    """A transformers directory with random weights whose norms and biases are random, too, and its tokenizer."""
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    write_tokenizer(directory, family, legacy_behaviour=config.pop("legacy_behaviour", False))
    dtype = config.pop("dtype", "float32")
    shard = config.pop("max_shard_size", "50GB")
    vocabulary = 2001 + (108 if family == "m2m_100" else 205)
    torch.manual_seed(seed)
    model = M2M100ForConditionalGeneration(M2M100Config(**{**SHAPE, "vocab_size": vocabulary, **config}))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
        else:
            torch.nn.init.normal_(parameter, std=0.3)
    model.tie_weights()
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shard)
    return directory
