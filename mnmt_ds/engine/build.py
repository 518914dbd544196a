"""From a recipe and a prepared corpus to students that can train."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mnmt_ds import __version__
from mnmt_ds.data.corpus import Corpus
from mnmt_ds.decoding.pretrained import open_first_weights
from mnmt_ds.distributed import same_everywhere
from mnmt_ds.engine.checkpointing import frozen_weights
from mnmt_ds.engine.checkpointing.best_checkpoints import BestCheckpoints
from mnmt_ds.engine.checkpointing.frozen_weights import open_frozen
from mnmt_ds.engine.dataloading.data_iterator import DataIterator
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.monitoring.dev_scores import dev_bleu
from mnmt_ds.engine.parallel import ds_config, stage_balance
from mnmt_ds.engine.parallel.build_engine import build_engine
from mnmt_ds.engine.parallel.engine import Engine, MethodEvalStates
from mnmt_ds.engine.recipe import Recipe, students_of
from mnmt_ds.engine.students.peer_exchange import PeerExchange
from mnmt_ds.engine.students.student import Student
from mnmt_ds.engine.students.weight_search import run_trials
from mnmt_ds.engine.teacher_setup import build_teacher_pool
from mnmt_ds.errors import UserError
from mnmt_ds.methods.entry import RunFacts
from mnmt_ds.methods.method import MethodContext
from mnmt_ds.methods.peers import Peers
from mnmt_ds.methods.registry import build
from mnmt_ds.models.frozen import is_frozen
from mnmt_ds.models.pretrained import WeightSource, expected_shapes
from mnmt_ds.parallel_layout import ParallelLayout
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.teachers.teacher_pool import TeacherPool
from mnmt_ds.tracking import Tracker, run_and_student_settings


def open_corpus(recipe: Recipe) -> tuple[Corpus, list[str]]:
    """Opens the prepared corpus; all ranks of the job call this together.

    Args:
        recipe: of the run.

    Returns:
        The corpus and the run's pairs.

    Raises:
        UserError: that names a pair that was not prepared, or a node whose data or versions are not those of the others
            (the launcher's checks find more, and sooner).
    """
    corpus = Corpus.open(recipe.data.directory)
    same_everywhere(
        {"mnmt_ds": __version__, "torch": torch.__version__, "data": corpus.hash, "tokenizer": corpus.tokenizer.hash}
    )
    check_pairs(corpus, recipe)
    return corpus, list(recipe.data.pairs)


def check_pairs(corpus: Corpus, recipe: Recipe) -> None:
    """Checks that all pairs of a run, those that it watches included, were prepared.

    Args:
        corpus: prepared.
        recipe: of the run.

    Raises:
        UserError: that names those which were not.
    """
    missing = [pair for pair in (*recipe.data.pairs, *recipe.validation.watch) if pair not in corpus.pairs]
    if missing:
        raise UserError(f"{corpus.directory}: {', '.join(missing)} not prepared there; run mnmt-ds prepare again")


def first_weights(recipe: Recipe, corpus: Corpus) -> tuple[WeightSource | None, str]:
    """Opens the pretrained model that a run starts from; its weights are not read yet.

    Args:
        recipe: of the run.
        corpus: prepared.

    Returns:
        The model, and a line that says what is taken from it; None and an empty line where weights are drawn.

    Raises:
        UserError: where the model cannot be used, or its tokenizer is not the corpus's.
    """
    if not recipe.model.init:
        return None, ""
    return open_first_weights(recipe.model.init, corpus.tokenizer, corpus.directory)


def open_training_data(
    recipe: Recipe, corpus: Corpus, layout: ParallelLayout, resume: bool = False
) -> list[TrainingData]:
    """Opens every student's training data.

    Args:
        recipe: of the run.
        corpus: prepared.
        layout: the ranks that share the data.
        resume: what the samplers start with will come from a checkpoint.

    Returns:
        One entry a student, in order.
    """
    training_data = []
    for _, student_recipe in students_of(recipe):
        training_data.append(
            TrainingData(
                corpus,
                list(student_recipe.data.pairs),
                student_recipe.framing,
                student_recipe.sampler,
                student_recipe.train,
                student_recipe.model.max_positions,
                layout,
                student_recipe.denoising,
            )
        )
    for data in () if resume else training_data:
        data.sampler.start()
    return training_data


def run_facts(recipe: Recipe, training_data: Sequence[TrainingData]) -> RunFacts:
    """Collects what a method's check may know of a run before it is built.

    Args:
        recipe: of the run.
        training_data: every student's; empty where it is not known, and then no sizes are.

    Returns:
        Pairs, sizes, students and samplers.
    """
    students = students_of(recipe)
    sizes = dict(zip(recipe.data.pairs, training_data[0].sizes, strict=True)) if training_data else {}
    names, samplers = [name for name, _ in students], [student_recipe.sampler for _, student_recipe in students]
    return RunFacts(recipe.data.pairs, sizes, names, samplers, recipe.validation.bleu_every)


def last_update(recipe: Recipe, training_data: TrainingData) -> int:
    """Computes how many updates the run takes at most, if every epoch takes as many as the first.

    Args:
        recipe: of the run.
        training_data: of its first student.

    Returns:
        A number of updates.
    """
    by_epochs = recipe.train.max_epochs * training_data.plan(0).updates
    return min(recipe.train.max_steps or by_epochs, by_epochs)


def make_students(
    recipe: Recipe, config: ds_config.Json, corpus: Corpus, exchange: PeerExchange, dev_tokens: dict[str, int],
    tracker: Tracker, source: WeightSource | None = None, frozen: Mapping[str, str] | None = None,
) -> list[Student]:  # fmt: skip
    """Builds this rank's students, each on an engine of its own, with a log of its own where the run has several.

    Args:
        recipe: of the run.
        config: DeepSpeed's configuration, without "auto".
        corpus: prepared.
        exchange: with every student's training data; the students are entered into it.
        dev_tokens: dev tokens of each pair.
        tracker: the run's log.
        source: a pretrained model that they start from; None: their weights are drawn.
        frozen: of a run that goes on, by student, the SHA-256 of its weights that are not trained; None: a new run.

    Returns:
        The students, in order.
    """
    layout = exchange.peer_group.layout
    last = last_update(recipe, next(iter(exchange.training_data.values())))
    costs = stage_balance.costs(recipe, corpus.tokenizer.size) if recipe.pipeline is not None else ()
    for name, student_recipe in students_of(recipe):
        if name not in exchange.peer_group.own_students:
            continue
        training_data = exchange.training_data[name]
        digest, size = (frozen or {}).get(name, ""), corpus.tokenizer.size
        weights = open_frozen(student_recipe.directory, digest, student_recipe.model, size) if digest else source
        engine = build_engine(student_recipe, config, size, costs, layout, weights)
        log, peers = tracker, None
        if student_recipe is not recipe:
            layout.ranks.on_main_first(student_recipe.directory.mkdir, 0o777, True, True)
            _, settings = run_and_student_settings(student_recipe.tracking, recipe.name)
            log = Tracker(student_recipe.directory, settings, layout.is_main, student_recipe.name)
            peers = exchange.peers_of(name, last, run_trials)
        eval_states = engine.method_eval_states(student_recipe.data.pairs)
        best = BestCheckpoints(student_recipe.data.pairs, student_recipe.validation, dev_tokens)
        context = make_context(
            student_recipe, engine, corpus, training_data, tracker.info, peers, eval_states, best.overall_loss
        )
        exchange.students[name] = Student(
            name,
            engine,
            build(student_recipe.method, context),
            best,
            student_recipe,
            DataIterator(training_data),
            log,
            eval_states,
            exchange.prefetch_peer_states,
            frozen=digest or keep_frozen(student_recipe, engine, size),
        )
    return list(exchange.students.values())


def keep_frozen(recipe: Recipe, engine: Engine, vocabulary_size: int) -> str:
    """Writes the weights that a new run does not train beside its models; all of the student's ranks call this.

    Args:
        recipe: of the student.
        engine: with its first weights.
        vocabulary_size: V.

    Returns:
        The file's SHA-256; empty where all weights are trained.
    """
    names = [name for name in expected_shapes(recipe.model, vocabulary_size) if is_frozen(recipe.model, name)]
    if not names:
        return ""
    weights = engine.gather_weights(everywhere=False, names=names)
    return engine.layout.ranks.on_main_first(frozen_weights.write, recipe.directory, weights)


def make_context(
    recipe: Recipe, engine: Engine, corpus: Corpus, training_data: TrainingData, log: Callable[[str], None],
    peers: Peers | None, eval_states: MethodEvalStates, overall_loss: Callable[[Mapping[str, float]], float],
) -> MethodContext:  # fmt: skip
    """Collects what a student's method may use of the run.

    Args:
        recipe: of the student.
        engine: of the student.
        corpus: prepared.
        training_data: of the student.
        log: hears on the main rank what is set up.
        peers: the run's other students; None: the student is alone.
        eval_states: the student's own states without dropout.
        overall_loss: the dev loss that selects the overall best checkpoint.

    Returns:
        The context.
    """
    vocabularies: dict[str, Tensor] = {}
    vocab_shard, device = engine.vocab_shard, engine.layout.device

    def target_vocabulary(language: str) -> Tensor:
        if language not in vocabularies:
            words = slice(vocab_shard.start, vocab_shard.stop) if vocab_shard is not None else slice(None)
            vocabularies[language] = training_data.target_vocabulary(language)[words].to(device)
        return vocabularies[language]

    def teacher_pool(settings: TeacherSettings, of_other_runs: bool = False) -> TeacherPool:
        if settings.disk is not None and peers is not None:
            settings = settings.model_copy(update={"disk": settings.disk / peers.name})
        return build_teacher_pool(recipe, settings, training_data, engine, log, of_other_runs)

    return MethodContext(
        pairs=list(recipe.data.pairs),
        smoothing=recipe.train.label_smoothing,
        implementation=recipe.train.loss_implementation,
        build_teacher_pool=teacher_pool,
        eval_states=eval_states.states,
        target_vocabulary=target_vocabulary,
        request_eval_states=eval_states.request,
        partitioned=engine.eval_states_gather_weights,
        overall_loss=overall_loss,
        max_best_versions=recipe.validation.max_best_versions,
        total_updates=lambda: last_update(recipe, training_data),
        group=vocab_shard.group if vocab_shard is not None else None,
        peers=peers,
        ranks=engine.layout.ranks,
        dev_bleu=lambda models: dev_bleu(models, recipe.model, corpus, recipe.validation, engine.layout.ranks),
    )
