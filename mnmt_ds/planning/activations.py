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

FP32_BYTES = 4
"""Bytes of an element of the loss, which is computed in float32."""


class BatchShape(NamedTuple):
    """A micro-batch: B sentences of S source and T target positions, times K passes."""

    sentences: int
    """B."""
    source: int
    """S."""
    target: int
    """T."""

    @property
    def source_tokens(self) -> int:
        """Padded source positions of all sentences: B S."""
        return self.sentences * self.source

    @property
    def target_tokens(self) -> int:
        """Padded target positions of all sentences: B T."""
        return self.sentences * self.target


def mask_bytes(probability: float, on_cpu: bool) -> int:
    """Counts the bytes of one element of a dropout mask.

    Args:
        probability: of dropout.
        on_cpu: on a CPU a mask is 16 random bits, or a number of a 16-bit type (models/dropout.py), on a GPU a byte.

    Returns:
        Bytes; 0 without dropout.
    """
    return 0 if probability == 0 else 2 if on_cpu else 1


def attention_bytes(m: ModelSettings, sentences: int, queries: int, keys: int, e: int, on_cpu: bool) -> int:
    """Counts the bytes that attention keeps for the backward pass besides queries, keys, values and its output.

    Flash: a float32 log-sum a row. With dropout on a CPU, torch falls back to the definition and keeps the
    probabilities before and after dropout and the mask: 3 B H T S.

    Args:
        m: the model.
        sentences: B.
        queries: query positions of a sentence.
        keys: key positions of a sentence.
        e: bytes of an element of the weights' type.
        on_cpu: whether it runs on a CPU.

    Returns:
        Bytes of one attention.
    """
    if m.attention_dropout and on_cpu:
        return 3 * sentences * m.heads * queries * keys * e
    return FP32_BYTES * sentences * m.heads * queries


def encoder_layer_bytes(m: ModelSettings, x: BatchShape, e: int, on_cpu: bool) -> int:
    """Counts the bytes that an encoder layer keeps for the backward pass.

    Of a source position: two residual inputs and two normed ones (4 D), q, k, v (3 D), the attention's output (D),
    the ReLU's (F), means and deviations of two norms, and dropout's masks of two sub-layers and of the ReLU.

    Args:
        m: the model.
        x: the micro-batch.
        e: bytes of an element of the weights' type.
        on_cpu: whether it runs on a CPU.

    Returns:
        Bytes of one layer.
    """
    d, drop = m.d_model, mask_bytes(m.dropout, on_cpu)
    position = 8 * d * e + m.ffn * e + 2 * 2 * FP32_BYTES + 2 * d * drop
    position += m.ffn * (mask_bytes(m.activation_dropout, on_cpu) + (e if m.activation_dropout else 0))
    return x.source_tokens * position + attention_bytes(m, x.sentences, x.source, x.source, e, on_cpu)


def decoder_layer_bytes(m: ModelSettings, x: BatchShape, e: int, on_cpu: bool) -> int:
    """Counts the bytes that a decoder layer keeps for the backward pass.

    Of a target position: three residual inputs and three normed ones (6 D), q, k, v (3 D), the query to the encoder
    (D), two attentions' outputs (2 D), the ReLU's (F), three norms' statistics, masks of three sub-layers and of the
    ReLU; of a source position: keys and values of the encoder's states (2 D).

    Args:
        m: the model.
        x: the micro-batch.
        e: bytes of an element of the weights' type.
        on_cpu: whether it runs on a CPU.

    Returns:
        Bytes of one layer.
    """
    d, drop = m.d_model, mask_bytes(m.dropout, on_cpu)
    position = 12 * d * e + m.ffn * e + 3 * 2 * FP32_BYTES + 3 * d * drop
    position += m.ffn * (mask_bytes(m.activation_dropout, on_cpu) + (e if m.activation_dropout else 0))
    self_attention = attention_bytes(m, x.sentences, x.target, x.target, e, on_cpu)
    cross_attention = attention_bytes(m, x.sentences, x.target, x.source, e, on_cpu)
    return x.target_tokens * position + x.source_tokens * 2 * d * e + self_attention + cross_attention


def embedding_bytes(m: ModelSettings, tokens: int, on_cpu: bool) -> int:
    """Counts the bytes that an embedding keeps: token numbers (int64) and dropout's mask.

    Args:
        m: the model.
        tokens: padded positions of one side.
        on_cpu: whether it runs on a CPU.

    Returns:
        Bytes of one side.
    """
    return tokens * (8 + m.d_model * mask_bytes(m.dropout, on_cpu))


