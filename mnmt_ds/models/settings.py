"""The model's shape: presets of the papers, each field free to override."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mnmt_ds.config import PaperDifference, PathText, Settings

PRESETS: dict[str, dict[str, int]] = {
    "tiny": dict(d_model=128, ffn=512, heads=4, encoder_layers=2, decoder_layers=2),
    "ted": dict(d_model=512, ffn=1024, heads=4, encoder_layers=6, decoder_layers=6),
    "base": dict(d_model=512, ffn=2048, heads=8, encoder_layers=6, decoder_layers=6),
    "big": dict(d_model=1024, ffn=4096, heads=16, encoder_layers=6, decoder_layers=6),
    "m15": dict(d_model=1024, ffn=4096, heads=16, encoder_layers=12, decoder_layers=12),
    "nllb_1.3b": dict(d_model=1024, ffn=8192, heads=16, encoder_layers=24, decoder_layers=24),
    "nllb_3.3b": dict(d_model=2048, ffn=8192, heads=16, encoder_layers=24, decoder_layers=24),
}
"""tiny: calibration runs; ted: LSSD's released TED-8 scripts; base: papers 1 and 2; big and m15: paper 3. M2M-100 418M
and NLLB-200 600M have m15's layers, M2M-100 1.2B those of nllb_1.3b."""


class ModelSettings(Settings):
    """Shape and regularisation of one student."""

    differences: ClassVar = {
        "preset": PaperDifference(
            "base (1 and 2), big and m15 (3)", "TED-8 of 1 and 2: ted (feed-forward 1024, 4 heads)",
            "the papers' recipes have the papers', the studies of released code the scripts'",
        ),
        "attention_dropout": PaperDifference(
            "not said", "TED-8 0.3, WMT 0, paper 3's 0.1", "the papers' recipes have the scripts'"
        ),
        "share_embeddings": PaperDifference(
            "1 and 2: not said; 3: two matrices, by its 242M and 418M parameters",
            "1 and 2: decoder; 3: all, 209M parameters",
            "M2M100's; recipes of paper 3 have decoder, studies of released code the scripts'",
        ),
    }  # fmt: skip

    init: PathText = ""
    """Directory that the first weights come from, and with them shape and framing: M2M-100 or NLLB-200 as transformers
    keeps them, a model directory, or a run (its best); empty: drawn by chance. Optimizer and data start anew."""
    preset: Literal["tiny", "ted", "base", "big", "m15", "nllb_1.3b", "nllb_3.3b"] = "base"
    """Fills the shapes that are not given: tiny (2+2 layers of 128), ted (LSSD's scripts), base, big, m15 (12+12, as
    NLLB-200 600M and M2M-100 418M), nllb_1.3b (24+24, as M2M-100 1.2B), nllb_3.3b. ``init`` needs none."""
    d_model: int = Field(0, ge=0, le=65_536)
    """Width of embeddings and layers; 0: the preset's."""
    ffn: int = Field(0, ge=0, le=1_048_576)
    """Width of the feed-forward layers; 0: the preset's."""
    heads: int = Field(0, ge=0, le=4096)
    """Attention heads; 0: the preset's."""
    encoder_layers: int = Field(0, ge=0, le=1000)
    """Encoder layers; 0: the preset's."""
    decoder_layers: int = Field(0, ge=0, le=1000)
    """Decoder layers; 0: the preset's."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Probability on embeddings and on every sub-layer's output."""
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Probability on attention weights."""
    activation_dropout: float = Field(0.0, ge=0, lt=1)
    """Probability after the feed-forward activation."""
    share_embeddings: Literal["all", "decoder", "none"] = "all"
    """all: encoder, decoder and output projection share one matrix (M2M100); decoder: the encoder has its own; none:
    each of the three has."""
    scale_embedding: bool = True
    """Embeddings are multiplied by sqrt(d_model) (M2M100, NLLB)."""
    encoder_projection: Literal["shared", "own"] = "shared"
    """What the encoder predicts by, in denoising tasks: the decoder's projection (paper 3), or one of its own."""
    max_positions: int = Field(1024, ge=4, le=1_048_576)
    """Longest sequence in tokens."""
    activation_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more time."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("init"):
            return values
        preset = PRESETS.get(str(values.get("preset", "base")), {})
        return {**values, **{key: value for key, value in preset.items() if not values.get(key)}}

    @model_validator(mode="after")
    def _check(self) -> "ModelSettings":
        if not self.init and not (self.heads and self.d_model):
            raise ValueError("d_model and heads must be at least 1")
        if self.heads and (self.d_model % self.heads or self.d_model % 2):
            raise ValueError(f"d_model {self.d_model} must be even and a multiple of heads {self.heads}")
        return self
