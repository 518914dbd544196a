"""MultiDDS-S (Wang, Tsvetkov and Neubig 2020, Balancing Training for Multilingual Neural Machine Translation)."""

from typing import Literal

from mnmt_ds.samplers.actor import Actor, ActorSettings
from mnmt_ds.samplers.sampler import Measurements


class MultiDdsSettings(ActorSettings):
    """Pairs whose gradients point where the dev sets' gradients point are drawn more."""

    name: Literal["multidds"] = "multidds"
    """multidds: MultiDDS-S, rewards by the cosine of gradients."""


class MultiDds(Actor):
    """r_j = 1/L sum_i cos(grad of dev batch i, grad of training batch j), over all parameters.

    The gradients are those of the label-smoothed cross-entropy, whatever method trains the student.

    Differs: the authors take L + L^2 backward passes. Since r_j = <1/L sum_i d_i/|d_i|, t_j/|t_j|>, the mean of the
    dev gradients' directions is all that has to be kept of them, and L + L passes give the same number.
    """

    def measure(self, student: Measurements) -> None:
        self.learn(student.alignments(self.settings.max_tokens))
