"""Our tokenizer as a transformers tokenizer file: same ids and same text, held over text; where not, that is said.

A joint unigram SentencePiece model becomes a ``tokenizer.json`` of the same ids, tags included. Other kinds do not.
transformers' normaliser goes through a text by graphemes, SentencePiece's by its longest rules: before the former, text
is composed (NFC, half-width kana with their marks), which leaves a few differences, such as marks out of their order.
"""

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnmt_ds.data.derived_tokenizer import new_piece_ids
from mnmt_ds.data.framing import Frame
from mnmt_ds.data.pretrained_tokenizer import FAST, M2M_VOCABULARY, SENTENCEPIECE
from mnmt_ds.data.tokenizer import EXPORTED, JOINT, UNK, Tokenizer

SPECIALS = {"bos_token": 0, "pad_token": 1, "eos_token": 2}
"""Symbols by transformers' names; the unknown piece is none of them there, since it is written, as ours, " ⁇ "."""
UNKNOWN_TEXT = "⁇"
"""What SentencePiece writes for an unknown piece, between spaces."""
HELD_SPACE = "\x02"
"""Stands for a space of " ⁇ " while the one at the text's beginning is taken away."""
HARD_STRINGS = {
    "spaces": "  two  spaces ",
    "other spaces": "A\u00a0b\tc\u3000d",
    "control characters": "a\x01b\x7fc",
    "zero width": "x\u200b\u200cy\u200d \ufeffa\u00ad",
    "Vietnamese": "Tiếng Việt được học",
    "NFD Vietnamese": unicodedata.normalize("NFD", "Tiếng Việt được học"),
    "NFD Korean": unicodedata.normalize("NFD", "한국어"),
    "half-width kana": "ﾊﾞﾅﾅ ﾊﾟﾝ ｶﾞｷﾞ ｱﾞ",
    "full width": "ｆｕｌｌ，ｗｉｄｔｈ～！",
    "ligatures": "ﬁ ﬂ ﷺ ㍿ ①② ½",
    "placeholders": "%s: %d (x_y) {name}",
    "Chinese": "漢字かな，是吗？",
    "Persian": "می\u200cروم",
    "Hindi": "नि क़ क्षत्रिय",
    "Thai": "น้ำ ทำ",
    "Arabic": "السَّلَامُ",
    "Hebrew": "שָׁלוֹם",
    "emoji": "👩\u200d👧 🇩🇪 ❤\ufe0f",
    "marks": "e\u0301 e\u0301\u0301 a\u0308\u0304",
    "unordered marks": "e\u0302\u0323 d\u0307\u0323",
    "Greek marks": "\u0344 \u1e9b\u0323",
    "rare characters": "𓀀 ꙮ 𝔘",
    "SentencePiece's space": "▁ a▁b",
    "quotes": "“a” ‘b’ …",
    "Ångström": "\u212b \u2126",
}
"""Text on which tokenizers differ; each is checked when a model is exported."""


class TokenizerMismatches(NamedTuple):
    """Texts that the written tokenizer splits or writes otherwise than ours."""

    split: list[str]
    written: list[str]


