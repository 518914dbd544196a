"""The loss of every denoising task (paper 3, Equation 7): gold pieces on the decoder's side, the encoder's, or both.

Which pieces count is the batch's business (data/denoising.py); a concurrent-denoising batch has both sides' targets, a
DAE or MASS batch the decoder's, an MLM batch the encoder's.

Shape letters: B sentences, T target positions, S source positions, D model width, V vocabulary.
"""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mnmt_ds.batch import PAD, Batch
from mnmt_ds.config import PaperDifference, Settings
from mnmt_ds.kernels.ce_with_teacher import TargetRows, ce_with_teacher
from mnmt_ds.kernels.types import LossSums
from mnmt_ds.methods.entry import MethodEntry
from mnmt_ds.methods.method import LossAndMetrics, Method, MethodContext, ModelStates


class DenoisingLossSettings(Settings):
    """Weights of the two sides. The encoder's projection is the decoder's, unless ``model.encoder_projection: own``."""

    released_values: ClassVar = {"divergence_share": 0.5}
    differences: ClassVar = {
        "divergence_share": PaperDifference("α (ID_enc + ID_dec) (3, Equation 8)", "half of α", "the paper's"),
    }

    name: Literal["denoising"] = "denoising"
    """The method's name."""

    profile: Literal["paper", "released"] = "paper"
    """paper: the equations; released: what the authors' code does."""
    encoder_weight: float = Field(1.0, ge=0, le=10**6)
    """Weight of L_e, the encoder's loss."""
    decoder_weight: float = Field(1.0, ge=0, le=10**6)
    """Weight of L_d, the decoder's loss."""
    divergence_share: float = Field(1.0, ge=0, le=10**6)
    """Under intra-distillation, the factor of both sides' divergences (released 0.5)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.encoder_weight + self.decoder_weight == 0:
            raise ValueError("encoder_weight and decoder_weight must not both be 0")
        return self


def denoising(settings: DenoisingLossSettings, context: MethodContext) -> Method:
    """Sums L_e + L_d over the pieces that count, by one projection; with K passes each side has its own divergence.

    Args:
        settings: the method's settings.
        context: what methods may use of the run.

    Returns:
        The method.
    """

    def compute_loss(states: ModelStates, projection_VD: Tensor, batch: Batch) -> LossAndMetrics:
        def side(
            hidden_BTD: Tensor, weights_VD: Tensor, target_BT: Tensor, rows: TargetRows | None, weight: float
        ) -> LossSums:
            return ce_with_teacher(
                hidden_BTD,
                weights_VD,
                target_BT,
                smoothing=context.smoothing,
                gold_weight=weight * batch.gold_weight,
                passes=batch.passes,
                divergence_weight=settings.divergence_share * batch.divergence_weight,
                implementation=context.implementation,
                group=context.group,
                target_rows=rows,
            )

        decoder = side(states.decoder_BTD, projection_VD, batch.target_BT, batch.target_rows, settings.decoder_weight)
        gold_BS = batch.encoder_target_BS
        if gold_BS is None:
            gold_BS = torch.full_like(batch.source_BS[: len(batch.target_BT)], PAD)
        encoder_VD = projection_VD if states.encoder_projection_VD is None else states.encoder_projection_VD
        encoder = side(states.encoder_BSD, encoder_VD, gold_BS, batch.encoder_target_rows, settings.encoder_weight)
        loss = decoder.loss + encoder.loss
        count = torch.full_like(decoder.tokens, float(batch.tokens))
        means = {"loss": (loss.detach(), count)}
        for name, sums, used in (
            ("decoder", decoder, any(batch.target_rows.counts) if batch.target_rows else bool(decoder.tokens)),
            ("encoder", encoder, batch.encoder_target_BS is not None),
        ):
            if used:
                means[f"{batch.task}_{name}_loss"] = (sums.ce, sums.tokens)
                if batch.passes > 1:
                    means[f"{batch.task}_{name}_id_loss"] = (sums.divergence, sums.tokens)
        return LossAndMetrics(loss, {name: torch.stack(mean) for name, mean in means.items()})

    return Method(compute_loss)


ENTRY = MethodEntry(
    DenoisingLossSettings,
    denoising,
    tasks=lambda settings: (),  # of those on text of one language, whichever ``by_task`` gives it
    example={
        "framing": {"encoder_langtok_position": "end"},
        "denoising": {"tasks": [{"name": "cd"}]},
        "method": {"name": "by_task", "tasks": {"translation": {"name": "translation"}, "cd": {"name": "denoising"}}},
    },
)
