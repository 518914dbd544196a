"""Plain translation: label-smoothed cross-entropy with gold (MULTILINGUAL, the papers' baseline).

Shape letters: V vocabulary, D model width.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist

from mnmt_ds.batch import Batch
from mnmt_ds.config import Settings
from mnmt_ds.kernels.ce_with_teacher import ce_with_teacher
from mnmt_ds.methods.entry import MethodEntry
from mnmt_ds.methods.method import LossAndMetrics, Method, MethodContext, ModelStates


class TranslationSettings(Settings):
    """Settings of plain training: it has none."""

    name: Literal["translation"] = "translation"
    """The method's name."""


def translation(settings: TranslationSettings, context: MethodContext) -> Method:
    """Trains on CE(B_l; theta) of every paper: the target distribution is (1 - eps) gold + eps / V.

    Differs: label smoothing; paper: 0.1; released: fairseq's, eps / (V - 1) on all words but gold; ours: eps / V on all
    words; why: PyTorch's form, a difference of the order of eps / V.

    Args:
        settings: the method's settings.
        context: what methods may use of the run.

    Returns:
        The method.
    """
    return Method(translation_loss(context.smoothing, context.implementation, context.group))


def translation_loss(
    smoothing: float, implementation: str, group: dist.ProcessGroup | None = None, sentence_sums: bool = False
) -> Callable[[ModelStates, Tensor, Batch], LossAndMetrics]:
    """Makes the loss function of methods without extra tasks: gold_weight * CE, plus what ``teach`` put into the batch.

    Args:
        smoothing: label smoothing, eps.
        implementation: of the fused loss: auto, reference, chunked, cpu, cuda or triton.
        group: ranks over which the projection is split by words; None: it is whole.
        sentence_sums: whether the metrics have ``ce_B`` and ``nll_B``, sums of each sentence, as batches that mix pairs
            need them.

    Returns:
        A method's ``compute_loss``.
    """

    def compute_loss(states: ModelStates, projection_VD: Tensor, batch: Batch) -> LossAndMetrics:
        sums = ce_with_teacher(
            states.decoder_BTD,
            projection_VD,
            batch.target_BT,
            tuple(batch.teachers.values()),
            smoothing=smoothing,
            gold_weight=batch.gold_weight,
            passes=batch.passes,
            divergence_weight=batch.divergence_weight,
            target_rows=batch.target_rows,
            sentence_sums=sentence_sums,
            implementation=implementation,
            group=group,
        )
        means = {
            "loss": (sums.loss.detach(), sums.tokens),
            "ce": (sums.ce, sums.tokens),
            "nll": (sums.nll, sums.tokens),
        }
        if batch.passes > 1:
            means["id_loss"] = (sums.divergence, sums.tokens)
        sentences = torch.full_like(sums.tokens, float(len(batch.target_BT)))
        for j, name in enumerate(batch.teachers):
            means[f"{name}_loss"] = (sums.kd[j], sums.tokens)
            means[f"{name}_gate"] = (sums.gate[j].sum(), sentences)
            means[f"{name}_agreement"] = (sums.agreement[j].sum(), sentences)
        metrics = {name: torch.stack(mean) for name, mean in means.items()}
        if sums.ce_B is not None and sums.nll_B is not None:
            metrics |= {"ce_B": sums.ce_B, "nll_B": sums.nll_B}
        return LossAndMetrics(sums.loss, metrics)

    return compute_loss


ENTRY = MethodEntry(TranslationSettings, translation)