def write_tokenizer(tokenizer: Tokenizer, frame: Frame, samples: Sequence[str], out: Path) -> list[str]:
    """Writes tokenizer.json and tokenizer_config.json for transformers, where they are right for the samples.

    Args:
        tokenizer: our tokenizer.
        frame: tags and end symbols that the written tokenizer puts around a source.
        samples: text that the written tokenizer must split into the same ids, and write as ours does.
        out: directory of the exported model.

    Returns:
        Notes for the user: why there is no tokenizer.json, or on which of ``HARD_STRINGS`` it differs from ours.
    """
    model = out / EXPORTED / "spm.model"
    tokenizer.save_to(model.parent)
    end = "; sentencepiece/ holds the tokenizer as it is"
    if not model.exists():
        return [f"no tokenizer.json: one SentencePiece model a language has no counterpart in transformers{end}"]
    if not tokenizer.is_numbered_by_model:
        return [f"no tokenizer.json: the ids are not those of the SentencePiece model{end}"]
    try:
        from sentencepiece import sentencepiece_model_pb2
        from tokenizers import normalizers
    except ImportError as error:
        return [f"no tokenizer.json: {error.name} is not installed{end}"]
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model.read_bytes())
    spec = proto.normalizer_spec
    if proto.trainer_spec.model_type != 1 or not (spec.add_dummy_prefix and spec.remove_extra_whitespaces):
        return [
            "no tokenizer.json: only unigram SentencePiece models with SentencePiece's own white space can be written"
            f" exactly{end}"
        ]
    charsmap = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    kana = [normalizers.Replace(narrow, wide) for narrow, wide in _voiced_kana().items()]
    candidates = [_fast_tokenizer(tokenizer, frame, proto, charsmap)]
    if charsmap:
        candidates.insert(0, _fast_tokenizer(tokenizer, frame, proto, [normalizers.NFC(), *kana, *charsmap]))
    mismatches = [_compare(fast, tokenizer, frame, samples) for fast in candidates]
    best = min(range(len(candidates)), key=lambda i: (len(mismatches[i].split), len(mismatches[i].written)))
    if any(mismatches[best]):
        split, written = mismatches[best]
        how, lines = ("split", split) if split else ("write", written)
        return [
            f"no tokenizer.json: transformers' tokenizer would {how} {len(lines):,} of {len(samples):,} lines of dev"
            f" text differently (such as {lines[0][:40]!r}){end}"
        ]
    candidates[best].save(str(out / "tokenizer.json"))
    config: dict[str, object] = {name: tokenizer.piece(i) for name, i in SPECIALS.items()}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": tokenizer.piece(tokenizer.mask)}
    config["clean_up_tokenization_spaces"] = False
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    return _hard_string_notes(_compare(candidates[best], tokenizer, frame, list(HARD_STRINGS.values())))


def _fast_tokenizer(tokenizer: Tokenizer, frame: Frame, proto: Any, normalize: Sequence[Any]) -> Any:
    """A tokenizer of the library ``tokenizers`` with our pieces, tags and frame."""
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Fast

    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    fast = Fast(models.Unigram(pieces, unk_id=UNK, byte_fallback=proto.trainer_spec.byte_fallback))
    tidy = [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    fast.normalizer = normalizers.Sequence([*normalize, *tidy])
    fast.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace(tokenizer.piece(UNK), f"{HELD_SPACE}{UNKNOWN_TEXT}{HELD_SPACE}"),
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
            decoders.Replace(HELD_SPACE, " "),
        ]
    )
    names = [tokenizer.piece(i) for i in [*SPECIALS.values(), *range(tokenizer.mask, tokenizer.size)]]
    fast.add_special_tokens([AddedToken(name, normalized=False, rstrip=True, lstrip=True) for name in names])
    symbols = [tokenizer.piece(i) for i in frame.source_prefix + frame.source_suffix]
    before, after = symbols[: len(frame.source_prefix)], symbols[len(frame.source_prefix) :]
    fast.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=list(zip(symbols, frame.source_prefix + frame.source_suffix, strict=True)),
    )
    return fast


def _voiced_kana() -> dict[str, str]:
    """Half-width kana with a mark of their own, and what both are together: ｶ and ﾞ are ガ."""
    both = [chr(code) + mark for code in range(0xFF66, 0xFF9E) for mark in "ﾞﾟ"]
    composed = {text: unicodedata.normalize("NFKC", text) for text in both}
    return {narrow: wide for narrow, wide in composed.items() if len(wide) == 1}


def _compare(fast: Any, tokenizer: Tokenizer, frame: Frame, texts: Sequence[str]) -> TokenizerMismatches:
    """Texts whose ids or whose decoded text are not ours."""
    mismatches = TokenizerMismatches([], [])
    for text, ids in zip(texts, tokenizer.encode_many(texts, tokenizer.languages[0]), strict=True):
        if fast.encode(text).ids != [*frame.source_prefix, *ids, *frame.source_suffix]:
            mismatches.split.append(text)
        if fast.decode(ids, skip_special_tokens=True) != tokenizer.decode(ids):
            mismatches.written.append(text)
    return mismatches


def _hard_string_notes(mismatches: TokenizerMismatches) -> list[str]:
    """Names the hard strings on which the tokenizers differ."""
    name_of = {text: name for name, text in HARD_STRINGS.items()}
    return [
        f"tokenizer.json {how} differently from the model's own tokenizer: "
        + ", ".join(f"{name_of[text]} ({ascii(text)[1:-1][:40]})" for text in texts)
        for how, texts in (("splits", mismatches.split), ("writes", mismatches.written))
        if texts
    ]


