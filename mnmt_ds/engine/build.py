"""From a recipe and a prepared corpus to students that can train."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnmt_ds import __version__
from mnmt_ds.batch import Batch
from mnmt_ds.config import Settings
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.distributed import (
    data_parallel_size,
    device,
    is_main,
    on_main_first,
    same_everywhere,
    seed_of,
    vocab_parallel_size,
)
from mnmt_ds.engine.checkpointing.best_checkpoints import BestCheckpoints
from mnmt_ds.engine.dataloading.data_iterator import DataIterator
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.monitoring.dev_scores import dev_bleu
from mnmt_ds.engine.parallel import ds_config, pipeline_engine, stage_balance, vocab_parallel
from mnmt_ds.engine.recipe import Recipe, resolved_method, students_of
from mnmt_ds.engine.settings import batches_per_update
from mnmt_ds.engine.students import student, weight_search
from mnmt_ds.engine.students.eval_states import PrecomputedEvalStates
from mnmt_ds.engine.students.peer_exchange import PeerExchange
from mnmt_ds.engine.students.student import Student
from mnmt_ds.engine.teacher_setup import build_teacher_pool
from mnmt_ds.errors import UserError
from mnmt_ds.methods.entry import RunFacts
from mnmt_ds.methods.method import MethodContext
from mnmt_ds.methods.peers import Peers
from mnmt_ds.methods.registry import build
from mnmt_ds.models.settings import ModelSettings
from mnmt_ds.models.transformer import Transformer, initialise
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.teachers.teacher_pool import TeacherPool
from mnmt_ds.tracking import Tracker


def open_corpus(recipe: Recipe) -> tuple[Corpus, list[str]]:
    """The prepared corpus and the run's pairs; UserError names a pair that was not prepared, or a node
    whose data or versions are not those of the others (the launcher's checks find more, and sooner)."""
    corpus = Corpus.open(recipe.data.directory)
    same_everywhere(
        {"mnmt_ds": __version__, "torch": torch.__version__, "data": corpus.hash, "tokenizer": corpus.tokenizer.hash}
    )
    pairs = list(recipe.data.pairs)
    missing = [pair for pair in pairs if pair not in corpus.pairs]
    if missing:
        raise UserError(f"{corpus.directory}: {', '.join(missing)} not prepared there; run mnmt-ds prepare again")
    return corpus, pairs


def open_streams(recipe: Recipe, corpus: Corpus, resume: bool = False) -> list[TrainingData]:
    """Every student's training data. ``resume``: what the samplers begin with will come from a checkpoint."""
    streams = [
        TrainingData(
            corpus, list(own.data.pairs), own.framing, own.sampler, own.train, own.model.max_positions, own.denoising
        )
        for _, own in students_of(recipe)
    ]
    for stream in () if resume else streams:
        stream.sampler.start()
    return streams


def make_students(
    recipe: Recipe, config: ds_config.Json, corpus: Corpus, streams: Sequence[TrainingData], dev_tokens: dict[str, int],
    tracker: Tracker, exchange: PeerExchange,
) -> list[Student]:  # fmt: skip
    """This rank's students, each on an engine of its own and with a log of its own where the run has several."""
    last = last_update(recipe, streams[0])
    costs = stage_balance.costs(recipe, corpus.tokenizer.size) if recipe.pipeline is not None else ()
    for (name, own), stream in zip(students_of(recipe), streams, strict=True):
        if name not in exchange.column.own:
            continue
        engine, log, peers = make_engine(own, config, corpus, costs), tracker, None
        if own is not recipe:
            on_main_first(own.directory.mkdir, 0o777, True, True)
            log = Tracker(own.directory, own.tracking.model_copy(update={"wandb": "off"}), is_main(), {}, own.name)
            peers = exchange.peers_of(name, last, weight_search.run)
        foresight = PrecomputedEvalStates(engine, own.data.pairs) if student.is_pipeline_engine(engine) else None
        method = build(own.method, make_context(own, engine, corpus, stream, tracker.info, peers, foresight))
        best = BestCheckpoints(own.data.pairs, own.validation.selection, dev_tokens)
        bring = partial(_bring, exchange, foresight)
        exchange.students[name] = Student(name, engine, method, best, own, DataIterator(stream), log, bring)
    return list(exchange.students.values())


def _bring(
    exchange: PeerExchange,
    foresight: PrecomputedEvalStates | None,
    one: Student,
    group: Sequence[Batch],
    number: int | str,
) -> None:
    exchange.bring(one, group, number)
    if foresight is not None:
        foresight.bring(group)


def last_update(recipe: Recipe, stream: TrainingData) -> int:
    """Updates at most, where every epoch takes as many as the first."""
    by_epochs = recipe.train.max_epochs * stream.plan(0).updates
    return min(recipe.train.max_steps or by_epochs, by_epochs)


def facts(recipe: Recipe, streams: Sequence[TrainingData]) -> RunFacts:
    """What a method's check is told."""
    students = students_of(recipe)
    sizes = dict(zip(recipe.data.pairs, streams[0].sizes, strict=True))
    names, samplers = [name for name, _ in students], [own.sampler for _, own in students]
    return RunFacts(recipe.data.pairs, sizes, names, samplers, recipe.validation.bleu_every)


def make_engine(recipe: Recipe, config: ds_config.Json, corpus: Corpus, costs: Sequence[float]) -> Any:
    """A model with its first weights, on an engine; pipeline stages are cut by ``costs``, equal for all students."""
    if recipe.pipeline is not None:
        words = vocab_parallel.own_words(corpus.tokenizer.size)
        return pipeline_engine.initialise_engine(recipe, config, corpus.tokenizer.size, costs, words)
    if vocab_parallel_size() > 1:
        return vocab_parallel.initialise_engine(recipe, config, corpus.tokenizer.size)
    torch.manual_seed(seed_of(recipe.train.seed, "weights"))
    return student.initialise_engine(initialise(Transformer(recipe.model, corpus.tokenizer.size)), config)


def make_context(
    recipe: Recipe, engine: Any, corpus: Corpus, stream: TrainingData, say: Callable[[str], None], peers: Peers | None,
    foresight: PrecomputedEvalStates | None,
) -> MethodContext:  # fmt: skip
    """What a student's method may need of the run."""
    vocabularies: dict[str, Tensor] = {}
    words = student.vocab_shard_of_engine(engine)

    def target_vocabulary(language: str) -> Tensor:
        if language not in vocabularies:
            mine = slice(words.start, words.stop) if words is not None else slice(None)
            vocabularies[language] = stream.target_vocabulary(language)[mine].to(device())
        return vocabularies[language]

    def teacher_pool(settings: TeacherSettings) -> TeacherPool:
        if settings.disk is not None and peers is not None:
            settings = settings.model_copy(update={"disk": settings.disk / peers.name})
        return build_teacher_pool(recipe, settings, recipe.directory, stream, engine, say)

    return MethodContext(
        pairs=list(recipe.data.pairs),
        smoothing=recipe.train.label_smoothing,
        implementation=recipe.train.loss_implementation,
        build_teacher_pool=teacher_pool,
        eval_states=partial(student.eval_states, engine) if foresight is None else foresight.states,
        target_vocabulary=target_vocabulary,
        request_eval_states=foresight.foresee if foresight is not None else lambda wanted: None,
        partitioned=engine.zero_optimization_stage() == 3,
        total_updates=lambda: last_update(recipe, stream),
        group=words.group if words is not None else None,
        peers=peers,
        dev_bleu=lambda models: dev_bleu(models, recipe.model, corpus, recipe.validation),
    )


def description(recipe: Recipe, corpus: Corpus) -> dict[str, Any]:
    """What a model directory says of itself."""
    return {
        "model": recipe.model.model_dump(mode="json"),
        "vocabulary_size": corpus.tokenizer.size,
        "framing": recipe.framing.model_dump(mode="json"),
        "pairs": list(recipe.data.pairs),
        "tokenizer_hash": corpus.tokenizer.hash,
        "data_hash": corpus.hash,
    }


def fingerprint(recipe: Recipe, corpus: Corpus) -> dict[str, Any]:
    """What a checkpoint must share with the run that resumes from it."""
    dynamic = {"sampler": _what_counts(recipe.sampler)} if recipe.sampler.name != "temperature" else {}
    students = [[name, own.train.seed, _what_counts(own.sampler)] for name, own in students_of(recipe)]
    several = {"students": students, **({"simultaneous": True} if recipe.simultaneous else {})}
    return {
        **(several if recipe.students else dynamic),
        "data": corpus.hash,
        "tokenizer": corpus.tokenizer.hash,
        "pairs": list(recipe.data.pairs),
        "model": _architecture(recipe.model),
        "method": json.loads(json.dumps(recipe.method.model_dump(mode="json"))),
        "framing": recipe.framing.model_dump(mode="json"),
        "batches_per_update": batches_per_update(recipe.train, data_parallel_size()),
        "precision": recipe.train.precision,
        "seed": recipe.train.seed,
    }


def _what_counts(sampler: Settings) -> dict[str, Any]:
    """A sampler's settings less the place of chi-IBR's baseline, whose values are in the sampler's state."""
    return sampler.model_dump(mode="json", exclude={"baseline"})


def check_fingerprint(found: dict[str, Any], wanted: dict[str, Any], where: Path) -> None:
    """UserError that names what changed since the checkpoint, with both values."""
    if "model" in found:  # a setting that came later has its default there
        found = {**found, "model": _architecture(ModelSettings(**found["model"]))}
    if "method" in found:  # older checkpoints have null for what a profile or the pairs decide
        found = {**found, "method": resolved_method(found["method"], found.get("pairs", wanted["pairs"]))}
    for key, value in wanted.items():
        if found.get(key) != value:
            raise UserError(
                f"{where}: written with {key} {found.get(key)!r}, this run has {value!r};"
                f" resume with the former, or train anew in another directory"
            )


def _architecture(model: ModelSettings) -> dict[str, Any]:
    """The model's settings but for what changes no number: recomputation may be switched between two legs of a run."""
    return dict(json.loads(json.dumps(model.model_dump(mode="json", exclude={"activation_checkpointing"}))))
