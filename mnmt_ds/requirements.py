"""What methods and samplers need of a run, and which layouts refuse it: the one place that says so.

The registry entry of a method or sampler declares its ``Requirements``; ``refusals`` compares those of a whole run with
the layout that it asks for. The engine's checks raise what is refused, and docs/support_matrix.md is generated from it.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from mnmt_ds.errors import UserError


class Requirements(NamedTuple):
    """Requirements that a method or a sampler has of its run. The defaults need nothing."""

    peers: bool = False
    """Decoder states of the run's other students, before each update: it takes two students or more."""
    weight_search: bool = False
    """Trials at a validation: a student trains on a trial set, is measured on dev data, and is put back."""
    extra_updates: bool = False
    """Updates at a validation beyond those of the epoch, which stay."""
    eval_states: bool = False
    """A pass of the student itself, without dropout or gradient, while a micro-batch is scored."""
    passes: int = 1
    """Passes of the student over each micro-batch, as rows of one batch."""
    teachers: bool = False
    """Frozen copies of the student's shape, held in shards over the ranks."""
    shared_teacher: bool = False
    """One frozen teacher for all pairs; else each pair has its own."""
    pair_bests: bool = False
    """These teachers are the pairs' best checkpoints, whose number ``validation.max_best_versions`` bounds."""
    layer_streaming: bool = False
    """Teachers pass through a device layer by layer (``teachers.on_device: layers``)."""
    top_k: int = 0
    """Most probable words of a teacher's distribution that count at each token; 0: all."""
    dev_bleu: bool = False
    """Dev BLEU at validations."""
    measured_by: tuple[str, ...] = ()
    """Names of the samplers that measure the student between two validations (gradients, passes with dropout)."""


def needs_nothing(settings: Any) -> Requirements:
    """Declares a method or sampler that goes with every layout.

    Args:
        settings: its settings.

    Returns:
        The default requirements.
    """
    return Requirements()


def combined(requirements: Iterable[Requirements]) -> Requirements:
    """Joins the requirements of a run's methods and samplers: whatever any of them needs, the run needs.

    Args:
        requirements: requirements of the single methods and samplers.

    Returns:
        The union; of numbers the greatest.
    """
    return Requirements(*map(_joined, zip(Requirements(), *requirements, strict=True)))


def _joined(values: Sequence[Any]) -> Any:
    """The greatest of numbers and flags; names one after another, each once."""
    return tuple(dict.fromkeys(chain.from_iterable(values))) if isinstance(values[0], tuple) else max(values)


class RunLayout(NamedTuple):
    """Layout of a recipe's students over ranks. The defaults: one student, whole on every rank."""

    ranks: int = 1
    """Ranks of the job."""
    zero_stage: int = 0
    """0 to 3."""
    offload_optimizer: bool = False
    """DeepSpeed's optimizer states wait on the CPU or on NVMe."""
    precision: str = "fp32"
    """fp32, bf16 or fp16."""
    stages: int | None = None
    """Pipeline stages; None: no pipeline."""
    model_layers: int = 0
    """Entries of the model's layer sequence, among which a pipeline is cut."""
    most_stages: int = 0
    """Stages into which the model can be cut."""
    vocabulary_shards: int = 1
    """Ranks that share each vocabulary matrix."""
    students: int = 1
    """Students in the run."""
    split: bool = False
    """Each student has ranks of its own (``placement: split``)."""
    simultaneous: bool = False
    """Several students take each step at once."""
    loss_implementation: str = "auto"
    """``train.loss_implementation``."""


class Refusal(NamedTuple):
    """Reason why a layout cannot carry a run."""

    setting: str
    """The recipe's setting that asks for the layout."""
    reason: str
    """What is wrong and what to set instead, one line."""

    def __str__(self) -> str:
        """The message as a user reads it."""
        return f"{self.setting}: {self.reason}"


PLACEMENT, PIPELINE, VOCABULARY = "placement: split", "pipeline", "tensor.vocabulary"
PRECISION = "train.precision"
"""The settings that ask for a layout which not everything goes with."""


def refusals(needs: Requirements, layout: RunLayout) -> list[Refusal]:
    """Lists every reason why a layout cannot carry a run.

    Args:
        needs: requirements of the run's methods and samplers together.
        layout: how the recipe spreads its students over ranks.

    Returns:
        The reasons: those of split students first, then of pipeline stages, of vocabulary-parallel ranks and of the
        precision; empty where the run can start.
    """
    return [
        *(Refusal(PLACEMENT, text) for text, wrong in _placement(needs, layout) if wrong),
        *(Refusal(PIPELINE, text) for text, wrong in _pipeline(needs, layout) if wrong),
        *(Refusal(VOCABULARY, text) for text, wrong in _vocabulary(needs, layout) if wrong),
        *(Refusal(PRECISION, text) for text, wrong in _precision(layout) if wrong),
    ]


