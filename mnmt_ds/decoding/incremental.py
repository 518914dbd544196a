"""One decoding step of the Transformer for all beams, over caches that are never reordered.

The keys and values of every beam of a sentence stand side by side in its slots, in the order in which they were
computed. A mask per beam, gathered along with the beam's parent, says which slots are its ancestors; so a step moves
a few kilobytes where reordering moves the whole cache. The encoder's keys and values exist once a sentence: its
beams are query positions of one attention.

Shape letters: B sentences, W beams (1 at the first step), N = B·W, S source positions, P slots, D width, H heads,
Q = D / H.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mnmt_ds.models.layers import CrossAttention, DecoderLayer, SelfAttention
from mnmt_ds.models.transformer import Transformer

COMPACT_EVERY = 16
"""Steps between two calls of ``select_sentences``, at most: there is room for so many."""
COMPACT_SHARE = 8
"""Finished sentences leave once they are one in this many: each departure copies the cache once."""
FOLD_COLUMNS = 512
"""Columns that candidates are folded to before the largest are looked for."""


class LayerCache(NamedTuple):
    """Keys and values of one decoder layer; slots beyond those in use are not initialised."""

    keys_BHPQ: Tensor
    values_BHPQ: Tensor
    source_keys_BHQS: Tensor
    source_values_BHSQ: Tensor


class DecoderCache(NamedTuple):
    """All that the decoder keeps between two steps for the sentences of a batch."""

    layers: tuple[LayerCache, ...]
    ancestors_BWP: Tensor
    """Added to attention scores: 0 where a slot in use belongs to the beam's own past, else -inf."""
    source_mask_B11S: Tensor
    """Added to attention scores: 0 where a source token stands, -inf on padding."""
    steps: int
    """Positions decoded so far."""


def start_cache(model: Transformer, source_BS: Tensor, beams: int, longest: int) -> DecoderCache:
    """Encodes the sources and projects them, once a sentence, for every decoder layer.

    Args:
        model: the model, in eval mode.
        source_BS: int64, framed sources, PAD on the right.
        beams: W, beams a sentence.
        longest: positions that will be decoded at most.

    Returns:
        The cache before the first step.
    """
    memory_BSD, mask_BS = model.encode(source_BS)
    head_width = model.settings.d_model // model.settings.heads
    size = (len(source_BS), model.settings.heads, min(COMPACT_EVERY, longest) * beams, head_width)
    layers = []
    for layer in model.decoder:
        assert isinstance(layer, DecoderLayer)
        keys_BHSQ, values_BHSQ = layer.cross.project_memory(memory_BSD)
        keys_BHQS = (keys_BHSQ * head_width**-0.5).transpose(2, 3).contiguous()
        keys_values_2BHPQ = memory_BSD.new_empty(2, *size)
        layers.append(LayerCache(keys_values_2BHPQ[0], keys_values_2BHPQ[1], keys_BHQS, values_BHSQ.contiguous()))
    mask_B11S = torch.zeros_like(mask_BS, dtype=memory_BSD.dtype).masked_fill_(~mask_BS, -torch.inf)[:, None, None]
    return DecoderCache(tuple(layers), memory_BSD.new_zeros(len(source_BS), 1, 0), mask_B11S, 0)


def decode_step(model: Transformer, cache: DecoderCache, token_BW: Tensor) -> tuple[Tensor, DecoderCache]:
    """Runs the decoder on each beam's newest token.

    Args:
        model: the model, in eval mode.
        cache: the cache of all steps before.
        token_BW: int64, newest token of each beam.

    Returns:
        Decoder states (N, D), and the cache with the new keys and values.
    """
    batch, beams = token_BW.shape
    slots = cache.ancestors_BWP.shape[2]
    self_WW = cache.ancestors_BWP.new_full((beams, beams), -torch.inf).fill_diagonal_(0)
    ancestors_BWP = torch.cat([cache.ancestors_BWP, self_WW.expand(batch, -1, -1)], 2)
    x_ND = model.embedding(token_BW.reshape(-1, 1), cache.steps)[:, 0]
    for layer, layer_cache in zip(model.decoder, cache.layers, strict=True):
        assert isinstance(layer, DecoderLayer)
        x_ND = x_ND + _self_attention(layer.attention, layer.attention_norm(x_ND), layer_cache, ancestors_BWP, slots)
        x_ND = x_ND + _cross_attention(layer.cross, layer.cross_norm(x_ND), layer_cache, cache.source_mask_B11S)
        x_ND = x_ND + layer.ffn(layer.ffn_norm(x_ND))
    return model.decoder_norm(x_ND), cache._replace(ancestors_BWP=ancestors_BWP, steps=cache.steps + 1)