def family_files(originals: Mapping[str, bytes], added: Mapping[int, str]) -> dict[str, bytes]:
    """Adds language tags to a pretrained model's tokenizer files.

    Args:
        originals: the files by name.
        added: the further tags by id; they follow the ids that the files have.

    Returns:
        The files, as they were where nothing is added.
    """
    files = dict(originals)
    if not added:
        return files
    tokens = {
        i: dict(content=symbol, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        for i, symbol in sorted(added.items())
    }
    if "tokenizer.json" in files:
        values = json.loads(files["tokenizer.json"])
        values["added_tokens"] += [{"id": i, **token} for i, token in tokens.items()]
        files["tokenizer.json"] = json.dumps(values, ensure_ascii=False).encode()
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    config.setdefault("added_tokens_decoder", {}).update({str(i): token for i, token in tokens.items()})
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(config.get(name), list):
            config[name] += [token["content"] for token in tokens.values() if token["content"] not in config[name]]
    files["tokenizer_config.json"] = (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def new_tags(tokenizer: Tokenizer) -> dict[int, str]:
    """Lists the tags that a pretrained model's tokenizer files have to be told of.

    Args:
        tokenizer: derived from the pretrained model's.

    Returns:
        New tags by id; beside them all others of M2M-100, which transformers would number behind the new ones.
    """
    added = [] if tokenizer.derivation is None else [i for i in tokenizer.derivation.new if i >= tokenizer.piece_count]
    every = [
        tokenizer.tag(language) for language in tokenizer.languages if added and M2M_VOCABULARY in tokenizer.originals
    ]
    return {i: tokenizer.piece(i) for i in sorted({*added, *every})}


def files_with_pieces(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Adds the pieces that a tokenizer has learned to its pretrained model's tokenizer files.

    Args:
        tokenizer: derived from the pretrained model's.

    Returns:
        The files by name, as they were where no piece was added. Tags and whatever stands behind the pieces have their
        new ids.
    """
    files, new = dict(tokenizer.originals), new_piece_ids(tokenizer)
    if not new:
        return files
    first, count = new[0], len(new)

    def remap_id(token_id: int) -> int:
        return token_id + count if token_id >= first else token_id

    numbers = {symbol: i for i, symbol in enumerate(tokenizer.symbols[: tokenizer.piece_count])}
    if SENTENCEPIECE in files:
        files[SENTENCEPIECE] = tokenizer.serialised[JOINT]
    if M2M_VOCABULARY in files:
        files[M2M_VOCABULARY] = json.dumps(numbers, ensure_ascii=False, indent=0).encode()
    if "added_tokens.json" in files:
        added = json.loads(files["added_tokens.json"])
        files["added_tokens.json"] = json.dumps({text: remap_id(token_id) for text, token_id in added.items()}).encode()
    if "tokenizer_config.json" in files:
        config = json.loads(files["tokenizer_config.json"])
        if "added_tokens_decoder" in config:
            entries = config["added_tokens_decoder"].items()
            config["added_tokens_decoder"] = {str(remap_id(int(token_id))): token for token_id, token in entries}
        files["tokenizer_config.json"] = (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()
    if FAST in files:
        files[FAST] = json.dumps(_fast_with_pieces(json.loads(files[FAST]), numbers, new, remap_id)).encode()
    return files


def _fast_with_pieces(
    values: dict[str, Any], numbers: Mapping[str, int], new: Sequence[int], remap_id: Callable[[int], int]
) -> dict[str, Any]:
    """A tokenizer.json with further pieces, each of which may be joined of any two pieces that are there."""
    model, names = values["model"], {token_id: symbol for symbol, token_id in numbers.items()}
    model["vocab"] = {symbol: remap_id(token_id) for symbol, token_id in model["vocab"].items()} | dict(numbers)
    as_text = not model["merges"] or isinstance(model["merges"][0], str)
    for piece in (names[token_id] for token_id in new):
        halves = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        joined = [pair for pair in halves if pair[0] in numbers and pair[1] in numbers]
        model["merges"] += [" ".join(pair) if as_text else list(pair) for pair in joined]
    for token in values.get("added_tokens", ()):
        token["id"] = remap_id(token["id"])
    for special in ((values.get("post_processor") or {}).get("special_tokens") or {}).values():
        special["ids"] = [remap_id(token_id) for token_id in special["ids"]]
    return values