def check_layout(needs: Requirements, layout: RunLayout, settings: Iterable[str]) -> None:
    """Refuses a run that its layout cannot carry.

    Args:
        needs: requirements of the run's methods and samplers together.
        layout: how the recipe spreads its students over ranks.
        settings: whose refusals count, of ``PLACEMENT``, ``PIPELINE``, ``VOCABULARY`` and ``PRECISION``.

    Raises:
        UserError: all reasons.
    """
    checked_settings = set(settings)
    if refused := [str(refusal) for refusal in refusals(needs, layout) if refusal.setting in checked_settings]:
        raise UserError(*refused)


Reasons = list[tuple[str, bool]]
"""Messages, each with whether it applies."""


def _placement(needs: Requirements, layout: RunLayout) -> Reasons:
    """Students on ranks of their own."""
    if not layout.split:
        return []
    count = layout.students
    return [
        (
            f"{layout.ranks} rank(s) cannot be shared by {count} students;"
            f" start a multiple of {count}, or set placement: together",
            layout.ranks % count != 0,
        ),
        (
            "extra_updates beside a searched rule would train in another order than together;"
            " leave extra_updates out (it is the control of a search), or set placement: together",
            needs.extra_updates and needs.weight_search,
        ),
    ]


def _pipeline(needs: Requirements, layout: RunLayout) -> Reasons:
    """Layers along stages."""
    if layout.stages is None:
        return []
    count, zero = layout.stages, layout.zero_stage
    reasons = [
        (
            f"{count} stages; the model has {layout.model_layers} places, give 1 to {layout.most_stages} stages",
            not 1 <= count <= layout.most_stages,
        ),
        (
            f"{layout.ranks} rank(s) cannot form {count} stages; start a multiple of {count}",
            layout.ranks % count != 0,
        ),
        (f"DeepSpeed's pipelines go with ZeRO 0 and 1, not {zero}; set 'deepspeed' to zero1.json", zero > 1),
        (
            "bf16 needs ZeRO 1 for its fp32 masters; set 'deepspeed' to zero1.json",
            layout.precision == "bf16" and zero == 0,
        ),
        ("fp16 is not done along stages; set train.precision: bf16", layout.precision == "fp16"),
        ("offload is not done along stages; leave offload_optimizer out", layout.offload_optimizer),
        ("placement: split is not done along stages; set placement: together", layout.split),
        (
            "teachers.on_device: layers is not for stages, which hold their own layers; set it to whole",
            needs.layer_streaming,
        ),
        ("simultaneous steps are not done along stages; set simultaneous: false", layout.simultaneous),
    ]
    return reasons + [
        (f"sampler {name} measures the student, which is not done along stages; take another", True)
        for name in needs.measured_by
    ]


def _vocabulary(needs: Requirements, layout: RunLayout) -> Reasons:
    """Embedding, output projection and loss split by words."""
    if layout.vocabulary_shards == 1:
        return []
    count, zero, stages = layout.vocabulary_shards, layout.zero_stage, layout.stages or 1
    staged = f" in {stages} stages" if stages > 1 else ""
    reasons = [
        ("teachers.on_device: layers is not done with it; set it to whole", needs.layer_streaming),
        (
            f"{layout.ranks} rank(s) cannot be vocabulary-parallel by {count}{staged}; start a multiple of"
            f" {count * stages}",
            layout.ranks % (count * stages) != 0,
        ),
        (f"it goes with ZeRO 0 and 1, not {zero}; set 'deepspeed' to zero1.json", zero > 1),
        ("it goes without offload; leave offload_optimizer out", layout.offload_optimizer),
        (
            "bf16 needs ZeRO 1, whose norm counts every rank's words; set 'deepspeed' to zero1.json",
            layout.precision == "bf16" and zero == 0,
        ),
        ("it is not done in fp16; set train.precision: bf16", layout.precision == "fp16"),
    ]
    reasons += [
        (f"sampler {name} measures the student, which has to be whole; take one that does not", True)
        for name in needs.measured_by
    ]
    return [
        *reasons,
        (
            "mutual distillation (students, method pareto) is not done with it; leave 'tensor' out",
            layout.students > 1 or needs.peers,
        ),
        (
            "the loss over shards is its own; leave train.loss_implementation at auto, not"
            f" {layout.loss_implementation}",
            layout.loss_implementation not in ("auto", "chunked"),
        ),
        (f"top_k: {needs.top_k} needs all words on each rank; set top_k: 0", needs.top_k > 0),
    ]


def _precision(layout: RunLayout) -> Reasons:
    """What DeepSpeed does not train rightly in a precision."""
    return [
        (
            "fp16 needs ZeRO 1 or more: without ZeRO DeepSpeed scales no loss, yet divides gradients by the loss"
            " scale; set 'deepspeed' to zero1.json",
            layout.precision == "fp16" and layout.zero_stage == 0,
        )
    ]
