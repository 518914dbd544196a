"""Settings of training itself: budget, optimizer, validation, checkpoints."""

from typing import Annotated, ClassVar, Literal

from pydantic import AliasChoices, Field, model_validator

from mnmt_ds.config import PaperDifference, Settings

DecayRate = Annotated[float, Field(ge=0, lt=1)]
"""Of a moving average."""


class TrainSettings(Settings):
    """Settings of a student's training."""

    differences: ClassVar = {
        "clip_norm": PaperDifference(
            "no clipping is named", "none (3: --clip-norm 0.0)",
            "an insurance that costs 0.01 to 0.04 nats of dev loss at small scale (docs/results/lssd.md); the papers'"
            " recipes set 0",
        ),
        "lr": PaperDifference(
            "1: not said; 2: 1.5e-3", "1: TED-8 2e-3, WMT 1.5e-3; 2: TED-8 2e-3; 3: 1e-3",
            "the papers' recipes have the papers', else the scripts'",
        ),
        "weight_decay": PaperDifference(
            "none is named", "2: 0.01 on WMT", "the paper's; the study of released code has 0.01"
        ),
        "max_tokens": PaperDifference(
            "1 and 2: 64K tokens an update; 3: 30K", "1: 128K on WMT; 3: 262K on M8, 131K on M15",
            "the papers' recipes have the papers', the studies of released code the scripts'",
        ),
        "max_epochs": PaperDifference(
            "1: 300; 2: 70 on WMT, 300 on TED-8", "1: 157 on WMT; on TED-8 50 to 600 by script (2: 150 and 200)",
            "the papers' recipes have the papers'; the study of released code has WMT's, not TED-8's",
        ),
    }  # fmt: skip

    max_tokens: int = Field(4096, ge=1, le=10**9)
    """Padded tokens of a micro-batch, on its longer side."""
    gradient_accumulation_steps: int | None = Field(
        None, ge=1, le=10**6, validation_alias=AliasChoices("gradient_accumulation_steps", "update_freq")
    )
    """Micro-batches of an update on each rank: 1, unless batches_per_update is given; not both."""
    batches_per_update: int | None = Field(None, ge=1, le=10**6)
    """Micro-batches of an update over all ranks: then runs on any number of ranks see the same updates."""
    max_epochs: int = Field(30, ge=1)
    """Epochs at most; a large number: max_steps alone decides. An epoch is as many sentences as all training sets
    hold."""
    max_steps: int = Field(0, ge=0, validation_alias=AliasChoices("max_steps", "max_update"))
    """Updates at most; 0: no limit."""
    patience: int = Field(0, ge=0)
    """Stop after this many validations without a better overall dev loss; 0: never."""
    lr: float = Field(2e-3, gt=0, le=100)
    """Peak learning rate, reached after the warm-up; then it falls with the inverse square root of the update."""
    warmup_steps: int = Field(4000, ge=1)
    """Updates of linear warm-up; 1: none."""
    warmup_init_lr: float = Field(1e-7, ge=0, le=100)
    """Learning rate that the warm-up starts from."""
    adam_betas: tuple[DecayRate, DecayRate] = (0.9, 0.98)
    """Adam's decay rates."""
    adam_eps: float = Field(1e-6, gt=0, le=1)
    """Adam's epsilon."""
    weight_decay: float = Field(0.0, ge=0, le=100)
    """Decoupled weight decay; 0: none."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Above 0 a moving average of the weights is kept (``average = ema_decay * average + (1 - ema_decay) * weights``
    behind each update): it is what is validated, kept as best and last model, and a teacher. 0: the weights are."""
    ema_start: int = Field(default=0, ge=0)
    """First update that is averaged; until then the average is the weights themselves. With ``ema_decay``."""
    clip_norm: float = Field(1.0, ge=0)
    """Largest norm of an update's gradient; 0: no clipping."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Epsilon of the label-smoothed cross-entropy."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of weights and activations; masters of bf16 and fp16 stay fp32."""
    seed: int = Field(1, ge=0)
    """Seed of initial weights, order of the data and dropout."""
    workers: int = Field(0, ge=0, le=1024)
    """Processes a rank that read batches ahead; 0: the training process reads."""
    loss_implementation: Literal["auto", "reference", "chunked", "cpu", "cuda", "triton"] = "auto"
    """Which fused loss runs; auto: the fastest that this machine has, of those that were measured (not triton)."""
    linear_implementation: Literal["auto", "torch", "cpu"] = "auto"
    """Whose products the linear layers use in fp32 on a CPU: torch's, or the C++ kernels'; auto: whichever this machine
    ran faster when it was measured, and throughout a run what it began with."""
    torch_compile: bool = False
    """The student's layers run as code that ``torch.compile`` makes of them in the first updates and validations; equal
    within rounding, but for dropout, which draws other random numbers."""
    deterministic: bool = False
    """On a GPU only algorithms that give the same bits each time, some of them slower; a CPU's always do."""
    save_every: int = Field(0, ge=0)
    """Updates between two checkpoints; 0: at validations (before the dev sets are scored) and at the end alone."""
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints that stay on disk, of those that verify; a large number: all."""
    timeout_minutes: float = Field(30.0, gt=0, le=525_600)
    """How long a rank waits for the other ranks before the job ends with an error; 525600: a year."""

    @model_validator(mode="after")
    def _check(self) -> "TrainSettings":
        if self.gradient_accumulation_steps is None and self.batches_per_update is None:
            self.__dict__["gradient_accumulation_steps"] = 1
        elif self.gradient_accumulation_steps == 1 and self.batches_per_update is not None:
            self.__dict__["gradient_accumulation_steps"] = None
        elif self.gradient_accumulation_steps is not None and self.batches_per_update is not None:
            raise ValueError("give gradient_accumulation_steps or batches_per_update, not both")
        return self


class PipelineSettings(Settings):
    """The model's layers over several ranks, a stage each (DeepSpeed's PipelineModule)."""

    stages: int = Field(default=2, ge=1, le=4096)
    """Stages; the job's ranks must be a multiple, each stage then has as many data-parallel ranks."""
    balance: Literal["time", "parameters"] = "time"
    """How layers are shared out: by the time that each kind takes on the first rank's device, or by parameters."""


