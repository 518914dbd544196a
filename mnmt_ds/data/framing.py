"""Where language tags and end symbols stand around the pieces of a sentence."""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

from mnmt_ds.batch import EOS
from mnmt_ds.config import PaperDifference, Settings


class FramingSettings(Settings):
    """Language tags, as fairseq names them."""

    differences: ClassVar = {
        "encoder_langtok": PaperDifference(
            "tgt (1, 2.2; 3, 4.1)", "1 and 2: src into English, tgt out of it; 3: tgt",
            "src as in M2M100; recipes out of English and all of paper 3's set tgt (into English it is constant)",
        ),
        "encoder_langtok_position": PaperDifference(
            "1 and 2: start; 3: end (3, 4.1)", "3: in the place of </s>", "M2M100's; paper 3's recipes set end"
        ),
    }  # fmt: skip

    encoder_langtok: Literal["src", "tgt", "none"] = "src"
    """Tag on the source: of the source language (M2M100; LSSD's and Pareto-MD's M2O scripts), the target's, or none."""
    encoder_langtok_position: Literal["start", "end", "after_end"] = "start"
    """start: tag, pieces, </s>; end: pieces, tag in the place of </s> (paper 3); after_end: pieces, </s>, tag (NLLB's
    legacy files)."""
    decoder_langtok: Literal["src", "tgt", "none"] = "tgt"
    """Symbol that the decoder starts with: a language tag, or </s> where none."""
    decoder_langtok_position: Literal["start", "after_end"] = "start"
    """start: the tag is the decoder's first input; after_end: </s> is, and the tag, the second, is predicted as the
    pieces are (M2M-100, NLLB)."""


class Frame(NamedTuple):
    """Ids that one language pair puts around the pieces of its sentences."""

    source_prefix: tuple[int, ...]
    """Before the source's pieces."""
    source_suffix: tuple[int, ...]
    """Behind the source's pieces."""
    decoder_start: int
    """First input of the decoder."""
    target_prefix: tuple[int, ...] = ()
    """Before the target's pieces: the decoder predicts it, and a search is given it."""

    @property
    def source_extra(self) -> int:
        """Tokens around a source's pieces."""
        return len(self.source_prefix) + len(self.source_suffix)

    @property
    def target_extra(self) -> int:
        """Tokens of a target beside its pieces, the end symbol included."""
        return len(self.target_prefix) + 1


def frame_of(settings: FramingSettings, source_tag: int, target_tag: int) -> Frame:
    """Makes the frame of a pair.

    Args:
        settings: which tags stand where.
        source_tag: id of the source language's tag.
        target_tag: id of the target language's tag.

    Returns:
        The frame.
    """
    tags = {"src": source_tag, "tgt": target_tag}
    tag = tags.get(settings.encoder_langtok)
    source_tag_only = () if tag is None else (tag,)
    suffixes = {"start": (EOS,), "end": source_tag_only or (EOS,), "after_end": (EOS, *source_tag_only)}
    start = tags.get(settings.decoder_langtok, EOS)
    after_end = settings.decoder_langtok_position == "after_end" and start != EOS
    return Frame(
        source_prefix=source_tag_only if settings.encoder_langtok_position == "start" else (),
        source_suffix=suffixes[settings.encoder_langtok_position],
        decoder_start=EOS if after_end else start,
        target_prefix=(start,) if after_end else (),
    )


def frame_source(frame: Frame, pieces: Sequence[int]) -> list[int]:
    """Makes the encoder's input of a sentence.

    Args:
        frame: the pair's frame.
        pieces: ids of the sentence.

    Returns:
        Ids with tag and end symbol.
    """
    return [*frame.source_prefix, *pieces, *frame.source_suffix]
