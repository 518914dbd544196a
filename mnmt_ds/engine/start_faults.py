"""Everything for which a run would be refused, in one list, whichever file it is in: recipe, DeepSpeed's JSON, data."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from mnmt_ds.config.faults import KeyPath
from mnmt_ds.data.corpus import MANIFEST, Corpus
from mnmt_ds.distributed import choose_accelerator, world_size
from mnmt_ds.engine.build import check_pairs, first_weights, open_training_data, run_facts
from mnmt_ds.engine.dataloading.dev_batches import dev_tokens
from mnmt_ds.engine.dataloading.training_data import TrainingData
from mnmt_ds.engine.parallel import ds_config
from mnmt_ds.engine.parallel.run_layout import check_run_layout, rank_multiple
from mnmt_ds.engine.recipe import Recipe, load_recipe, load_recipe_with_faults
from mnmt_ds.errors import FaultList, UserError
from mnmt_ds.methods import registry
from mnmt_ds.parallel_layout import ParallelLayout

Value = TypeVar("Value")
RANKS = "deepspeed students placement pipeline tensor"
LAYOUT = f"{RANKS} method sampler simultaneous model train.precision train.loss_implementation"
METHOD = "method sampler students data.pairs validation.bleu_every"
DATA = "data.directory data.pairs"
LOADING = f"{DATA} framing denoising sampler students model train"
"""What the checks of ranks, layout, method, data and loading read of a recipe."""


def load_for_start(path: Path, overrides: Sequence[str]) -> Recipe:
    """Reads a recipe that is to be trained.

    Args:
        path: the recipe.
        overrides: settings that replace the recipe's.

    Returns:
        The recipe.

    Raises:
        UserError: where it has a fault: lists all of them, and all else for which the run would be refused.
    """
    try:
        return load_recipe(path, overrides)
    except UserError:
        raise UserError(*recipe_faults(path, overrides)) from None


def recipe_faults(path: Path, overrides: Sequence[str]) -> list[str]:
    """Lists the faults of a recipe, then all else for which its run would be refused.

    Args:
        path: the recipe.
        overrides: settings that replace the recipe's.

    Returns:
        A line each, each once.

    Raises:
        UserError: where a file as a whole cannot be read.
    """
    recipe, faults, at_fault = load_recipe_with_faults(path, overrides)
    others = start_faults(recipe, at_fault) if recipe is not None else []
    return list(dict.fromkeys([*faults, *others]))


@contextmanager
def all_faults_listed(recipe: Recipe) -> Iterator[None]:
    """Adds the other reasons for which the run would be refused to a UserError from the block.

    Args:
        recipe: of the run.

    Returns:
        Nothing: a context manager.
    """
    try:
        yield
    except UserError as error:
        raise UserError(*dict.fromkeys([*error.faults, *start_faults(recipe)])) from None


def start_faults(recipe: Recipe, at_fault: Sequence[KeyPath] = (), needs_corpus: bool = True) -> list[str]:
    """Lists the reasons for which a run would be refused; on this rank alone.

    A check that reads a setting which is at fault already, or what an earlier check could not open, is left out.

    Args:
        recipe: of the run.
        at_fault: paths of settings that are known to be at fault, for which the recipe has other values.
        needs_corpus: whether it is a fault that nothing is prepared.

    Returns:
        A line each.
    """
    refused = FaultList()

    def check(reads: str, function: Callable[..., Value], *arguments: object) -> Value | None:
        if not any(argument is None for argument in arguments) and not _overlap(reads, at_fault):
            with refused.caught():
                return function(*arguments)
        return None

    def with_pairs(corpus: Corpus) -> Corpus:
        check_pairs(corpus, recipe)
        return corpus

    choose_accelerator()
    multiple, where = rank_multiple(recipe), str(recipe.deepspeed)
    ranks = world_size() if world_size() > 1 else multiple
    written = check("deepspeed", ds_config.parse, recipe.deepspeed)
    faults_before = len(refused.faults)
    check("deepspeed", ds_config.check_keys, written, where)
    check("deepspeed", ds_config.check_sections, written, where)
    filled = check("deepspeed", ds_config.resolve_alone, written, where)
    if len(refused.faults) == faults_before:
        check("deepspeed", ds_config.check_by_deepspeed, filled, where)
    check(LAYOUT, check_run_layout, recipe, written, ranks)
    check(f"{RANKS} train", ds_config.resolve, written, recipe.train, max(1, ranks // multiple), where)
    training_data: Sequence[TrainingData] | None = None
    if needs_corpus or (Path(recipe.data.directory) / MANIFEST).exists():
        corpus = check(DATA, Corpus.open, recipe.data.directory)
        check(f"{DATA} model", first_weights, recipe, corpus)
        corpus = check(DATA, with_pairs, corpus)
        training_data = check(LOADING, open_training_data, recipe, corpus, ParallelLayout(), True)
        sections = recipe.data.pairs, recipe.framing, recipe.model.max_positions
        check(f"{LOADING} validation", dev_tokens, corpus, *sections)
    check(METHOD, registry.check, recipe.method, run_facts(recipe, training_data or ()))
    return refused.faults


def _overlap(reads: str, at_fault: Sequence[KeyPath]) -> bool:
    """Whether a setting that is read is at fault, or holds one that is, or is held by one."""
    return any(
        all(first == second for first, second in zip(name.split("."), keys, strict=False))
        for name in reads.split()
        for keys in at_fault
    )
