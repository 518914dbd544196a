"""Other implementations of the loss, brought to one signature; each computes what ours computes, or says why it cannot.

Letters: N tokens, D width, V vocabulary, C tokens of a chunk, K passes, X either N or C, 1 one column.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mnmt_ds.kernels import cuda, triton_loss
from mnmt_ds.kernels.ce_with_teacher import Teacher, ce_with_teacher


class Inputs(NamedTuple):
    """Inputs of one problem: CE alone (weight 0), CE + weight * KD, or CE + X-divergence of two passes."""

    hidden_ND: Tensor
    """Decoder states, differentiable; of all passes, one pass after another."""
    projection_VD: Tensor
    """Output projection, differentiable."""
    target_N: Tensor
    """int64, gold tokens."""
    teacher_ND: Tensor
    """The teacher's decoder states."""
    teacher_VD: Tensor
    """The teacher's output projection."""
    weight: float
    """Weight of the distillation; 0: no teacher."""
    smoothing: float
    """Label smoothing of the cross-entropy."""
    passes: int = 1
    """K; above 1 the passes' X-divergence is added."""


class Unsupported(Exception):
    """Raised where an implementation does not do a task on this machine; the message says why."""


Loss = Callable[[Inputs], Tensor]


def make_inputs(
    tokens: int, width: int, vocabulary: int, weight: float, smoothing: float, passes: int, device: str, dtype: str
) -> Inputs:
    """Draws inputs whose logits have a standard deviation of about one.

    Args:
        tokens: N.
        width: D.
        vocabulary: V.
        weight: of the distillation; 0: no teacher.
        smoothing: label smoothing.
        passes: K.
        device: cpu or cuda.
        dtype: name of torch's type.

    Returns:
        The inputs; the same in every process.
    """
    generator = torch.Generator(device).manual_seed(0)
    torch_dtype: torch.dtype = getattr(torch, dtype)

    def normal(rows: int, scale: float) -> Tensor:
        return (torch.randn(rows, width, generator=generator, device=device) * scale).to(torch_dtype)

    target_N = torch.randint(2, vocabulary, (tokens,), generator=generator, device=device)
    teacher = (normal(tokens if weight else 1, 1.0), normal(vocabulary if weight else 1, width**-0.5))
    hidden_ND, projection_VD = (
        normal(passes * tokens, 1.0).requires_grad_(),
        normal(vocabulary, width**-0.5).requires_grad_(),
    )
    return Inputs(hidden_ND, projection_VD, target_N, *teacher, weight, smoothing, passes)


def ours(x: Inputs, implementation: str = "auto") -> Tensor:
    """Computes our fused loss, on sentences of 32 tokens where N is a multiple of 32.

    Args:
        x: the problem.
        implementation: auto, reference, chunked, cpu, cuda or triton.

    Returns:
        The loss, ().
    """
    sentence_length = 32 if len(x.target_N) % 32 == 0 else len(x.target_N)

    def split(flat: Tensor) -> Tensor:
        return flat.unflatten(0, (-1, sentence_length))  # type: ignore[no-any-return, no-untyped-call]

    teachers = [Teacher(split(x.teacher_ND), x.teacher_VD, x.weight)] if x.weight else []
    return ce_with_teacher(
        split(x.hidden_ND), x.projection_VD, split(x.target_N), teachers, smoothing=x.smoothing,
        implementation=implementation, passes=x.passes, divergence_weight=1.0 if x.passes > 1 else 0.0,
    ).loss  # fmt: skip


def ours_by_triton(x: Inputs) -> Tensor:
    """Computes our fused loss by the Triton kernels.

    Args:
        x: the problem.

    Returns:
        The loss, ().

    Raises:
        Unsupported: where they cannot run, or would leave the problem to other kernels.
    """
    if not x.hidden_ND.is_cuda or x.passes > 1 or x.projection_VD.dtype not in triton_loss.DTYPES:
        raise Unsupported("one pass in bfloat16 or float16 on a GPU alone")
    if reason := triton_loss.why_unavailable():
        raise Unsupported(reason)
    return ours(x, "triton")


def ours_with_bulk_copies(x: Inputs) -> Tensor:
    """Computes our fused loss by the CUDA kernels, whose rows come into shared memory by bulk copies.

    Args:
        x: the problem.

    Returns:
        The loss, ().

    Raises:
        Unsupported: where there are none.
    """
    if not x.hidden_ND.is_cuda or torch.cuda.get_device_capability(x.hidden_ND.device)[0] < 9:
        raise Unsupported("bulk copies want a GPU of compute capability 9.0")
    cuda.HAS_BULK_COPIES = True
    try:
        return ours(x, "cuda")
    finally:
        cuda.HAS_BULK_COPIES = False


