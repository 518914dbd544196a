"""Where language tags and end symbols stand around the pieces of a sentence."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from mnmt_ds.batch import EOS
from mnmt_ds.config import Settings
from mnmt_ds.data.language_pairs import split_pair as split_pair


class FramingSettings(Settings):
    """Language tags, as fairseq names them."""

    encoder_langtok: Literal["src", "tgt", "none"] = "src"
    """Tag on the source: of the source language (M2M100; LSSD's and Pareto-MD's M2O scripts), the target's, or none."""
    encoder_langtok_position: Literal["start", "end"] = "start"
    """start: tag, pieces, </s>; end: pieces, tag in the place of </s> (paper 3)."""
    decoder_langtok: Literal["src", "tgt", "none"] = "tgt"
    """Symbol that the decoder starts with: a language tag, or </s> where none."""


class Frame(NamedTuple):
    """What one language pair puts around its pieces."""

    source_prefix: tuple[int, ...]
    source_suffix: tuple[int, ...]
    decoder_start: int


def frame_of(settings: FramingSettings, source_tag: int, target_tag: int) -> Frame:
    """The frame of a pair from the ids of its two language tags."""
    tags = {"src": source_tag, "tgt": target_tag}
    tag = tags.get(settings.encoder_langtok)
    at_end = settings.encoder_langtok_position == "end" and tag is not None
    return Frame(
        source_prefix=(tag,) if tag is not None and not at_end else (),
        source_suffix=(tag,) if tag is not None and at_end else (EOS,),
        decoder_start=tags.get(settings.decoder_langtok, EOS),
    )


def frame_source(frame: Frame, pieces: Sequence[int]) -> list[int]:
    """Encoder input of a sentence."""
    return [*frame.source_prefix, *pieces, *frame.source_suffix]
