"""The sections of a page that hold a chart, in their order."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from mnmt_ds.reporting import charts, convergence, mutual_distillation
from mnmt_ds.reporting.comparison import ComparedRuns


class PageSection(NamedTuple):
    """A section of the page; left out where its chart has nothing to show."""

    id: str
    title: str
    draw: Callable[[ComparedRuns], str | None]
    """Makes the chart as SVG; None where there is nothing to show."""
    text: str
    """Explains the chart, HTML."""
    bootstrap_text: str = ""
    """Added where differences over sentences are shown."""
    folded: bool = False
    """Whether the reader opens it."""
    metric: str = ""
    """What must be comparable for the experiments to be compared here; footnotes say where it is not."""


SECTIONS = (
    PageSection(
        "curves", "Dev loss by language pair", convergence.dev_loss_curves,
        "Pairs from the least training text to the most (sentences after the name). <b>●</b> with its dotted line: the"
        " pair's own best checkpoint; <b>◇</b> with its dashed line: the run's overall best one. A pair whose ● and ◇"
        " lie apart converges out of step with the rest; the height between them is its part of the deficit. With"
        " several seeds, thin lines are seeds and the bold one their mean; marks belong to the first seed.",
        metric="dev",
    ),
    PageSection(
        "convergence", "Convergence, pair by epoch", convergence.excess_maps,
        "How far each pair's dev loss is above its own best. White circle: the pair's best epoch; dashed line: the"
        " overall best checkpoint. Circles in one column mean that all pairs converge together.",
        metric="dev",
    ),
    PageSection(
        "deficit", "Performance deficit", charts.deficit_chart,
        "What the overall best checkpoint loses against each pair's own best checkpoint, summed over pairs. Paper 1's"
        " Table 3 has bits (1 nat = 1.4427 bits).",
        metric="dev",
    ),
    PageSection(
        "bleu", "BLEU by language pair", partial(charts.score_chart, metric="bleu"),
        "Test sets, overall best checkpoints.",
        " Right: difference to the first experiment with its 95 % interval; filled where the interval excludes zero.",
        metric="bleu",
    ),
    PageSection(
        "chrf", "chrF by language pair", partial(charts.score_chart, metric="chrf"),
        "The same by chrF.",
        folded=True,
        metric="chrf",
    ),
    PageSection(
        "frontier", "Pareto frontier", mutual_distillation.frontier_chart,
        "Each point a model: mean BLEU over its high-resource pairs against the mean over all others. A line joins what"
        " an experiment's students reach together; its hypervolume is the area below it, from (0, 0).",
        metric="bleu_high",
    ),
    PageSection(
        "weights", "Distillation weights", mutual_distillation.weight_chart,
        "How much each student learns from its peer, by pair; searched weights move at validations.",
    ),
    PageSection(
        "search", "Search of the weights", mutual_distillation.search_chart,
        "Every search: how much lower (or higher) a pair's dev loss is after the trial that raises all weights (▲), and"
        " after the one that lowers them (▼), than after the one that keeps them (the line at 0). Filled: the action"
        " that the pair took, ● where it kept its weight. Last panel: the step size μ.",
    ),
    PageSection(
        "teachers", "Teachers and switches", convergence.switch_maps,
        "Coloured: the pair is being distilled, from a teacher of that age. Blank: its switch is off. A tick: the pair"
        " improved, and its teacher was replaced.",
    ),
    PageSection(
        "shares", "Data", charts.data_share_chart,
        "What each pair contributed to training, and how often its own text was gone through.",
    ),
    PageSection(
        "sampling", "Sampling distribution", charts.sampling_chart,
        "How likely each pair is drawn, where a dynamic sampler moves it: from every change to the next.",
    ),
    PageSection(
        "training", "Training", charts.training_chart,
        "Loss on the training data and speed, every run.",
        metric="tokens_per_sec",
    ),
)  # fmt: skip
