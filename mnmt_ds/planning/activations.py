"""Bytes that a forward pass keeps for its backward pass, and the workspace of the loss, from shapes alone.

Letters: B sentences, S source and T target positions (padded), D width, F feed-forward width, H heads, V vocabulary, J
teachers, K passes; e bytes of an element of the weights' type. Each formula lists what autograd saves of
models/layers.py, once for each storage; a test counts them in a real forward pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mnmt_ds.kernels import chunked, cpu
from mnmt_ds.models.layer_sequence import layer_entries
from mnmt_ds.models.settings import ModelSettings

WIDE = 4
"""Bytes of an element of the loss, which is computed in float32."""


class Shape(NamedTuple):
    """A micro-batch: B sentences of S source and T target positions, times K passes."""

    sentences: int
    source: int
    target: int

    @property
    def source_tokens(self) -> int:
        return self.sentences * self.source

    @property
    def target_tokens(self) -> int:
        return self.sentences * self.target


def mask_bytes(probability: float, e: int, on_cpu: bool) -> int:
    """An element's part in a dropout mask: of the weights' type on a CPU (models/dropout.py), a byte on a GPU."""
    return 0 if probability == 0 else e if on_cpu else 1


def attention_bytes(m: ModelSettings, b: int, queries: int, keys: int, e: int, on_cpu: bool) -> int:
    """What scaled dot-product attention keeps besides queries, keys, values and its output.

    Flash: a float32 log-sum a row. With dropout on a CPU, torch falls back to the definition and keeps the
    probabilities before and after dropout and the mask: 3 B H T S.
    """
    if m.attention_dropout and on_cpu:
        return 3 * b * m.heads * queries * keys * e
    return WIDE * b * m.heads * queries


def encoder_layer(m: ModelSettings, x: Shape, e: int, on_cpu: bool) -> int:
    """Of a source position: two residual inputs and two normed ones (4 D), q, k, v (3 D), the attention's output (D),
    the ReLU's (F), means and deviations of two norms, and dropout's masks of two sub-layers and of the ReLU."""
    d, drop = m.d_model, mask_bytes(m.dropout, e, on_cpu)
    position = 8 * d * e + m.ffn * e + 2 * 2 * WIDE + 2 * d * drop
    position += m.ffn * (mask_bytes(m.activation_dropout, e, on_cpu) + (e if m.activation_dropout else 0))
    return x.source_tokens * position + attention_bytes(m, x.sentences, x.source, x.source, e, on_cpu)


def decoder_layer(m: ModelSettings, x: Shape, e: int, on_cpu: bool) -> int:
    """Of a target position: three residual inputs and three normed ones (6 D), q, k, v (3 D), the query to the encoder
    (D), two attentions' outputs (2 D), the ReLU's (F), three norms' statistics, masks of three sub-layers and of the
    ReLU; of a source position: keys and values of the encoder's states (2 D)."""
    d, drop = m.d_model, mask_bytes(m.dropout, e, on_cpu)
    position = 12 * d * e + m.ffn * e + 3 * 2 * WIDE + 3 * d * drop
    position += m.ffn * (mask_bytes(m.activation_dropout, e, on_cpu) + (e if m.activation_dropout else 0))
    own = attention_bytes(m, x.sentences, x.target, x.target, e, on_cpu)
    cross = attention_bytes(m, x.sentences, x.target, x.source, e, on_cpu)
    return x.target_tokens * position + x.source_tokens * 2 * d * e + own + cross


def embedding(m: ModelSettings, tokens: int, e: int, on_cpu: bool) -> int:
    """Of one side: token numbers (int64) and dropout's mask."""
    return tokens * (8 + m.d_model * mask_bytes(m.dropout, e, on_cpu))


def final_norm(m: ModelSettings, tokens: int, e: int) -> int:
    """Input, output and statistics of the norm after the last encoder or decoder layer."""
    return tokens * (2 * m.d_model * e + 2 * WIDE)


def forward(
    m: ModelSettings, x: Shape, e: int, on_cpu: bool, passes: int = 1, kinds: Sequence[str] | None = None
) -> int:
    """Bytes alive at the end of a forward pass, K passes at once, along places of these ``kinds`` (None: all of them;
    see models/layer_sequence.py).

    With activation checkpointing a layer keeps its inputs alone, and one layer at a time is whole again in the
    backward pass.
    """
    x = x._replace(sentences=passes * x.sentences)
    encoder, decoder = encoder_layer(m, x, e, on_cpu), decoder_layer(m, x, e, on_cpu)
    whole = {"encoder": encoder, "decoder": decoder}
    kept = whole | {
        "source": embedding(m, x.source_tokens, e, on_cpu),
        "encoder_norm": final_norm(m, x.source_tokens, e),
        "target": embedding(m, x.target_tokens, e, on_cpu),
        "decoder_norm": final_norm(m, x.target_tokens, e),
    }
    if m.activation_checkpointing:
        kept |= {"encoder": x.source_tokens * m.d_model * e, "decoder": x.target_tokens * m.d_model * e}
    found = [part.kind for part in layer_entries(m, 1)] if kinds is None else kinds
    again = max((whole.get(kind, 0) for kind in found), default=0) if m.activation_checkpointing else 0
    return again + sum(kept.get(kind, 0) for kind in found)


def loss(m: ModelSettings, x: Shape, vocabulary: int, teachers: int, passes: int, on_cpu: bool) -> int:
    """Workspace of the fused loss: the logits of a chunk for each pass and teacher, and the gradients of hidden states
    and projection, which live until the backward pass has used them.

    A chunk holds what the implementation's budget allows (kernels/cpu.py and chunked.py).
    """
    planes = passes + teachers
    if on_cpu:
        chunk = max(32, min(cpu.BUDGET // (WIDE * vocabulary * planes), 2048) // 32 * 32)
    else:
        chunk = max(1, chunked.BUDGET["cuda"] // (WIDE * vocabulary * planes))
    logits = min(x.target_tokens, chunk) * vocabulary * planes * WIDE
    return logits + loss_gradients(m, x, vocabulary, passes)


def loss_over_shards(m: ModelSettings, x: Shape, words: int, teachers: int, passes: int, e: int, on_cpu: bool) -> int:
    """The same where each rank has its own ``words`` (kernels/vocab_parallel.py). A chunk's logits, their logarithms,
    probabilities and gradient stand at once, and one sum of two of them (with teachers two), beside each teacher's
    probabilities; 16-bit projections are widened."""
    budget = chunked.BUDGET["cpu" if on_cpu else "cuda"]
    chunk = max(1, budget // (WIDE * words * (passes + teachers)))
    planes = 6 * passes + teachers if teachers else 5 * passes
    widened = 0 if e == WIDE else (1 + teachers) * words * m.d_model * WIDE
    logits = min(x.target_tokens, chunk) * words * planes * WIDE
    return logits + widened + loss_gradients(m, x, words, passes)


def loss_gradients(m: ModelSettings, x: Shape, words: int, passes: int) -> int:
    """Of hidden states and projection, made with the loss."""
    return (passes * x.target_tokens + words) * m.d_model * WIDE
