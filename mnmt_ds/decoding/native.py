"""The decoding step in float32 on a CPU: products by oneDNN, the rest by csrc/decode.cpp, compiled on first use.

Same functions as ``incremental``. A beam reads its own past alone, through a path of ancestors, and the caches are
never copied: a sentence that leaves is merely no longer looked at.

Shape letters: B sentences in the batch, W beams (1 at the first step), N = B·W, A sentences at the start, P positions,
T past positions, S source positions, D width, V vocabulary, C candidates.
"""

import ctypes
import functools
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnmt_ds.kernels import build
from mnmt_ds.models.layers import DecoderLayer
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.private_apis import has_onednn_linear, onednn_linear

SOURCE = Path(__file__).parent / "csrc" / "decode.cpp"
MAX_HEAD_WIDTH = 512
"""As in decode.cpp."""
LOG = logging.getLogger(__name__)
COMPACT_SHARE = 32
"""Finished sentences leave once they are one in this many; nothing is copied but a few numbers a sentence."""


class NativeLayerCache(NamedTuple):
    """Keys and values (side by side in the last axis) of one decoder layer."""

    self_APW2D: Tensor
    """By position and beam; positions to come are not initialised."""
    source_AS2D: Tensor


class NativeDecoderCache(NamedTuple):
    """All that the decoder keeps between two steps for the sentences of a batch."""

    layers: tuple[NativeLayerCache, ...]
    path_BWT: Tensor
    """int64, which beam of each past position a beam descends from."""
    row_B: Tensor
    """int64, where a sentence's rows stand in the caches."""
    length_A: Tensor
    """int64, tokens of each source."""
    steps: int
    """Positions decoded so far."""


def is_supported(model: Transformer) -> bool:
    """Returns whether this model can be decoded here: float32, on a CPU, with the C++ library (built now if need be).

    Args:
        model: the model.

    Returns:
        True where all functions of this file work.
    """
    weight = model.embedding.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not has_onednn_linear():
        return False
    head = model.settings.d_model // model.settings.heads
    if head > MAX_HEAD_WIDTH or head % 8:
        return False
    return _library() is not None


def start_cache(model: Transformer, source_AS: Tensor, beams: int, longest: int) -> NativeDecoderCache:
    """Encodes the sources and projects them, once a sentence, for every decoder layer.

    Args:
        model: the model, in eval mode.
        source_AS: int64, framed sources, PAD on the right.
        beams: W, beams a sentence.
        longest: positions that will be decoded at most.

    Returns:
        The cache before the first step, with room for all positions.
    """
    memory_ASD, mask_AS = model.encode(source_AS)
    batch, width = len(source_AS), memory_ASD.shape[2]
    layers = []
    for layer in model.decoder:
        assert isinstance(layer, DecoderLayer)
        self_APW2D = memory_ASD.new_empty(batch, longest, beams, 2 * width)
        layers.append(NativeLayerCache(self_APW2D, _linear(memory_ASD, layer.cross.kv)))
    path_BWT = torch.empty(batch, 1, 0, dtype=torch.long)
    return NativeDecoderCache(tuple(layers), path_BWT, torch.arange(batch), mask_AS.sum(1), 0)


def decode_step(model: Transformer, cache: NativeDecoderCache, token_BW: Tensor) -> tuple[Tensor, NativeDecoderCache]:
    """Runs the decoder on each beam's newest token.

    Args:
        model: the model, in eval mode.
        cache: the cache of all steps before.
        token_BW: int64, newest token of each beam.

    Returns:
        Decoder states (N, D), and the cache with the new keys and values.
    """
    library, threads = _library(), torch.get_num_threads()
    (batch, beams), heads = token_BW.shape, model.settings.heads
    x_ND = model.embedding(token_BW.reshape(-1, 1), cache.steps)[:, 0]
    width = x_ND.shape[1]
    mixed_ND = torch.empty_like(x_ND)
    path, rows = cache.path_BWT.data_ptr(), cache.row_B.data_ptr()
    for layer, (self_APW2D, source_AS2D) in zip(model.decoder, cache.layers, strict=True):
        assert isinstance(layer, DecoderLayer)
        qkv = _linear(_norm(x_ND, layer.attention_norm), layer.attention.qkv)
        library.self_attention(
            qkv.data_ptr(), self_APW2D.data_ptr(), path, rows, batch, beams, cache.steps, *self_APW2D.shape[1:3],
            heads, width, threads, mixed_ND.data_ptr(),
        )  # fmt: skip
        x_ND = _linear(mixed_ND, layer.attention.out, add=x_ND)
        q_ND = _linear(_norm(x_ND, layer.cross_norm), layer.cross.q)
        library.cross_attention(
            q_ND.data_ptr(), source_AS2D.data_ptr(), cache.length_A.data_ptr(), rows, batch, beams,
            source_AS2D.shape[1], heads, width, threads, mixed_ND.data_ptr(),
        )  # fmt: skip
        x_ND = _linear(mixed_ND, layer.cross.out, add=x_ND)
        inner = _linear(_norm(x_ND, layer.ffn_norm), layer.ffn.inner, relu=True)
        x_ND = _linear(inner, layer.ffn.outer, add=x_ND)
    return _norm(x_ND, model.decoder_norm), cache._replace(steps=cache.steps + 1)


