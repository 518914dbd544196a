"""The model's shape: presets of the papers, each field free to override."""

from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field, model_validator

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


class FreezeSettings(Settings):
    """Parts of the model that keep their first weights."""

    embeddings: bool = False
    """Every matrix with a row a word: embeddings and output projections, tied or not."""
    encoder: bool = False
    """The whole encoder, its last norm included; not its embedding."""
    decoder: bool = False
    """The whole decoder, its last norm included; neither embedding nor output projection."""
    encoder_layers: int = Field(0, ge=0, le=1000)
    """The first so many encoder layers."""
    decoder_layers: int = Field(0, ge=0, le=1000)
    """The first so many decoder layers."""


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2022) in every layer that ``model.freeze`` does not name: W + alpha / rank B A.

    They and, where ``embeddings`` says so, embeddings and output projections are trained, nothing else.
    """

    rank: int = Field(8, ge=1, le=4096, validation_alias=AliasChoices("rank", "r"))
    """Rows of A, columns of B (peft's r)."""
    alpha: float = Field(8.0, gt=0, le=65_536, validation_alias=AliasChoices("alpha", "lora_alpha"))
    """What B A is multiplied by, times the rank (peft's lora_alpha)."""
    dropout: float = Field(0.0, ge=0, lt=1, validation_alias=AliasChoices("dropout", "lora_dropout"))
    """Probability on A's input; projections of the same states share their draws."""
    targets: tuple[Literal["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], ...] = Field(
        ("q_proj", "v_proj"), min_length=1, validation_alias=AliasChoices("targets", "target_modules")
    )
    """Which maps get adapters, by M2M-100's names: projections of self- and cross-attention, the feed-forward maps."""
    embeddings: bool = False
    """Embeddings and output projections are trained as well, whole (peft's modules_to_save): for new tags and words."""


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
    freeze: FreezeSettings = FreezeSettings()
    """Parts that are not trained: neither gradients nor optimizer states; teachers and checkpoints leave them out."""
    lora: LoraSettings | None = None
    """Low-rank adapters; null: all that ``freeze`` does not name is trained itself."""

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

    @model_validator(mode="after")
    def _check_trained(self) -> "ModelSettings":
        freeze, lora = self.freeze, self.lora
        for side in ("encoder", "decoder"):
            first, count = getattr(freeze, f"{side}_layers"), getattr(self, f"{side}_layers")
            if first > count and not self.init:
                raise ValueError(f"freeze.{side}_layers is {first}, the model has {count}; take fewer")
        if lora is not None and lora.embeddings and freeze.embeddings:
            raise ValueError("freeze.embeddings and lora.embeddings exclude each other; leave one out")
        trains_words = not freeze.embeddings if lora is None else lora.embeddings
        if freeze.encoder and freeze.decoder and not trains_words:
            raise ValueError("freeze: nothing is left to train; freeze less")
        return self

    def plain(self) -> "ModelSettings":
        """Describes the same model with its adapters merged into its weights and nothing frozen.

        Returns:
            Settings of the same shape.
        """
        return self.model_copy(update={"freeze": FreezeSettings(), "lora": None})