class TensorSettings(Settings):
    """Matrices split over several ranks (tensor parallelism), whose groups are megatron-core's."""

    vocabulary: int = Field(default=1, ge=1, le=4096)
    """Vocabulary-parallel ranks: so many neighbours split embedding, output projection and loss by words, each has its
    own; the job's ranks must be a multiple."""


class ValidationSettings(Settings):
    """Settings of validations: when dev losses are measured, and what they select."""

    released_values: ClassVar = {"selection": "tokens"}
    differences: ClassVar = {
        "selection": PaperDifference(
            "pairs: the mean over pairs (1, 2.2)", "the mean over all dev tokens; STSD's teacher, too", "the paper's"
        ),
    }

    every: int = Field(0, ge=0)
    """Updates between two validations; 0: at each epoch's end (paper 1). One more at the end of the run, if need be."""
    max_tokens: int = Field(4096, ge=1, le=10**9)
    """Padded tokens of a dev batch."""
    selection: Literal["pairs", "tokens"] = "pairs"
    """Overall best checkpoint by the mean over pairs (the papers) or over all dev tokens (the released code)."""
    select_by: Literal["loss", "bleu", "chrf"] = "loss"
    """What the overall best checkpoint and ``train.patience`` go by: dev losses, or the mean over pairs of BLEU or
    chrF of the dev sets, at the validations that take them (``bleu_every``) and at the first one; patience counts these
    alone. Pairs' bests and teachers go by dev losses in any case."""
    average_k: int = Field(default=0, ge=0, le=1000)
    """At the end of the run the weights of so many best checkpoints are averaged as ``average``, where
    ``keep_best_per_pair`` each pair's as ``average_<pair>``; until then their snapshots stay on disk. 0: none."""
    watch: tuple[str, ...] = ()
    """Pairs of the prepared corpus that are not trained on, such as those of the model that the run starts from: their
    dev losses are logged at each validation (``watch/<pair>/loss``), and select nothing."""
    keep_best_per_pair: bool = True
    """Keep the weights of every pair's best checkpoint (best_<pair>)."""
    max_best_versions: int = Field(default=0, ge=0)
    """Distinct models at most that the pairs' best checkpoints may be, LSSD's teachers among them; 0: one a pair. Where
    a validation makes one more, that one is given up whose pairs' dev losses rise least under the others."""
    bleu_every: int = Field(default=0, ge=0)
    """Validations between two at which the dev sets are also translated, for BLEU and chrF; 0: never."""
    bleu_sentences: int = Field(default=0, ge=0)
    """Sentences of each dev set that are translated then, the first ones; 0: all."""
    bleu_beam: int = Field(default=5, ge=1, le=1000)
    """Beam of those translations; 1: greedy search."""
    bleu_ban_unknown: bool = False
    """Those translations never hold the unknown piece (written " ⁇ ")."""

    @model_validator(mode="after")
    def _scored(self) -> "ValidationSettings":
        if self.select_by != "loss" and not self.bleu_every:
            raise ValueError(f"select_by: {self.select_by} needs dev scores; set bleu_every: 1 or more")
        if self.average_k == 1:
            raise ValueError("average_k: one checkpoint has no mean; set 2 or more, or 0")
        return self


def learning_rate(settings: TrainSettings, update: int) -> float:
    """Computes the learning rate: inverse square root with linear warm-up, as fairseq's ``inverse_sqrt``.

    Args:
        settings: peak rate and warm-up.
        update: number of the update, from 1.

    Returns:
        The rate of that update.
    """
    if update <= settings.warmup_steps:
        return settings.warmup_init_lr + (settings.lr - settings.warmup_init_lr) * update / settings.warmup_steps
    return settings.lr * (settings.warmup_steps / update) ** 0.5


def batches_per_update(settings: TrainSettings, ranks: int) -> int:
    """Counts the micro-batches of an update over all ranks.

    Args:
        settings: of the training.
        ranks: data-parallel ranks.

    Returns:
        How many; the accumulation steps times the ranks, where no total is set.
    """
    if settings.batches_per_update is not None:
        return settings.batches_per_update
    return ranks * (settings.gradient_accumulation_steps or 1)
