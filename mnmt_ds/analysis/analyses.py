"""The analyses of a run, from its checkpoint to numbers and pictures; ranks share the work.

Shape letters: L languages (or pairs), M parameters of a matrix, N all parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mnmt_ds.analysis import batches, files, pictures, pruning, specificity
from mnmt_ds.analysis.sensitivity import LossFunction, Sensitivity, sensitivity
from mnmt_ds.batch import Batch
from mnmt_ds.config import Settings
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.data.worker_pool import ProgressBar
from mnmt_ds.decoding.beam_search import BeamSettings
from mnmt_ds.decoding.loading import Translator, open_translator
from mnmt_ds.decoding.translation import hypothesis_text, translate_all
from mnmt_ds.distributed import device, is_main, rank, world_size
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation import report, scores
from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.methods.denoising import DenoisingLossSettings, denoising
from mnmt_ds.methods.method import MethodContext
from mnmt_ds.methods.translation import translation_loss

TASKS = ("translation", "cd")


class AnalysisSettings(Settings):
    """Options of the analyses beside the runs that they are made of."""

    batches: int = Field(500, ge=1)
    """Random batches a language (paper 3); fewer where it has no more."""
    max_tokens: int = Field(1024, ge=1, le=10**9)
    """Padded tokens of a batch, on its longer side."""
    others: Literal["mixed", "mean"] = "mixed"
    """All languages but one (paper 3, Equation 4). mixed: batches of all of them together, as in the paper; mean: the
    mean of each one's own, which takes half the batches (version 0.1.0)."""
    smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing of the loss."""
    top: float = Field(0.1, gt=0, lt=1)
    """Share of the parameters that counts as highly sensitive."""
    ratios: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """Shares of all parameters that are pruned in turn."""
    batch_tokens: int = Field(1024, ge=1)
    """Padded source tokens of a decoding batch."""
    seed: int = Field(1, ge=0)
    """Seed of the choice of batches, and of the masks."""


def open_checkpoint(run: Path, checkpoint: str, data: Path | None) -> tuple[Translator, Corpus]:
    """Loads a run's checkpoint on this rank's device, whatever ZeRO stage it was trained at, and opens its corpus.

    Args:
        run: the run's directory.
        checkpoint: such as ``best``.
        data: a prepared corpus; None: the run's.

    Returns:
        The model and the corpus.

    Raises:
        UserError: where the run has no such checkpoint.
    """
    if not (run / checkpoint / "model.json").exists():
        names = sorted(path.parent.name for path in run.glob("*/model.json"))
        raise UserError(f"{run / checkpoint}: no such checkpoint; this run has {', '.join(names) or 'none yet'}")
    translator = open_translator(run / checkpoint, str(device()))
    return translator, report.open_evaluation_corpus(run, data, translator)


def measure_sensitivities(
    run: Path, checkpoint: str, task: str, data: Path | None, settings: AnalysisSettings
) -> list[str]:
    """Measures and writes the sensitivities of every pair (task cd: of every language), and of all others together.

    Args:
        run: the run's directory.
        checkpoint: such as ``best``.
        task: translation or cd.
        data: a prepared corpus; None: the run's.
        settings: batches, their size and the smoothing.

    Returns:
        Names of the pairs or languages.
    """
    translator, corpus = open_checkpoint(run, checkpoint, data)
    model, pairs = translator.model, list(translator.description["pairs"])
    framing = FramingSettings(**translator.description["framing"])
    limits = (settings.max_tokens, model.settings.max_positions)
    if task == "cd":
        sources = batches.sources_of_languages(corpus, framing, pairs, *limits, settings.seed)
        compute_loss: LossFunction = denoising(
            DenoisingLossSettings(), _context(pairs, settings.smoothing)
        ).compute_loss
    else:
        sources = batches.sources_of_pairs(corpus, framing, pairs, *limits)
        compute_loss = translation_loss(settings.smoothing, "auto")
    draw = (settings.batches, settings.max_tokens, settings.seed)
    drawn = {source.name: batches.random_batches(source, *draw) for source in sources}
    names, mixed = list(drawn), dict[str, list[Batch]]()
    if settings.others == "mixed" and len(sources) > 1:
        mixed = {name: batches.mixed_batches(sources, name, *draw) for name in names}
    total = sum(len(rows[rank() :: world_size()]) for rows in (*drawn.values(), *mixed.values()))
    others = files.others_directory(run, checkpoint, task)
    if is_main():
        for path in others.glob("*.safetensors"):  # of an earlier measurement
            path.unlink()
    with ProgressBar(f"sensitivity {run.name} {task}", "batches", total) if is_main() else nullcontext() as progress:
        for directory, group in ((files.analysis_directory(run, checkpoint, task), drawn), (others, mixed)):
            for name, rows in group.items():
                values = sensitivity(
                    model, rows, compute_loss, progress.add if progress is not None else lambda n: None
                )
                if is_main():
                    files.write_sensitivity(directory, name, values)
    return names


def compare_distributions(runs: Sequence[Path], checkpoint: str, task: str, output: Path) -> dict[str, Any]:
    """Writes how evenly parameters contribute, a run each, as numbers and a picture (paper 3, Figure 10).

    Args:
        runs: directories of runs with sensitivities.
        checkpoint: such as ``best``.
        task: translation or cd.
        output: directory of numbers and picture.

    Returns:
        deviation, mean and quantiles by run.
    """
    spreads = {
        run.name: specificity.sensitivity_spread(files.read_sensitivities(run, checkpoint, task)[1]) for run in runs
    }
    pictures.sensitivity_violins(output / "distribution.png", spreads)
    numbers = {
        name: {"deviation": row.deviation, "mean": row.mean, "quantiles": row.quantiles}
        for name, row in spreads.items()
    }
    files.write_numbers(output / "distribution.json", numbers)
    return numbers


def read_specificities(
    run: Path, checkpoint: str, task: str, others: str
) -> tuple[list[str], Tensor, Tensor, Sensitivity]:
    """Reads sensitivities, and makes language-specificities of them (paper 3, Equation 4).

    Args:
        run: a run with sensitivities.
        checkpoint: such as ``best``.
        task: translation or cd.
        others: what all languages but one are: mixed (batches) or mean (over languages).

    Returns:
        Names of the languages, their sensitivities (L, N), their specificities (L, N), and one language's sensitivities
        in the parameters' shapes.
    """
    names, sensitivity_LN, like = files.read_sensitivities(run, checkpoint, task)
    is_mixed = others == "mixed"
    others_LN = (
        files.read_others(run, checkpoint, task, names) if is_mixed else specificity.mean_of_others(sensitivity_LN)
    )
    return names, sensitivity_LN, specificity.specificity(sensitivity_LN, others_LN), like


def measure_specificities(run: Path, checkpoint: str, task: str, output: Path, others: str) -> dict[str, Any]:
    """Writes the mean specificity (paper 3, Equation 4) of each parameter matrix for each language.

    Args:
        run: a run with sensitivities.
        checkpoint: such as ``best``.
        task: translation or cd.
        output: directory of numbers and picture.
        others: as for ``read_specificities``.

    Returns:
        The mean over all parameters, the share above 1, and the mean by matrix, each by language.
    """
    names, _, D_LN, like = read_specificities(run, checkpoint, task, others)
    table: dict[str, dict[str, float]] = {}
    sizes = [like[name].numel() for name in sorted(like)]
    for parameter, part_LM in zip(sorted(like), D_LN.split(sizes, dim=1), strict=True):
        if like[parameter].dim() > 1:
            table[parameter] = dict(zip(names, part_LM.mean(1).tolist(), strict=True))
    numbers = {
        "others": others,
        "mean": dict(zip(names, D_LN.mean(1).tolist(), strict=True)),
        "above_1": dict(zip(names, (D_LN > 1).float().mean(1).tolist(), strict=True)),
        "by_matrix": table,
    }
    files.write_numbers(output / f"specificity.{run.name}.json", numbers)
    pictures.row_heat_map(output / f"specificity.{run.name}.png", table, "mean language-specificity D")
    return numbers


def correlate_languages(runs: Sequence[Path], checkpoint: str, task: str, output: Path, top: float) -> dict[str, Any]:
    """Writes how alike two languages (and two tasks) use the parameters (paper 3, Figures 2, 6, 7).

    The most sensitive parameters and the others are looked at apart.

    Args:
        runs: directories of runs with sensitivities of the same languages.
        checkpoint: such as ``best``.
        task: translation or cd.
        output: directory of numbers and pictures.
        top: share of the parameters that counts as most sensitive.

    Returns:
        Correlations by run and group.

    Raises:
        UserError: where runs have other languages.
    """
    numbers: dict[str, Any] = {}
    groups: dict[str, dict[str, Tensor]] = {"low": {}, "high": {}}
    names: list[str] = []
    for run in runs:
        run_names, sensitivity_LN, _ = files.read_sensitivities(run, checkpoint, task)
        if names and run_names != names:
            raise UserError(f"{run}: has sensitivities of {', '.join(run_names)}, {runs[0]} of {', '.join(names)}")
        names = run_names
        high_N = specificity.most_sensitive(sensitivity_LN, top)
        for group, chosen_N in (("low", ~high_N), ("high", high_N)):
            groups[group][run.name] = specificity.correlations(sensitivity_LN[:, chosen_N])
        numbers[run.name] = {
            group: {"pairs": _named(groups[group][run.name], names), "mean": _off_diagonal(groups[group][run.name])}
            for group in groups
        }
        if task == "translation" and (across := _across_tasks(run, checkpoint, names, sensitivity_LN)):
            numbers[run.name]["translation_and_cd"] = across
    for group, maps in groups.items():
        pictures.heat_maps(output / f"correlation.{task}.{group}.png", maps, names)
    both = {name: row["translation_and_cd"] for name, row in numbers.items() if "translation_and_cd" in row}
    if both:
        pictures.row_heat_map(output / "correlation.tasks.png", both, "correlation of translation and cd")
    files.write_numbers(output / f"correlation.{task}.json", numbers)
    return numbers


def score_pruned_models(
    run: Path, checkpoint: str, split: str, data: Path | None, settings: AnalysisSettings, search: BeamSettings
) -> dict[float, dict[str, float]]:
    """Prunes and translates: BLEU of every pair at each share of pruned parameters, each pair by its own specificity.

    The most sensitive parameters stay.

    Differs: whose specificity orders the pruning; paper: not said; released: not in the code; ours: each pair is
    translated by the model that was pruned for it; why: specificity is that of a language.

    Args:
        run: a run with sensitivities.
        checkpoint: such as ``best``.
        split: dev or test.
        data: a prepared corpus; None: the run's.
        settings: shares to prune, and what stays.
        search: beam search.

    Returns:
        {share pruned: {pair: BLEU}}.
    """
    translator, corpus = open_checkpoint(run, checkpoint, data)
    names, sensitivity_LN, D_LN, like = read_specificities(run, checkpoint, "translation", settings.others)
    kept_N = specificity.most_sensitive(sensitivity_LN, settings.top)
    work = [(ratio, i) for ratio in settings.ratios for i in range(len(names))]
    mine: dict[tuple[float, int], float] = {}
    with ProgressBar(f"prune {run.name}", "models", len(work[rank() :: world_size()])) as progress:
        for ratio, i in work[rank() :: world_size()]:
            stays = pruning.pruning_masks(pruning.pruning_order(D_LN[i], kept_N), ratio, like)
            with pruning.pruned_weights(translator.model, stays):
                mine[ratio, i] = _bleu(translator, corpus, names[i], split, settings, search)
            progress.add(1)
    gathered: list[Any] = [mine]
    if world_size() > 1:
        gathered = [None] * world_size()
        torch.distributed.all_gather_object(gathered, mine)
    scores_of = {key: value for rank_scores in gathered for key, value in rank_scores.items()}
    return {ratio: {name: scores_of[ratio, i] for i, name in enumerate(names)} for ratio in settings.ratios}


def draw_pruning_curves(bleu: Mapping[str, Mapping[float, Mapping[str, float]]], output: Path) -> dict[str, Any]:
    """Draws BLEU, mean over pairs, against the pruned share, one curve a run (paper 3, Figure 3).

    Args:
        bleu: {run: {share pruned: {pair: BLEU}}}.
        output: directory of numbers and picture.

    Returns:
        BLEU by run and share: the mean and every pair's.
    """
    means = {run: {ratio: sum(row.values()) / len(row) for ratio, row in rows.items()} for run, rows in bleu.items()}
    pictures.pruning_curves(output / "prune.png", means)
    numbers = {
        run: {f"{ratio:g}": {"mean": means[run][ratio], **row} for ratio, row in rows.items()}
        for run, rows in bleu.items()
    }
    files.write_numbers(output / "prune.json", numbers)
    return numbers


def _bleu(
    translator: Translator,
    corpus: Corpus,
    pair: str,
    split: str,
    settings: AnalysisSettings,
    search: BeamSettings,
) -> float:
    sentences = corpus.split(pair, split)
    pieces = {pair: [sentences.pieces(i)[0] for i in range(len(sentences))]}
    rows = translate_all(translator, pieces, search, settings.batch_tokens)[pair]
    texts = [hypothesis_text(translator, best[0]) if best else "" for best in rows]
    return float(scores.score_pair(texts, sentences.text()[1], split_pair(pair)[1], ScoreSettings())["bleu"])


def _across_tasks(run: Path, checkpoint: str, pairs: Sequence[str], sensitivity_LN: Tensor) -> dict[str, float]:
    """Figure 7: the correlation of a pair's sensitivities in translation with its language's in denoising."""
    if len(list(files.analysis_directory(run, checkpoint, "cd").glob("*.safetensors"))) < 2:
        return {}
    languages, denoising_LN, _ = files.read_sensitivities(run, checkpoint, "cd")
    side = 0 if len({split_pair(pair)[0] for pair in pairs}) == len(pairs) else 1
    return {
        pair: float(specificity.pearson(sensitivity_LN[i], denoising_LN[languages.index(split_pair(pair)[side])]))
        for i, pair in enumerate(pairs)
        if split_pair(pair)[side] in languages
    }


def _named(values: Tensor, names: Sequence[str]) -> dict[str, dict[str, float]]:
    return {name: dict(zip(names, row, strict=True)) for name, row in zip(names, values.tolist(), strict=True)}


def _off_diagonal(values: Tensor) -> float:
    return float(values[~torch.eye(len(values), dtype=torch.bool)].mean())


def _context(pairs: Sequence[str], smoothing: float) -> MethodContext:
    def none(*arguments: Any) -> Any:
        raise UserError("analyse: this method asks for teachers; there are none here")

    no_teachers: Callable[..., Any] = none
    return MethodContext(pairs, smoothing, "auto", no_teachers, no_teachers, no_teachers)