def project(model: Transformer, hidden_ND: Tensor) -> Tensor:
    """Computes the logits of the next tokens.

    Args:
        model: the model; its output projection is used.
        hidden_ND: decoder states of the newest tokens.

    Returns:
        float32 (N, V).
    """
    return F.linear(hidden_ND, model.head.weight).float()


def top_continuations(
    logits_NV: Tensor, score_BW: Tensor, count: int, banned: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Picks the most probable continuations of each sentence over all its beams.

    Args:
        logits_NV: of the next tokens; they are overwritten.
        score_BW: the beams' summed log-probabilities (nats).
        count: C, continuations wanted.
        banned: tokens that count in the normalisation but are not chosen.

    Returns:
        Summed log-probability (float32), beam and token (int64), each (B, C), best first.
    """
    log_prob_NV = torch.log_softmax(logits_NV, -1, out=logits_NV)
    log_prob_NV[:, list(banned)] = -torch.inf
    batch, vocabulary = len(score_BW), logits_NV.shape[1]
    total_BX = log_prob_NV.view(batch, -1, vocabulary).add_(score_BW[:, :, None]).view(batch, -1)
    score_BC, index_BC = folded_topk(total_BX, min(count, total_BX.shape[1]))
    beam_BC = index_BC.div(vocabulary, rounding_mode="floor")
    return score_BC, beam_BC, index_BC - beam_BC * vocabulary


def folded_topk(value_BX: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Computes ``topk`` of long rows several times as fast as torch.

    The ``count`` largest values stand in the ``count`` columns with the largest maxima of a row that is folded to
    ``FOLD_COLUMNS`` columns; what does not fill a fold is searched whole.

    Args:
        value_BX: rows of X values.
        count: values wanted of each row.

    Returns:
        Values and their int64 columns, each (B, count), largest first.
    """
    folds, columns = value_BX.shape[1] // FOLD_COLUMNS, min(count, FOLD_COLUMNS)
    if folds < 4:
        return value_BX.topk(count)
    folded_BFX = value_BX[:, : folds * FOLD_COLUMNS].view(-1, folds, FOLD_COLUMNS)
    column_BC = folded_BFX.amax(1).topk(columns, sorted=False)[1]
    inside_BFC = folded_BFX.gather(2, column_BC[:, None].expand(-1, folds, -1))
    place_BFC = torch.arange(folds, device=value_BX.device)[:, None] * FOLD_COLUMNS + column_BC[:, None]
    rest_R = torch.arange(folds * FOLD_COLUMNS, value_BX.shape[1], device=value_BX.device)
    best, index = torch.cat([inside_BFC.flatten(1), value_BX[:, folds * FOLD_COLUMNS :]], 1).topk(count)
    column_BX = torch.cat([place_BFC.flatten(1), rest_R.expand(len(value_BX), -1)], 1)
    return best, column_BX.gather(1, index)


def reorder_beams(cache: DecoderCache, parent_BW: Tensor) -> DecoderCache:
    """Reorders the cache, so that each new beam continues from its parent beam.

    Args:
        cache: the cache of the parent beams.
        parent_BW: int64, parent beam of each new beam.

    Returns:
        The cache of the new beams.
    """
    index = parent_BW[:, :, None].expand(-1, -1, cache.ancestors_BWP.shape[2])
    return cache._replace(ancestors_BWP=cache.ancestors_BWP.gather(1, index))


def needs_compaction(cache: DecoderCache) -> bool:
    """Returns whether ``select_sentences`` must be called to make room for new keys and values.

    Args:
        cache: the cache after a step.

    Returns:
        True every ``COMPACT_EVERY`` steps.
    """
    return cache.steps % COMPACT_EVERY == 0


def select_sentences(cache: DecoderCache, row_B: Tensor) -> DecoderCache:
    """Keeps some of the sentences, drops slots that no beam descends from, and makes room for new ones.

    Args:
        cache: the cache after a step.
        row_B: int64, rows of the sentences that stay.

    Returns:
        The cache of these sentences.
    """
    ancestors_BWP = cache.ancestors_BWP[row_B]
    alive_BP = (ancestors_BWP == 0).any(1)
    slots = int(alive_BP.sum(1).max()) if len(row_B) else 0
    slot_BP = alive_BP.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :slots]
    heads, size = cache.layers[0].keys_BHPQ.shape[1:3]
    head_BH = row_B[:, None] * heads + torch.arange(heads, device=row_B.device)
    row_index = (head_BH[:, :, None] * size + slot_BP[:, None]).flatten()
    room = COMPACT_EVERY * ancestors_BWP.shape[1]
    layers = tuple(
        LayerCache(
            _pick(layer.keys_BHPQ, row_index, len(row_B), slots, room),
            _pick(layer.values_BHPQ, row_index, len(row_B), slots, room),
            layer.source_keys_BHQS[row_B],
            layer.source_values_BHSQ[row_B],
        )
        for layer in cache.layers
    )
    ancestors_BWP = ancestors_BWP.gather(2, slot_BP[:, None].expand(-1, ancestors_BWP.shape[1], -1))
    return DecoderCache(layers, ancestors_BWP, cache.source_mask_B11S[row_B], cache.steps)


