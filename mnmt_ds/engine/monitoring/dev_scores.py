"""BLEU and chrF of the dev sets while a student trains: every rank decodes its share of the batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mnmt_ds import metric_keys
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.data.language_pairs import split_pair
from mnmt_ds.decoding.beam_search import Hypothesis, SearchSettings
from mnmt_ds.decoding.loading import Translator
from mnmt_ds.decoding.translation import decode_batch, hypothesis_text, make_batches, untranslatable_ids
from mnmt_ds.distributed import device, from_all, from_main, is_main, rank, vocab_parallel_size, world_size
from mnmt_ds.engine.checkpointing import snapshots
from mnmt_ds.engine.settings import ValidationSettings
from mnmt_ds.engine.students import student
from mnmt_ds.engine.students.student import Student
from mnmt_ds.evaluation.scores import ScoreSettings, macro_averages, score_pair
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer
from mnmt_ds.models.weights import describe_model

Found = dict[str, dict[int, list[Hypothesis]]]
"""Hypotheses by pair and by place in its dev set."""
DevScores = dict[str, dict[str, float]]
"""bleu and chrf by pair."""


def dev_scores(
    one: Student, description: Mapping[str, Any], corpus: Corpus, pairs: Sequence[str], settings: ValidationSettings
) -> DevScores:
    """Of a student's present weights; equal on all ranks."""
    return _scores(_whole(one), description, corpus, pairs, settings)


def metrics(scored: DevScores) -> dict[str, float]:
    """``valid/<pair>/{bleu,chrf}`` and ``valid/avg/{bleu,chrf}``; nothing where nothing was scored."""
    if not scored:
        return {}
    values = {
        metric_keys.VALID_FIGURE.of(pair, key): value for pair, row in scored.items() for key, value in row.items()
    }
    return values | {metric_keys.VALID_AVERAGE.of(key): value for key, value in macro_averages(scored).items()}


def dev_bleu(
    models: Mapping[str, Path], shape: ModelSettings, corpus: Corpus, settings: ValidationSettings
) -> dict[str, float]:
    """BLEU of other runs' models, each on its pair's dev set; equal on all ranks. UserError where one does not fit."""
    found: dict[str, float] = {}
    for path in dict.fromkeys(models.values()):
        pairs = [pair for pair, own in models.items() if own == path]
        state = snapshots.read_expert(path, shape, corpus.tokenizer.hash)
        model = Transformer(shape, corpus.tokenizer.size).to(device())
        model.load_state_dict(state, strict=False)
        scored = _scores(model, describe_model(path), corpus, pairs, settings)
        found |= {pair: row["bleu"] for pair, row in scored.items()}
    return found


def _scores(
    model: Transformer, description: Mapping[str, Any], corpus: Corpus, pairs: Sequence[str],
    settings: ValidationSettings,
) -> DevScores:  # fmt: skip
    """Beam search over the first ``bleu_sentences`` sentences of each dev set, as ``mnmt-ds evaluate`` does it."""
    translator = Translator(Path(), model, dict(description), corpus.tokenizer)
    splits = {pair: corpus.split(pair, "dev") for pair in pairs}
    counts = {pair: min(len(split), settings.bleu_sentences or len(split)) for pair, split in splits.items()}
    jobs = []
    for pair, split in splits.items():
        pieces = [split.pieces(i)[0] for i in range(counts[pair])]
        jobs += make_batches(translator, pair, pieces, settings.max_tokens)
    search, banned = SearchSettings(beam=settings.bleu_beam), untranslatable_ids(corpus.tokenizer)
    mine: Found = {pair: {} for pair in pairs}
    model.eval()
    with torch.no_grad():
        for job in jobs[rank() :: world_size()]:
            mine[job.pair] |= dict(zip(job.positions, decode_batch(model, job, search, banned), strict=True))
    model.train()
    everyone: list[Found] = from_all(mine)
    scored: DevScores = {}
    for pair, split in splits.items() if is_main() else ():
        found = {place: best for part in everyone for place, best in part[pair].items()}
        texts = [hypothesis_text(translator, found[i][0]) if found.get(i) else "" for i in range(counts[pair])]
        target = split_pair(pair)[1]
        facts = score_pair(texts, split.text()[1][: counts[pair]], target, ScoreSettings())
        scored[pair] = {"bleu": facts["bleu"], "chrf": facts["chrf"]}
    return from_main(scored)


def _whole(one: Student) -> Transformer:
    """The student's own model; where it is in parts (ZeRO-3, a pipeline, a split vocabulary), a whole copy of it."""
    if (
        one.engine.zero_optimization_stage() < 3
        and not student.is_pipeline_engine(one.engine)
        and vocab_parallel_size() == 1
    ):
        return one.model
    held = student.gather_weights(one.engine)
    copy = Transformer(one.recipe.model, one.model.vocabulary_size).to(device(), next(iter(held.values())).dtype)
    copy.load_state_dict(held, strict=False)
    return copy