def ours_without_divergence(x: Inputs) -> Tensor:
    """Computes the cross-entropy of all passes alone: what the divergence is compared with.

    Args:
        x: the problem.

    Returns:
        The loss, ().

    Raises:
        Unsupported: when there is one pass.
    """
    if x.passes == 1:
        raise Unsupported("compared with the divergence only")
    return ours(x._replace(passes=1, target_N=x.target_N.repeat(x.passes)))


def eager(x: Inputs) -> Tensor:
    """Computes the loss from whole logits and probabilities, as most trainers write it.

    Args:
        x: the problem.

    Returns:
        The loss, ().
    """
    if x.passes > 1:
        return _plain_divergence(x)
    return _plain(x.hidden_ND, x.projection_VD, x.target_N, x.teacher_ND, x.teacher_VD, x.weight, x.smoothing)


def compiled_chunks(x: Inputs) -> Tensor:
    """Computes the loss by torch.compile, 512 tokens at a time, logits recomputed in the backward.

    Args:
        x: the problem.

    Returns:
        The loss, ().
    """
    from torch.utils.checkpoint import checkpoint

    total = x.hidden_ND.new_zeros((), dtype=torch.float32)
    for i in range(0, len(x.target_N), 512):
        cut = slice(i, i + 512)
        teacher_CD = x.teacher_ND[cut] if x.weight else x.teacher_ND
        arguments = (
            x.hidden_ND[cut],
            x.projection_VD,
            x.target_N[cut],
            teacher_CD,
            x.teacher_VD,
            x.weight,
            x.smoothing,
        )
        total = total + checkpoint(_compiled, *arguments, use_reentrant=False)
    return total


def compiled_whole(x: Inputs) -> Tensor:
    """Computes the loss by torch.compile over all tokens at once, logits held whole.

    Args:
        x: the problem.

    Returns:
        The loss, ().
    """
    arguments = (x.hidden_ND, x.projection_VD, x.target_N, x.teacher_ND, x.teacher_VD, x.weight, x.smoothing)
    return _compiled(*arguments)


def linear_cross_entropy(x: Inputs) -> Tensor:
    """Computes the loss by torch 2.13's F.linear_cross_entropy; KD takes the whole teacher distribution.

    Args:
        x: the problem.

    Returns:
        The loss, ().

    Raises:
        Unsupported: when torch is older than 2.13.
    """
    function = getattr(F, "linear_cross_entropy", None)
    if function is None:
        raise Unsupported("needs torch 2.13")
    if not x.weight:
        options = None if x.smoothing else torch.nn.LinearCrossEntropyOptions()
        return function(  # type: ignore[no-any-return]
            x.hidden_ND, x.projection_VD, x.target_N, reduction="sum", label_smoothing=x.smoothing, options=options
        )
    with torch.no_grad():
        soft_NV = (
            F.linear(x.teacher_ND, x.teacher_VD).softmax(-1).mul_(x.weight).add_(x.smoothing / x.projection_VD.shape[0])
        )
        gold_N1 = torch.full_like(soft_NV[:, :1], 1 - x.smoothing)
        soft_NV.scatter_add_(1, x.target_N.unsqueeze(1), gold_N1)
    return function(x.hidden_ND, x.projection_VD, soft_NV, reduction="sum")  # type: ignore[no-any-return]


def liger(x: Inputs) -> Tensor:
    """Computes CE + KL divergence by liger-kernel's chunked distillation loss; the teacher's entropy is not added.

    Args:
        x: the problem.

    Returns:
        The loss, ().

    Raises:
        Unsupported: when there is label smoothing or no teacher, or the package is missing.
    """
    if x.smoothing or not x.weight:
        raise Unsupported("its chunked loss knows no label smoothing, and no CE without a teacher on a CPU")
    try:
        from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction
    except ImportError as error:
        raise Unsupported(str(error)) from None
    loss = LigerFusedLinearJSDFunction.apply(
        x.hidden_ND, x.projection_VD, x.teacher_ND, x.teacher_VD, x.target_N, None, None, 1.0, x.weight, 0.0, -100, 1.0,
        x.hidden_ND.is_cuda, 1024,
    )  # fmt: skip
    return loss * len(x.target_N)  # it divides by the tokens