def _pick(full_BHPQ: Tensor, row_index: Tensor, batch: int, slots: int, room: int) -> Tensor:
    heads, width = full_BHPQ.shape[1], full_BHPQ.shape[3]
    result = full_BHPQ.new_empty(batch, heads, slots + room, width)
    result[:, :, :slots] = full_BHPQ.view(-1, width)[row_index].view(batch, heads, slots, width)
    return result


def _self_attention(
    attention: SelfAttention, x_ND: Tensor, cache: LayerCache, ancestors_BWP: Tensor, slots: int
) -> Tensor:
    """Writes the new keys and values into their slots and attends to the beam's ancestors."""
    batch, beams, used = ancestors_BWP.shape
    q_BHWQ, k_BHWQ, v_BHWQ = (
        attention.qkv(x_ND).view(batch, beams, 3, attention.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    )
    cache.keys_BHPQ[:, :, slots:used] = k_BHWQ
    cache.values_BHPQ[:, :, slots:used] = v_BHWQ
    score_BHWP = torch.matmul(q_BHWQ * q_BHWQ.shape[-1] ** -0.5, cache.keys_BHPQ[:, :, :used].transpose(2, 3))
    return attention.out(_mix(score_BHWP, ancestors_BWP[:, None], cache.values_BHPQ[:, :, :used]))


def _cross_attention(attention: CrossAttention, x_ND: Tensor, cache: LayerCache, mask_B11S: Tensor) -> Tensor:
    batch, heads, width, _ = cache.source_keys_BHQS.shape
    q_BHWQ = attention.q(x_ND).view(batch, -1, heads, width).transpose(1, 2)
    score_BHWS = torch.matmul(q_BHWQ, cache.source_keys_BHQS)
    return attention.out(_mix(score_BHWS, mask_B11S, cache.source_values_BHSQ))


def _mix(score_BHWP: Tensor, mask: Tensor, values_BHPQ: Tensor) -> Tensor:
    """Attention's weighted mean of the values, heads merged: (N, D)."""
    mixed_BHWQ = torch.matmul(F.softmax(score_BHWP.add_(mask), -1), values_BHPQ)
    return mixed_BHWQ.transpose(1, 2).flatten(2).flatten(0, 1)
