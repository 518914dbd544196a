"""Every key of ``metrics.jsonl`` and of the dashboards: its name, unit and meaning; used by all who write or read one.

A key with ``{pair}`` (or ``{name}``) stands for one key a language pair (or a term of a method's loss):
``VALID_LOSS.of("bs-en")`` is ``valid/bs-en/loss``. ``docs/metrics.md`` is generated from this file:
``python -m mnmt_ds.cli.reference`` writes it.
"""

import re
from typing import NamedTuple


class Metric(str):
    """Key of a metric (or the template of one key a pair): a string with its unit and meaning beside it."""

    unit: str
    meaning: str

    def __new__(cls, key: str, unit: str, meaning: str) -> "Metric":
        """Makes a key.

        Args:
            key: as it stands in the records; ``{pair}`` or ``{name}`` where it is a template.
            unit: of the value; "" for a plain ratio or count.
            meaning: one sentence for the documentation.
        """
        metric = super().__new__(cls, key)
        metric.unit, metric.meaning = unit, meaning
        return metric

    def __getnewargs__(self) -> tuple[str, str, str]:  # type: ignore[override]
        """What copies and pickles are made from."""
        return str(self), self.unit, self.meaning

    def of(self, *names: str) -> str:
        """Fills the key template with a pair or the name of a loss term.

        Args:
            names: a language pair such as ``bs-en`` or the name of a loss term, one for each place in the template.

        Returns:
            The key as it stands in the records.
        """
        left = iter(names)
        return re.sub(r"\{\w+\}", lambda _: next(left), self)

    def name_in(self, key: str) -> str | None:
        """Parses the pair or name out of a key that this template made.

        Args:
            key: a key of a record.

        Returns:
            The pair or name in it; None where the key is not of this template. A key without a template gives "".
        """
        before, _, after = re.sub(r"\{\w+\}", "\0", self).partition("\0")
        if "{" not in self:
            return "" if key == self else None
        inside = key[len(before) : len(key) - len(after)]
        return inside if inside and key == before + inside + after and "/" not in inside else None


TRAIN_LOSS = Metric("train/loss", "nats a target token", "What is optimised: all terms of the method's loss together.")
TRAIN_NLL = Metric("train/nll_loss", "nats a target token", "Cross-entropy with the gold tokens, without smoothing.")
TRAIN_CE = Metric("train/ce_loss", "nats a target token", "Label-smoothed cross-entropy with the gold tokens.")
TRAIN_PPL = Metric("train/ppl", "", "exp(train/nll_loss), cut at exp(50).")
TRAIN_TERM = Metric("train/{name}", "", "Any further term that the method names, where no row above says more.")
TRAIN_TERM_LOSS = Metric(
    "train/{name}_loss", "nats a target token",
    "A term of the method: kd (teacher), id (divergence of passes), a peer's name, cd, dae, mlm, mass and their sides.",
)  # fmt: skip
TRAIN_GATE = Metric("train/{name}_gate", "", "Share of a teacher's term that gates let through, mean over sentences.")
TRAIN_AGREEMENT = Metric(
    "train/{name}_agreement", "", "Share of a teacher's most probable words that are the student's, too."
)
TRAIN_LR = Metric("train/lr", "", "Learning rate of the last update.")
TRAIN_GNORM = Metric("train/gnorm", "", "Norm of the last update's gradient before clipping.")

