"""BLEU and chrF of the dev sets while a student trains: ranks share the decoding of batches, the scoring of pairs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mnmt_ds import metric_keys
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.decoding.beam_search import BeamSettings
from mnmt_ds.decoding.loading import Translator
from mnmt_ds.decoding.translation import decode_batch, hypothesis_text, make_batches, untranslatable_ids
from mnmt_ds.distributed import RankGroup, device
from mnmt_ds.engine.checkpointing import snapshots
from mnmt_ds.engine.parallel.engine import Engine
from mnmt_ds.engine.settings import ValidationSettings
from mnmt_ds.evaluation.scores import AVERAGED, ScoreSettings, ceilings, macro_averages, score_pair
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.weights import describe_model, read_plain_weights

LOG = logging.getLogger(__name__)
DevScores = dict[str, dict[str, float]]
"""bleu, chrf and their ceilings by pair."""


def dev_scores(
    engine: Engine, description: Mapping[str, Any], corpus: Corpus, pairs: Sequence[str], settings: ValidationSettings
) -> DevScores:
    """Scores a student's present weights.

    Args:
        engine: of the student; all of its ranks call this together.
        description: what a model directory says of the model.
        corpus: with the dev sets.
        pairs: names of language pairs.
        settings: how much is translated, and how.

    Returns:
        Scores by pair, equal on all ranks.
    """
    return _scores(engine.whole_model(), description, corpus, pairs, settings, engine.layout.ranks)


def dev_score_metrics(scores: DevScores) -> dict[str, float]:
    """Names dev scores by metric key: each pair's scores and their means.

    Args:
        scores: by pair; empty where nothing was scored.

    Returns:
        Values by metric key; empty where nothing was scored.
    """
    if not scores:
        return {}
    values = {
        metric_keys.VALID_FIGURE.of(pair, key): value for pair, row in scores.items() for key, value in row.items()
    }
    return values | {
        metric_keys.VALID_AVERAGE.of(key): value for key, value in macro_averages(scores, AVERAGED).items()
    }


def dev_bleu(
    models: Mapping[str, Path], shape: ModelSettings, corpus: Corpus, settings: ValidationSettings, ranks: RankGroup
) -> dict[str, float]:
    """Scores other runs' models, each on its pair's dev set.

    Args:
        models: model directories by pair.
        shape: the student's, which theirs must be.
        corpus: with the dev sets.
        settings: how much is translated, and how.
        ranks: who translate; they call this together.

    Returns:
        BLEU by pair, equal on all ranks.

    Raises:
        UserError: where a model does not fit.
    """
    bleu: dict[str, float] = {}
    for path in dict.fromkeys(models.values()):
        pairs = [pair for pair, directory in models.items() if directory == path]
        snapshots.check_expert(path, shape, corpus.tokenizer.hash)
        model = Transformer(shape.plain(), corpus.tokenizer.size).to(device())
        model.load_state_dict(read_plain_weights(path), strict=False)
        scores = _scores(model, describe_model(path), corpus, pairs, settings, ranks)
        bleu |= {pair: row["bleu"] for pair, row in scores.items()}
    return bleu


def _scores(
    model: Transformer, description: Mapping[str, Any], corpus: Corpus, pairs: Sequence[str],
    settings: ValidationSettings, ranks: RankGroup,
) -> DevScores:  # fmt: skip
    """Beam search over the first ``bleu_sentences`` sentences of each dev set, as ``mnmt-ds evaluate`` does it."""
    translator = Translator(Path(), model, dict(description), corpus.tokenizer)
    splits = {pair: corpus.split(pair, "dev") for pair in pairs}
    counts = {pair: min(len(split), settings.bleu_sentences or len(split)) for pair, split in splits.items()}
    jobs = []
    for pair, split in splits.items():
        pieces = [split.pieces(i)[0] for i in range(counts[pair])]
        jobs += make_batches(translator, pair, pieces, settings.max_tokens)
    search = BeamSettings(beam=settings.bleu_beam, ban_unknown=settings.bleu_ban_unknown)
    banned = untranslatable_ids(corpus.tokenizer, search)
    texts: dict[str, dict[int, str]] = {pair: {} for pair in pairs}
    without = 0
    model.eval()
    with torch.no_grad():
        for job in jobs[ranks.rank :: ranks.size]:
            for position, beams in zip(job.positions, decode_batch(model, job, search, banned), strict=True):
                texts[job.pair][position] = hypothesis_text(translator, beams[0]) if beams else ""
                without += not beams
    model.train()
    gathered = ranks.gather(texts)
    if (total := sum(ranks.gather(without))) and ranks.is_main:
        LOG.warning("dev scores: %d sentence(s) have no translation, for the model's scores are not finite there;"
                    " they count as empty", total)  # fmt: skip
    scores: DevScores = {}
    for pair in pairs[ranks.rank :: ranks.size]:  # each rank scores its share: one alone would keep all others waiting
        by_position = {position: text for rank_texts in gathered for position, text in rank_texts[pair].items()}
        hypotheses = [by_position.get(i, "") for i in range(counts[pair])]
        target, references = split_pair(pair)[1], splits[pair].text()[1][: counts[pair]]
        figures = score_pair(hypotheses, references, target, ScoreSettings())
        reachable = corpus.tokenizer.round_trip(references, target, without_unknown=search.ban_unknown)
        figures |= ceilings(reachable, references, figures["bleu_tokenizer"])
        scores[pair] = {name: figures[name] for name in AVERAGED}
    all_scores = {pair: row for rank_scores in ranks.gather(scores) for pair, row in rank_scores.items()}
    return {pair: all_scores[pair] for pair in pairs}