def project(model: Transformer, hidden_ND: Tensor) -> Tensor:
    """Computes the logits of the next tokens.

    Args:
        model: the model; its output projection is used.
        hidden_ND: decoder states of the newest tokens.

    Returns:
        float32 (N, V).
    """
    return onednn_linear(hidden_ND, model.head.weight)


def top_continuations(
    logits_NV: Tensor, score_BW: Tensor, count: int, banned: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Picks the most probable continuations of each sentence over all its beams.

    Args:
        logits_NV: of the next tokens.
        score_BW: the beams' summed log-probabilities (nats).
        count: C, continuations wanted.
        banned: tokens that count in the normalisation but are not chosen.

    Returns:
        Summed log-probability (float32), beam and token (int64), each (B, C), best first.
    """
    (batch, beams), vocabulary = score_BW.shape, logits_NV.shape[1]
    count, score_BW, logits_NV = min(count, beams * vocabulary), score_BW.contiguous(), logits_NV.contiguous()
    value_BC = torch.empty(batch, count)
    beam_BC, word_BC = torch.empty(2, batch, count, dtype=torch.long)
    names = (ctypes.c_int64 * len(banned))(*banned)
    _library().best_words(
        logits_NV.data_ptr(), score_BW.data_ptr(), batch, beams, vocabulary, ctypes.addressof(names), len(banned),
        count, torch.get_num_threads(), value_BC.data_ptr(), beam_BC.data_ptr(), word_BC.data_ptr(),
    )  # fmt: skip
    return value_BC, beam_BC, word_BC


def reorder_beams(cache: NativeDecoderCache, parent_BW: Tensor) -> NativeDecoderCache:
    """Reorders the cache, so that each new beam continues from its parent beam.

    Args:
        cache: the cache of the parent beams.
        parent_BW: int64, parent beam of each new beam.

    Returns:
        The cache of the new beams.
    """
    past = cache.path_BWT.gather(1, parent_BW[:, :, None].expand(-1, -1, cache.path_BWT.shape[2]))
    return cache._replace(path_BWT=torch.cat([past, parent_BW[:, :, None]], 2))


def needs_compaction(cache: NativeDecoderCache) -> bool:
    """Returns False: all room for keys and values is allocated at the start.

    Args:
        cache: the cache after a step.

    Returns:
        False.
    """
    return False


def select_sentences(cache: NativeDecoderCache, row_B: Tensor) -> NativeDecoderCache:
    """Keeps some of the sentences; nothing of the caches is copied.

    Args:
        cache: the cache after a step.
        row_B: int64, rows of the sentences that stay.

    Returns:
        The cache of these sentences.
    """
    return cache._replace(path_BWT=cache.path_BWT[row_B], row_B=cache.row_B[row_B])


def _norm(x_ND: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x_ND, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _linear(x_ND: Tensor, module: nn.Linear, relu: bool = False, add: Tensor | None = None) -> Tensor:
    return onednn_linear(x_ND, module.weight, module.bias, relu, add)


@functools.cache
def _library() -> Any:
    """The compiled functions; None where there is no compiler, which is said once."""
    try:
        library = ctypes.CDLL(str(build.build(_recipe())))
    except (build.BuildError, OSError) as error:
        LOG.warning("decoding without its C++ part, which is slower: %s", error)
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    signatures = {
        "self_attention": [pointer] * 4 + [number] * 7 + [ctypes.c_int, pointer],
        "cross_attention": [pointer] * 4 + [number] * 5 + [ctypes.c_int, pointer],
        "best_words": [pointer] * 2 + [number] * 3 + [pointer] + [number] * 2 + [ctypes.c_int] + [pointer] * 3,
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library


def _recipe() -> build.LibraryRecipe:
    compile_, link = build.cpu_recipe().compile[0], build.cpu_recipe().link
    flags = [word for word in compile_[: compile_.index("-c")] if not word.startswith("-I")]
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    unit = (*flags, f"-DSOURCE_{digest}", "-c", str(SOURCE), "-o", "{out}/decode.o")
    objects = [word for word in link if not word.endswith(".o")]
    index = objects.index("-shared") + 1
    return build.LibraryRecipe("decode", (unit,), (*objects[:index], "{out}/decode.o", *objects[index:]))
