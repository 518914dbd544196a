"""A SentencePiece model from the merges of a ``tokenizer.json``: what its fast form splits, it splits alike.

SentencePiece's BPE joins the neighbours whose union has the highest score; with the rank of a merge as its score that
is the merge which comes first in the list.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnmt_ds.errors import UserError

NORMAL, UNKNOWN, CONTROL = 1, 2, 3
"""SentencePiece's types of a piece."""
BPE = 2
"""SentencePiece's model type."""


def from_bpe_merges(pieces: Sequence[str], values: dict[str, Any], path: Path) -> bytes:
    """Makes a SentencePiece model of the pieces and merges of a tokenizer.json.

    Args:
        pieces: in the order of their ids, without special symbols and tags.
        values: the file's content.
        path: the file, for errors.

    Returns:
        The model, serialised: <unk>, <s>, </s>, then the pieces.

    Raises:
        UserError: where the file is of another kind than NLLB's.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = values["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise UserError(f"{path}: its model is {model.get('type')}, NLLB's is BPE; add sentencepiece.bpe.model")
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    for symbol, kind in (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)):
        proto.pieces.add(piece=symbol, score=0.0, type=kind)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model.get("merges", ())):
        ranks.setdefault(merge.replace(" ", "") if isinstance(merge, str) else "".join(merge), rank)
    for piece in pieces:
        reachable = len(piece) == 1 or piece in ranks
        proto.pieces.add(piece=piece, score=-float(ranks.get(piece, len(ranks))), type=NORMAL if reachable else CONTROL)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type, trainer.vocab_size = BPE, len(proto.pieces)
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, 1, 2, -1
    normalizer.name = "given"
    normalizer.precompiled_charsmap = _charsmap(values.get("normalizer"), path)
    return bytes(proto.SerializeToString())


def has_all_parts(serialised: bytes) -> bool:
    """Returns whether a model file was not cut short: pieces come first, then what they were trained by.

    Args:
        serialised: a model that SentencePiece can read.

    Returns:
        Whether its last parts are there.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(serialised)
    return bool(proto.HasField("trainer_spec") and proto.HasField("normalizer_spec"))


def _charsmap(normalizer: dict[str, Any] | None, path: Path) -> bytes:
    """The one table of characters among the file's normalizers; squeezing spaces is SentencePiece's own habit."""
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    tables = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
    odd = [step["type"] for step in steps if step["type"] not in ("Precompiled", "Replace", "Strip")]
    if odd or len(tables) > 1:
        raise UserError(f"{path}: its normalizer ({', '.join(odd) or 'two tables'}) is not NLLB's; add"
                        " sentencepiece.bpe.model")  # fmt: skip
    return base64.b64decode(tables[0]) if tables else b""