VALID_FIGURE = Metric("valid/{pair}/{name}", "", "Any figure of a pair's dev set; see the rows below.")
VALID_AVERAGE = Metric("valid/avg/{name}", "", "Mean over pairs of a figure of the dev sets; see the rows below.")
VALID_LOSS = Metric("valid/{pair}/loss", "nats a target token", "Label-smoothed cross-entropy on the pair's dev set.")
VALID_NLL = Metric("valid/{pair}/nll", "nats a target token", "Cross-entropy on the pair's dev set, without smoothing.")
VALID_PPL = Metric("valid/{pair}/ppl", "", "exp(valid/<pair>/nll).")
VALID_BLEU = Metric("valid/{pair}/bleu", "BLEU", "BLEU of the pair's dev set, every validation.bleu_every validations.")
VALID_CHRF = Metric("valid/{pair}/chrf", "chrF", "chrF of the pair's dev set, with valid/<pair>/bleu.")
VALID_BLEU_CEILING = Metric(
    "valid/{pair}/bleu_ceiling", "BLEU",
    "BLEU of the same references after the tokenizer's round trip: more cannot be reached.",
)  # fmt: skip
VALID_CHRF_CEILING = Metric("valid/{pair}/chrf_ceiling", "chrF", "The same by chrF.")
VALID_MACRO = Metric("valid/avg/macro", "nats a target token", "Mean of valid/<pair>/loss over pairs.")
VALID_MIN = Metric("valid/avg/min", "nats a target token", "Least valid/<pair>/loss of all pairs.")
VALID_AVG_BLEU = Metric("valid/avg/bleu", "BLEU", "Mean of valid/<pair>/bleu over pairs.")
VALID_AVG_CHRF = Metric("valid/avg/chrf", "chrF", "Mean of valid/<pair>/chrf over pairs.")
VALID_AVG_BLEU_CEILING = Metric(
    "valid/avg/bleu_ceiling", "BLEU", "Mean of valid/<pair>/bleu_ceiling over pairs."
)  # fmt: skip
VALID_AVG_CHRF_CEILING = Metric(
    "valid/avg/chrf_ceiling", "chrF", "Mean of valid/<pair>/chrf_ceiling over pairs."
)  # fmt: skip
VALID_BEST = Metric(
    "valid/best/overall",
    "nats a target token",
    "Overall dev loss of the overall best checkpoint.",
)
VALID_BEST_UPDATE = Metric("valid/best/update", "updates", "Update of the overall best checkpoint.")
VALID_DEFICIT = Metric(
    "valid/deficit", "nats a target token",
    "Performance deficit (paper 1): dev loss at the overall best checkpoint less the pair's best, summed over pairs; it"
    " grows with the number of pairs.",
)  # fmt: skip

WATCH_FIGURE = Metric(
    "watch/{pair}/{name}", "", "loss, nll and ppl, as above, of a pair of validation.watch, which is not trained on."
)
WATCH_MACRO = Metric("watch/avg/macro", "nats a target token", "Mean of watch/<pair>/loss over these pairs.")

TEACHER_SWITCH = Metric(
    "teacher/{pair}/switch", "", "1 while the pair is taught by its best checkpoint, else 0 (LSSD)."
)
TEACHER_VERSION = Metric("teacher/{pair}/version", "updates", "Update whose snapshot is the pair's teacher; -1: none.")
TEACHER_AGE = Metric("teacher/{pair}/age", "updates", "Updates since the pair's teacher was the student.")
TEACHER_ALL_SWITCH = Metric("teacher/all/switch", "", "1 while the overall best checkpoint teaches all pairs (STSD).")
TEACHER_ALL_AGE = Metric("teacher/all/age", "updates", "Updates since the overall teacher was the student (STSD).")
EXPERT_BLEU = Metric("expert/{pair}/bleu", "BLEU", "BLEU of the pair's expert on its dev set (MULTI-DISTILL).")
EXPERT_SHARE = Metric("expert/{pair}/share", "", "Share of alpha with which the expert still teaches (MULTI-DISTILL).")
ALPHA = Metric("alpha/{pair}", "", "Weight with which the student learns from its peers on the pair (Pareto-MD).")
SEARCH_MU = Metric("pareto/mu", "", "Step size of the weight search at this validation; absent where there is none.")
SEARCH_BEFORE = Metric("pareto/{pair}/before", "", "Weight of the pair from which the search started.")
TRIAL_LOSS = {
    "keep": Metric(
        "pareto/{pair}/keep", "nats a target token", "Dev loss of the pair after the trial that keeps weights."
    ),
    "raise": Metric(
        "pareto/{pair}/raise", "nats a target token", "Dev loss of the pair after the trial that raises weights."
    ),
    "lower": Metric(
        "pareto/{pair}/lower", "nats a target token", "Dev loss of the pair after the trial that lowers weights."
    ),
}  # fmt: skip
"""By action."""
SEARCH_ACTION = Metric("pareto/{pair}/action", "", "What the pair took: 1 raise, 0 keep, -1 lower.")
ACTION_NUMBERS = {"raise": 1.0, "keep": 0.0, "lower": -1.0}
"""How ``SEARCH_ACTION`` writes an action."""
SEARCH_SHARE = Metric("pareto/search_share", "", "Part of the run's time so far that weight searches took.")
TRIALS_ON_TOP = Metric(
    "pareto/trials_on_top",
    "",
    "Seconds of the searches' trial updates (without their dev losses) over the run's seconds outside its searches.",
)