def final_norm_bytes(m: ModelSettings, tokens: int, e: int) -> int:
    """Counts the bytes that the last layer's norm keeps: input, output and statistics.

    Args:
        m: the model.
        tokens: padded positions of one side.
        e: bytes of an element of the weights' type.

    Returns:
        Bytes of one norm.
    """
    return tokens * (2 * m.d_model * e + 2 * FP32_BYTES)


def forward_bytes(
    m: ModelSettings, x: BatchShape, e: int, on_cpu: bool, passes: int = 1, kinds: Sequence[str] | None = None
) -> int:
    """Counts the bytes that are alive at the end of a forward pass.

    With activation checkpointing a layer keeps its inputs alone, and one layer at a time is whole again in the
    backward pass.

    Args:
        m: the model.
        x: the micro-batch.
        e: bytes of an element of the weights' type.
        on_cpu: whether it runs on a CPU.
        passes: K passes at once.
        kinds: kinds of the entries of the model's layer sequence (models/layer_sequence.py) that are run; None: all.

    Returns:
        Bytes of all of them.
    """
    x = x._replace(sentences=passes * x.sentences)
    layers = {"encoder": encoder_layer_bytes(m, x, e, on_cpu), "decoder": decoder_layer_bytes(m, x, e, on_cpu)}
    kept_by_kind = layers | {
        "source": embedding_bytes(m, x.source_tokens, on_cpu),
        "encoder_norm": final_norm_bytes(m, x.source_tokens, e),
        "target": embedding_bytes(m, x.target_tokens, on_cpu),
        "decoder_norm": final_norm_bytes(m, x.target_tokens, e),
    }
    if m.activation_checkpointing:
        kept_by_kind |= {"encoder": x.source_tokens * m.d_model * e, "decoder": x.target_tokens * m.d_model * e}
    run_kinds = [entry.kind for entry in layer_entries(m, 1)] if kinds is None else kinds
    recomputed = max((layers.get(kind, 0) for kind in run_kinds), default=0) if m.activation_checkpointing else 0
    return recomputed + sum(kept_by_kind.get(kind, 0) for kind in run_kinds)


def loss_bytes(m: ModelSettings, x: BatchShape, vocabulary: int, teachers: int, passes: int, on_cpu: bool) -> int:
    """Counts the workspace of the fused loss: the logits of a chunk for each pass and teacher, and the gradients of
    hidden states and projection, which live until the backward pass has used them.

    A chunk holds what the implementation's budget allows (kernels/cpu.py and chunked.py).

    Args:
        m: the model.
        x: the micro-batch.
        vocabulary: V.
        teachers: J teachers and peers of a batch.
        passes: K.
        on_cpu: whether it runs on a CPU.

    Returns:
        Bytes.
    """
    planes = passes + teachers
    if on_cpu:
        chunk = cpu.tokens_of_budget(vocabulary, planes)
    else:
        chunk = max(1, chunked.BUDGET["cuda"] // (FP32_BYTES * vocabulary * planes))
    logits = min(x.target_tokens, chunk) * vocabulary * planes * FP32_BYTES
    return logits + loss_gradient_bytes(m, x, vocabulary, passes)


def vocab_parallel_loss_bytes(
    m: ModelSettings, x: BatchShape, rank_vocabulary: int, teachers: int, passes: int, e: int, on_cpu: bool
) -> int:
    """Counts the workspace of the loss where ranks share the vocabulary (kernels/vocab_parallel.py).

    A chunk's logits, their logarithms, probabilities and gradient stand at once, and one sum of two of them (with
    teachers two), beside each teacher's probabilities; 16-bit projections are widened.

    Args:
        m: the model.
        x: the micro-batch.
        rank_vocabulary: words of this rank.
        teachers: J teachers of a batch.
        passes: K.
        e: bytes of an element of the weights' type.
        on_cpu: whether it runs on a CPU.

    Returns:
        Bytes.
    """
    budget = chunked.BUDGET["cpu" if on_cpu else "cuda"]
    chunk = max(1, budget // (FP32_BYTES * rank_vocabulary * (passes + teachers)))
    planes = 6 * passes + teachers if teachers else 5 * passes
    widened = 0 if e == FP32_BYTES else (1 + teachers) * rank_vocabulary * m.d_model * FP32_BYTES
    logits = min(x.target_tokens, chunk) * rank_vocabulary * planes * FP32_BYTES
    return logits + widened + loss_gradient_bytes(m, x, rank_vocabulary, passes)


def loss_gradient_bytes(m: ModelSettings, x: BatchShape, vocabulary: int, passes: int) -> int:
    """Counts the gradients of hidden states and projection, which are made with the loss.

    Args:
        m: the model.
        x: the micro-batch.
        vocabulary: words of this rank.
        passes: K.

    Returns:
        Bytes.
    """
    return (passes * x.target_tokens + vocabulary) * m.d_model * FP32_BYTES