def liger_cross_entropy(x: Inputs) -> Tensor:
    """Computes CE alone by liger-kernel's fused linear cross-entropy, in Triton.

    Args:
        x: the problem.

    Returns:
        The loss, ().

    Raises:
        Unsupported: when there is a teacher, no GPU, or the package is missing.
    """
    if x.weight or not x.hidden_ND.is_cuda:
        raise Unsupported("CE without a teacher, on a GPU")
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Function
    except ImportError as error:
        raise Unsupported(str(error)) from None
    result = Function.apply(x.hidden_ND, x.projection_VD, x.target_N, None, None, -100, 0.0, x.smoothing, "sum")
    return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]


def quack(x: Inputs) -> Tensor:
    """Computes CE alone, without smoothing, by QuACK's chunked linear cross-entropy, in CuTe.

    Args:
        x: the problem.

    Returns:
        The loss, ().

    Raises:
        Unsupported: when there is label smoothing or a teacher, no GPU, or the package is missing.
    """
    if x.smoothing or x.weight or not x.hidden_ND.is_cuda:
        raise Unsupported("CE without smoothing and teacher, on a GPU")
    try:
        from quack.linear_cross_entropy import chunked_linear_cross_entropy as function
    except ImportError as error:
        raise Unsupported(str(error)) from None
    return function(x.hidden_ND, x.projection_VD, x.target_N, chunk_size=4096, reduction="sum")  # type: ignore[no-any-return]


def cut_cross_entropy(x: Inputs, exact: bool = True) -> Tensor:
    """Computes CE alone, without smoothing, by cut-cross-entropy.

    Args:
        x: the problem.
        exact: without its filter, which on a GPU drops small gradients.

    Returns:
        The loss, ().

    Raises:
        Unsupported: when there is label smoothing or a teacher, or the package is missing.
    """
    if x.smoothing or x.weight:
        raise Unsupported("CE without smoothing and teacher only")
    try:
        from cut_cross_entropy import linear_cross_entropy as function
    except ImportError as error:
        raise Unsupported(str(error)) from None
    options: dict[str, Any] = {"impl": "torch_compile"}
    if x.hidden_ND.is_cuda:
        options = {"impl": "cce", **({"filter_eps": None} if exact else {})}
    return function(x.hidden_ND, x.projection_VD, x.target_N, reduction="sum", **options)  # type: ignore[no-any-return]


def cut_cross_entropy_filtered(x: Inputs) -> Tensor:
    """Computes CE by cut-cross-entropy with its default filter, which drops small gradients.

    Args:
        x: the problem.

    Returns:
        The loss, ().

    Raises:
        Unsupported: as ``cut_cross_entropy``, and on a CPU, where it has no filter.
    """
    if not x.hidden_ND.is_cuda:
        raise Unsupported("has a filter on a GPU alone")
    return cut_cross_entropy(x, exact=False)


def trl(x: Inputs) -> Tensor:
    """Computes trl's chunked KL divergence, and eager CE beside it.

    Args:
        x: the problem.

    Returns:
        The loss, ().

    Raises:
        Unsupported: when there is no teacher, or the package is missing.
    """
    if not x.weight:
        raise Unsupported("distillation only")
    try:
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    except (ImportError, RuntimeError) as error:
        raise Unsupported(str(error).splitlines()[0]) from None
    kl_N, _ = ChunkedDivergenceFunction.apply(x.hidden_ND, x.projection_VD, None, x.teacher_ND, x.teacher_VD, None, 0.0)
    logits_NV = F.linear(x.hidden_ND, x.projection_VD).float()
    ce = F.cross_entropy(logits_NV, x.target_N, label_smoothing=x.smoothing, reduction="sum")
    return ce + x.weight * kl_N.sum()


def deepspeed_opsd(x: Inputs) -> Tensor:
    """Computes DeepSpeed's on-policy distillation loss on whole logits, plus CE.

    Args:
        x: the problem.

    Returns:
        The loss, ().

    Raises:
        Unsupported: when there is no teacher, or DeepSpeed is older.
    """
    if not x.weight:
        raise Unsupported("distillation only")
    try:
        from deepspeed.runtime.rollout.opsd import generalized_jsd_loss
    except ImportError as error:
        raise Unsupported(str(error)) from None
    logits_NV = F.linear(x.hidden_ND, x.projection_VD)
    with torch.no_grad():
        teacher_NV = F.linear(x.teacher_ND, x.teacher_VD)
    mask = torch.ones(1, len(x.target_N), device=logits_NV.device)
    kl = generalized_jsd_loss(logits_NV.unsqueeze(0), teacher_NV.unsqueeze(0), mask, beta=0.0).loss_sum
    ce = F.cross_entropy(logits_NV, x.target_N, label_smoothing=x.smoothing, reduction="sum")
    return ce + x.weight * kl