DATA_PROB = Metric("data/{pair}/prob", "", "Probability with which the sampler draws the pair.")
DATA_LOSS = Metric(
    "data/{pair}/loss", "nats a target token", "Training cross-entropy of the pair in this epoch so far."
)
DATA_SHARE = Metric("data/{pair}/share", "", "Share of the pair in all sentences trained on so far.")
DATA_PASSES = Metric("data/{pair}/passes", "passes", "How often the pair's training set was gone through so far.")
DATA_SCORE = Metric("data/{pair}/{name}", "", "What a dynamic sampler made its distribution from, such as reward.")

TOKENS_PER_SEC = Metric("runtime/tokens_per_sec", "target tokens a second", "Of all ranks, since the last report.")
MFU = Metric("runtime/mfu", "", "Model FLOPs utilisation, on GPUs whose peak is known.")
SEARCH_SECONDS = Metric("runtime/search_seconds", "seconds", "Time of the last weight search.")
MEASURE_SECONDS = Metric("runtime/measure_seconds", "seconds", "Time of the sampler's last measurement of the student.")
TEACHER_COMPUTED = Metric(
    "runtime/teacher_computed", "", "Share of asked teacher states that had to be computed, not read from the cache."
)
MEMORY_CPU = Metric("memory/cpu", "bytes", "Peak resident memory of the process.")
MEMORY_GPU = Metric("memory/gpu_peak", "bytes", "Peak of the tensors on the GPU.")
MEMORY_CPU_STAGE = Metric(
    "memory/cpu/stage_{stage}", "bytes", "The most of memory/cpu on any rank of a pipeline stage, numbered from 0."
)
MEMORY_GPU_STAGE = Metric(
    "memory/gpu_peak/stage_{stage}", "bytes", "The most of memory/gpu_peak on any rank of a pipeline stage."
)
MEMORY_TEACHERS = Metric("memory/teachers", "bytes", "Teachers' weight shards on this rank.")
MEMORY_TEACHER_STATES = Metric("memory/teacher_states", "bytes", "Cached teacher states in this rank's memory.")


class Fields(NamedTuple):
    """Fields that every record holds beside its metrics, and what each means."""

    kind: str = (
        "run (a process starts; `changed`: settings that a resumed run has otherwise, with both values), train, valid,"
        " sampler (a new distribution)"
    )
    update: str = "optimizer steps so far"
    epoch: str = "epochs so far, with fraction"
    time: str = "seconds since 1970"
    packed: str = (
        "figures of 200 pairs or more, as numbers of 32 bits; `mnmt_ds.tracking.read_records` gives the flat record"
    )
    crc: str = "CRC-32 of the line before this key, begun with the line's above; an altered or missing line is named"


METRICS: tuple[Metric, ...] = tuple(
    metric
    for value in list(globals().values())
    for metric in (value.values() if isinstance(value, dict) else [value])
    if isinstance(metric, Metric)
)
"""All keys, in the order of this file; the first template that fits a key explains it."""


def page() -> str:
    """Renders the documentation's page of metric keys.

    Returns:
        Markdown, with a final line end.
    """
    lines = [
        "# Metrics",
        "",
        "Every line of a run's `metrics.jsonl` is one JSON record; wandb gets the same keys. Logarithms are natural:",
        "losses and the deficit are in nats; paper 1's figures and tables are in bits, 1.4427 times as many. In the",
        "common file of a run of several students each key stands under `<student>/`. The first `train` record after a",
        "resume covers only the updates since the resume.",
        "",
        "| field | what |",
        "|---|---|",
        *(f"| `{name}` | {text} |" for name, text in Fields()._asdict().items()),
        "",
        "| key | unit | what |",
        "|---|---|---|",
        *(f"| `{_shown(metric)}` | {metric.unit or '–'} | {metric.meaning} |" for metric in METRICS),
    ]
    return "\n".join(lines) + "\n"


def _shown(metric: Metric) -> str:
    return metric.replace("{", "<").replace("}", ">")
