"""Weights under the names of transformers' M2M100, both ways, and M2M100 directories.

Here self-attention's q, k, v are one matrix and cross-attention's k, v another; M2M100 has each on its own.
"""

from collections.abc import Container
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mnmt_ds.batch import BOS, EOS, PAD, UNK
from mnmt_ds.models.settings import ModelSettings

LAYER_NAMES = {
    "encoder": {"attention_norm": "self_attn_layer_norm", "ffn_norm": "final_layer_norm", "ffn.inner": "fc1",
                "ffn.outer": "fc2", "attention.out": "self_attn.out_proj"},
    "decoder": {"attention_norm": "self_attn_layer_norm", "ffn_norm": "final_layer_norm", "ffn.inner": "fc1",
                "ffn.outer": "fc2", "attention.out": "self_attn.out_proj", "cross_norm": "encoder_attn_layer_norm",
                "cross.q": "encoder_attn.q_proj", "cross.out": "encoder_attn.out_proj"},
}  # fmt: skip
"""Our name of a part of a layer, and M2M100's."""
FUSED = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "cross.kv": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
}
"""Our matrices that are several of M2M100's, stacked by rows."""
REPEATS = {
    "all": ("model.shared.weight",),
    "decoder": ("model.shared.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
    "none": ("model.shared.weight", "model.decoder.embed_tokens.weight"),
}
"""M2M100's names of ``embedding.weight``, by what is shared."""


def to_m2m100(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames our weights to transformers' M2M100: one shared embedding or, where untied, each side's own.

    Args:
        state: our weights by name, without tied repeats.

    Returns:
        The same values under M2M100's names; the encoder's own projection, which translation does not use, is left out.
    """
    share = "none" if "head.weight" in state else "decoder" if "source_embedding.weight" in state else "all"
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        result |= m2m100_tensors(name, value, share)
    return result


def m2m100_tensors(name: str, value: Tensor, share_embeddings: str) -> dict[str, Tensor]:
    """Splits one of our weights into tensors with transformers' M2M100 names.

    Args:
        name: of the weight.
        value: its values.
        share_embeddings: the model's setting.

    Returns:
        Tensors by name: several where our matrix is several of M2M100's, or where M2M100 repeats it; none of the
        encoder's own projection, which translation does not use.
    """
    if name == "encoder_projection.weight":
        return {}
    if name == "embedding.weight":
        return dict.fromkeys(REPEATS[share_embeddings], value)
    targets = _targets(name)
    return dict(zip(targets, value.chunk(len(targets)), strict=True))


def m2m100_names(settings: ModelSettings, present: Container[str]) -> dict[str, tuple[str, ...]]:
    """Maps our weights to transformers' M2M100.

    Args:
        settings: our model's shape.
        present: names that the M2M100 weights have; a shared matrix may stand under any of its names.

    Returns:
        By our name the names of the matrices that it consists of, stacked by rows.
    """
    shared, decoder, head = REPEATS["decoder"]
    encoder = "model.encoder.embed_tokens.weight"
    weight_names = {
        "embedding.weight": (decoder, shared)
        if settings.share_embeddings != "all"
        else (shared, decoder, encoder, head),
        "source_embedding.weight": (encoder, shared),
        "head.weight": (head, shared),
    }
    names = {name: _targets(name) for name in our_names(settings)}
    for name, choices in weight_names.items():
        if name in names:
            names[name] = (next((choice for choice in choices if choice in present), choices[0]),)
    return names


def our_names(settings: ModelSettings) -> list[str]:
    """Lists the names of our model's weights.

    Args:
        settings: the model's shape.

    Returns:
        Names without tied repeats; the encoder's own projection, which M2M100 lacks, is left out.
    """
    names = ["embedding.weight"] + ["source_embedding.weight"] * (settings.share_embeddings != "all")
    names += ["head.weight"] * (settings.share_embeddings == "none")
    modules = ["encoder_norm", "decoder_norm"]
    for side, count in (("encoder", settings.encoder_layers), ("decoder", settings.decoder_layers)):
        fused = [part for part in FUSED if side == "decoder" or part.startswith("attention.")]
        modules += [f"{side}.{i}.{part}" for i in range(count) for part in [*LAYER_NAMES[side], *fused]]
    return names + [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]


def m2m100_config(settings: ModelSettings, vocabulary_size: int, decoder_start: int) -> dict[str, Any]:
    """Makes the fields of transformers' M2M100Config.

    Args:
        settings: the model's shape.
        vocabulary_size: V.
        decoder_start: id of the first decoder input: a pair's tag, or EOS.

    Returns:
        The fields by name.
    """
    return dict(
        architectures=["M2M100ForConditionalGeneration"],
        model_type="m2m_100",
        vocab_size=vocabulary_size,
        d_model=settings.d_model,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers,
        encoder_attention_heads=settings.heads,
        decoder_attention_heads=settings.heads,
        encoder_ffn_dim=settings.ffn,
        decoder_ffn_dim=settings.ffn,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        activation_dropout=settings.activation_dropout,
        activation_function="relu",
        max_position_embeddings=settings.max_positions,
        scale_embedding=settings.scale_embedding,
        tie_word_embeddings=settings.share_embeddings == "all",
        decoder_start_token_id=decoder_start,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )


def _targets(name: str) -> tuple[str, ...]:
    """Gives M2M100's names for one of ours; several where our matrix is several of M2M100's."""
    if name == "embedding.weight":
        return ("model.shared.weight",)
    if name == "source_embedding.weight":
        return ("model.encoder.embed_tokens.weight",)
    if name == "head.weight":
        return ("lm_head.weight",)
    module, _, kind = name.rpartition(".")
    if module in ("encoder_norm", "decoder_norm"):
        return (f"model.{module.removesuffix('_norm')}.layer_norm.{kind}",)
    side, layer, part = module.split(".", 2)
    targets = FUSED[part] if part in FUSED else (LAYER_NAMES[side][part],)
    return tuple(f"model.{side}.layers.{layer}.{target}.{kind}" for target in targets)


def save_ctranslate2(model: nn.Module, tokens: list[str], decoder_start: str | None, directory: Path) -> None:
    """Writes a transformers M2M100 as a CTranslate2 model.

    Args:
        model: ``M2M100ForConditionalGeneration``.
        tokens: the token of every id, in order.
        decoder_start: the token of the first decoder input; None: each call gives it, as ``target_prefix``'s first.
        directory: where to write; made where it is missing.
    """
    from ctranslate2.converters.transformers import M2M100Loader

    spec = M2M100Loader().get_model_spec(model)
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = tokens[BOS], tokens[EOS], tokens[UNK]
    spec.config.decoder_start_token = decoder_start
    spec.validate()
    spec.optimize()
    directory.mkdir(parents=True, exist_ok=True)
    spec.save(str(directory))