def teacher_entropy(x: Inputs) -> Tensor:
    """Computes the weighted teacher entropy, by which a cross-entropy exceeds a KL divergence.

    Args:
        x: the problem.

    Returns:
        The constant, ().
    """
    with torch.no_grad():
        logp_NV = F.linear(x.teacher_ND, x.teacher_VD).float().log_softmax(-1)
        return -x.weight * (logp_NV.exp() * logp_NV).sum()


BASELINES: dict[str, Loss] = {
    "ours": ours,
    "ours_without_divergence": ours_without_divergence,
    "triton": ours_by_triton,
    "bulk_copies": ours_with_bulk_copies,
    "chunked": lambda x: ours(x, "chunked"),
    "eager": eager,
    "compiled_whole": compiled_whole,
    "compiled_chunks": compiled_chunks,
    "linear_cross_entropy": linear_cross_entropy,
    "liger": liger,
    "liger_cross_entropy": liger_cross_entropy,
    "cut_cross_entropy": cut_cross_entropy,
    "cut_cross_entropy_filtered": cut_cross_entropy_filtered,
    "quack": quack,
    "trl": trl,
    "deepspeed_opsd": deepspeed_opsd,
}
OURS = ("ours", "ours_without_divergence", "triton", "bulk_copies", "chunked")
"""Our own implementations."""
WITH_PASSES = (*OURS, "eager")
"""Peers that compute the divergence of passes."""
APPROXIMATE = ("cut_cross_entropy_filtered",)
"""Peers that leave part of the gradient out."""
FULL_MATRICES = {
    "eager": (3, 4), "compiled_whole": (3, 4), "linear_cross_entropy": (0, 5), "trl": (0, 8), "deepspeed_opsd": (0, 8),
}  # fmt: skip
"""Peers that hold (N, V) matrices of fp32: how many at once, without and with a teacher (measured, rounded up)."""
KL_BASELINES = ("liger", "trl", "deepspeed_opsd")
"""Peers whose loss lacks the teacher's entropy."""


def _plain(
    hidden_XD: Tensor, projection_VD: Tensor, target_X: Tensor, teacher_XD: Tensor, teacher_VD: Tensor, weight: float,
    smoothing: float,
) -> Tensor:  # fmt: skip
    """CE, and KD where there is a teacher, with whole logits."""
    logits_XV = F.linear(hidden_XD, projection_VD).float()
    if not weight:
        return F.cross_entropy(logits_XV, target_X, label_smoothing=smoothing, reduction="sum")
    logp_XV = logits_XV.log_softmax(-1)
    with torch.no_grad():
        teacher_XV = F.linear(teacher_XD, teacher_VD).float().softmax(-1)
    gold = logp_XV.gather(1, target_X.unsqueeze(1)).sum() * (1 - smoothing) + logp_XV.mean(-1).sum() * smoothing
    return -gold - weight * (teacher_XV * logp_XV).sum()


def _plain_divergence(x: Inputs) -> Tensor:
    """CE of all passes and their X-divergence, with whole logits."""
    logp_KNV = F.linear(x.hidden_ND, x.projection_VD).float().log_softmax(-1).unflatten(0, (x.passes, -1))
    target_KN1 = x.target_N.expand(x.passes, -1).unsqueeze(-1)
    gold = logp_KNV.gather(2, target_KN1).sum() * (1 - x.smoothing) + logp_KNV.mean(-1).sum() * x.smoothing
    p_KNV = logp_KNV.exp()
    divergence = ((p_KNV - p_KNV.mean(0)) * (logp_KNV - logp_KNV.mean(0))).sum() / x.passes
    return -gold / x.passes + divergence


def _compiled(*arguments: object) -> Tensor:
    """``_plain``, compiled on first use."""
    global _compiled_plain
    if _compiled_plain is None:
        torch._dynamo.config.recompile_limit = 64  # beyond it later shapes would silently run eager
        _compiled_plain = torch.compile(_plain, dynamic=False)
    return _compiled_plain(*arguments)


_compiled_plain: Callable[..., Tensor] | None = None
