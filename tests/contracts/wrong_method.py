"""Registers a method that is wrong on purpose: its loss is divided by the number of ranks, what it logs is not.

Shape letters: V vocabulary, D model width.
"""

from typing import Literal

from torch import Tensor, distributed

from mnmt_ds.batch import Batch
from mnmt_ds.methods.entry import MethodEntry
from mnmt_ds.methods.method import LossAndMetrics, Method, MethodContext, ModelStates
from mnmt_ds.methods.registry import METHODS
from mnmt_ds.methods.translation import TranslationSettings, translation


class WrongSettings(TranslationSettings):
    """Nothing to set."""

    name: Literal["wrong"] = "wrong"  # type: ignore[assignment]
    """The method's name."""


def wrong(settings: WrongSettings, context: MethodContext) -> Method:
    """Plain translation but for the fault."""
    right = translation(settings, context)

    def compute_loss(states: ModelStates, projection_VD: Tensor, batch: Batch) -> LossAndMetrics:
        result = right.compute_loss(states, projection_VD, batch)
        return result._replace(loss=result.loss / distributed.get_world_size())

    return right._replace(compute_loss=compute_loss)


METHODS["wrong"] = MethodEntry(WrongSettings, wrong)
