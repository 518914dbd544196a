"""MultiDDS-S (Wang, Tsvetkov and Neubig 2020, Balancing Training for Multilingual Neural Machine Translation)."""

from collections.abc import Sequence
from typing import Literal

from mnmt_ds.samplers.actor import ActorSettings, actor, measures_student
from mnmt_ds.samplers.sampler import Sampler, SamplerEntry


class MultiDdsSettings(ActorSettings):
    """Settings of MultiDDS-S: pairs whose gradients point where the dev sets' gradients point are drawn more."""

    name: Literal["multidds"] = "multidds"
    """multidds: MultiDDS-S, rewards by the cosine of gradients."""


def multidds(settings: MultiDdsSettings, pairs: Sequence[str], sizes: Sequence[int]) -> Sampler:
    """Rewards r_j = 1/L sum_i cos(grad of dev batch i, grad of training batch j), over all parameters.

    The gradients are those of the label-smoothed cross-entropy, whatever method trains the student.

    Since r_j = <1/L sum_i d_i/|d_i|, t_j/|t_j|>, the mean of the dev gradients' directions is all that has to be kept
    of them, and L + L passes give the number of L + L^2.

    Differs: backward passes of a MultiDDS-S reward; paper: L + L^2; released: L + L^2; ours: L + L; why: the same
    number.

    Args:
        settings: the sampler's settings.
        pairs: names of the language pairs.
        sizes: training sentences of each pair.

    Returns:
        The sampler.
    """
    return actor(settings, pairs, sizes, lambda student: student.alignments(settings.max_tokens))


ENTRY = SamplerEntry(
    MultiDdsSettings, multidds, measures_student, {"sampler": {"name": "multidds", "every": 3, "lr": 1e-2, "steps": 20}}
)
