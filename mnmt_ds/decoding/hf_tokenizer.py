"""Our tokenizer as a transformers tokenizer file, where that can be done exactly.

A joint unigram SentencePiece model becomes a ``tokenizer.json`` of the same ids, tags included. Other kinds do not.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from mnmt_ds.data.framing import Frame
from mnmt_ds.data.tokenizer import Tokenizer

SPECIALS = {"bos_token": 0, "pad_token": 1, "eos_token": 2, "unk_token": 3}


def write_tokenizer(tokenizer: Tokenizer, frame: Frame, samples: Sequence[str], out: Path) -> str | None:
    """Writes tokenizer.json and tokenizer_config.json for transformers, where that can be done exactly.

    Args:
        tokenizer: our tokenizer.
        frame: tags and end symbols that the written tokenizer puts around a source.
        samples: text of the tokenizer's first language; the written tokenizer must give each the same ids.
        out: directory of the exported model.

    Returns:
        None where the files were written, else why they cannot be.
    """
    model = out / "sentencepiece" / "spm.model"
    tokenizer.save_to(model.parent)
    if not model.exists():
        return "one SentencePiece model a language has no counterpart in transformers"
    try:
        from sentencepiece import sentencepiece_model_pb2
        from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
        from tokenizers import Tokenizer as Fast
    except ImportError as error:
        return f"{error.name} is not installed"
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model.read_bytes())
    spec = proto.normalizer_spec
    if proto.trainer_spec.model_type != 1 or not (spec.add_dummy_prefix and spec.remove_extra_whitespaces):
        return "only unigram SentencePiece models with SentencePiece's own white space can be written exactly"
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    fast = Fast(models.Unigram(pieces, unk_id=3, byte_fallback=proto.trainer_spec.byte_fallback))
    tidy = [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    charsmap = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    fast.normalizer = normalizers.Sequence([*charsmap, *tidy])
    fast.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    fast.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    names = [tokenizer.piece(i) for i in [*SPECIALS.values(), *range(tokenizer.mask, tokenizer.size)]]
    fast.add_special_tokens([AddedToken(name, normalized=False, rstrip=True, lstrip=True) for name in names])
    symbols = [tokenizer.piece(i) for i in frame.source_prefix + frame.source_suffix]
    before, after = symbols[: len(frame.source_prefix)], symbols[len(frame.source_prefix) :]
    fast.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=list(zip(symbols, frame.source_prefix + frame.source_suffix, strict=True)),
    )
    language = tokenizer.languages[0]
    for text, ids in zip(samples, tokenizer.encode_many(samples, language), strict=True):
        encoded = fast.encode(text).ids
        if encoded != [*frame.source_prefix, *ids, *frame.source_suffix]:
            return f"transformers' tokenizer would split {text[:40]!r} differently"
    fast.save(str(out / "tokenizer.json"))
    config = {name: tokenizer.piece(i) for name, i in SPECIALS.items()}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": tokenizer.piece(tokenizer.mask)}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    return None
