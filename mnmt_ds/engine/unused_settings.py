"""Settings that a recipe gives and that have no effect, because of what its other settings say.

``tests/unit/test_unused_settings.py`` has a recipe for every entry of the table.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from mnmt_ds.config import Settings
from mnmt_ds.data.corpus import MANIFEST, Corpus, changed_settings
from mnmt_ds.data.denoising import DaeTask, DenoisingSettings
from mnmt_ds.data.framing import FramingSettings
from mnmt_ds.data.readers.registry import READERS
from mnmt_ds.data.settings import DataSettings, Files, SplitSettings, TokenizerSettings
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.settings import PipelineSettings, TrainSettings, ValidationSettings
from mnmt_ds.methods.denoising import DenoisingLossSettings
from mnmt_ds.methods.intra_distillation import IntraDistillationSettings
from mnmt_ds.methods.lssd import LssdSettings
from mnmt_ds.methods.pareto import ParetoSettings
from mnmt_ds.methods.registry import all_sections
from mnmt_ds.models.settings import FreezeSettings, ModelSettings
from mnmt_ds.packed_records import LEAST_PAIRS
from mnmt_ds.samplers.ccl_m import CclMSettings
from mnmt_ds.teachers.settings import TeacherSettings
from mnmt_ds.tracking import TrackingSettings


class Unused(NamedTuple):
    """Settings of one section that have no effect under a condition."""

    keys: str
    """Their names, between spaces."""
    reason: str
    """What they would need, after "since"."""
    applies: Callable[[Any, Recipe], bool]
    """The condition, on the section and the whole recipe."""


def settings_without_effect(recipe: Recipe) -> list[str]:
    """Lists the settings that a recipe gives though others of its settings leave them without effect.

    Those at their default, or at the value that ``profile: released`` fills, are no fault: recipes that a run has
    written out hold all of them.

    Args:
        recipe: of a run.

    Returns:
        A line each reason, in the order of the sections.
    """
    lines = []
    for path, section in _sections(recipe, ""):
        for unused in TABLE.get(type(section), ()):
            keys = [key for key in unused.keys.split() if _is_given(section, key, recipe)]
            if keys and unused.applies(section, recipe):
                names = ", ".join(f"{path}{key}" for key in keys)
                lines.append(f"{names}: no effect, since {unused.reason}")
    return lines


def start_warnings(recipe: Recipe, corpus: Corpus) -> list[str]:
    """Lists what a start should say of a recipe that it does not refuse.

    Args:
        recipe: of a run.
        corpus: prepared, which the run trains on.

    Returns:
        Settings without effect, then the ``data`` settings that are not those with which the corpus was prepared; a
        recipe that says of its data no more than directory and pairs leaves them to the corpus.
    """
    warnings = settings_without_effect(recipe)
    given = recipe.data.model_dump(exclude_defaults=True).keys() - {"directory", "pairs"}
    changed = [name for name in changed_settings(corpus.manifest, recipe.data) if given and name != "pairs"]
    if changed:
        warnings.append(
            f"{corpus.directory / MANIFEST}: prepared with other settings than the recipe's (data: {', '.join(changed)}"
            ") and taken as it is; for a new run with the recipe's run mnmt-ds prepare first"
        )
    return warnings


def _sections(value: Any, path: str) -> Iterator[tuple[str, Settings]]:
    """All settings objects inside a value with their dotted paths, each ending in a dot."""
    if isinstance(value, Settings):
        yield path, value
        for name, inner in value:
            yield from _sections(inner, f"{path}{name}.")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _sections(inner, f"{path}{name}.")
    elif isinstance(value, tuple | list):
        for number, inner in enumerate(value):
            yield from _sections(inner, f"{path}{number}.")


def _is_given(section: Settings, key: str, recipe: Recipe) -> bool:
    """Whether a setting has neither its default nor the profile's value."""
    value = getattr(section, key)
    usual = [type(section).model_fields[key].get_default(call_default_factory=True)]
    if getattr(section, "profile", recipe.profile) == "released":
        released = section.released(section.model_dump()).get(key)
        usual.append(type(value).model_validate(released) if isinstance(released, dict) else released)
    return value not in usual


def _has_files(data: DataSettings) -> bool:
    return any(data.files_of(pair).train for pair in data.pairs)


def _reads_catalogs(data: DataSettings) -> bool:
    """Whether training text, or an entry of ``corpora``, is the system's catalogs."""
    if data.source == "gettext" or (data.source == "auto" and not _has_files(data)):
        return True
    files = [data.files_of(pair) for pair in data.pairs]
    return any(entry.format == "gettext" for each in files for entry in (*each.train, *each.dev, *each.test))


def _are_given(split: str, section: SplitSettings, recipe: Recipe) -> bool:
    return all(getattr(recipe.data.files_of(pair), split) for pair in recipe.data.pairs)


def _is_not_read(key: str, section: Files, recipe: Recipe) -> bool:
    return key not in READERS[section.format].accepts


def _formats_with(key: str) -> str:
    return ", ".join(name for name, reader in READERS.items() if key in reader.accepts)


def _tasks(recipe: Recipe) -> set[str]:
    """Names of the tasks on text of one language."""
    return {task.name for task in recipe.denoising.tasks} if recipe.denoising else set()


def _task_of(section: DenoisingLossSettings, recipe: Recipe) -> str:
    """Name of the task whose method has these settings; empty where there is none."""
    tasks = getattr(recipe.method, "tasks", {})
    return next((name for name, inner in tasks.items() if section in (inner, getattr(inner, "base", None))), "")


def _caches_nothing(teachers: TeacherSettings) -> bool:
    return teachers.on_device == "layers" or teachers.cache == "off"


def _has_pair_bests(recipe: Recipe) -> bool:
    return any(isinstance(s, LssdSettings) and s.teacher == "pair" for s in all_sections(recipe.method))


def _has_overall_teacher(recipe: Recipe) -> bool:
    return any(getattr(method, "teacher", "") == "overall" for method in all_sections(recipe.method))


_WITHOUT_GATE = "method lssd has no gate with variant: whole"
TABLE: Mapping[type[Settings], Sequence[Unused]] = {
    Recipe: [
        Unused("simultaneous", "there is one student; list two or more under students", lambda r, _: not r.students),
        Unused(
            "sampler",
            "each of the students has its own; set it in the entries of students",
            lambda r, _: r.students and r.sampler not in [student.sampler for student in r.students],
        ),
    ],
    DataSettings: [
        Unused(
            "corpora",
            "data.source takes other training text; set it to files",
            lambda s, _: s.source in ("gettext", "cldr") and _has_files(s),
        ),
        Unused("catalogs", "no text is taken from the system's catalogs", lambda s, _: not _reads_catalogs(s)),
        Unused(
            "min_catalog_pairs",
            "it is for data.source: auto without corpora",
            lambda s, _: s.source != "auto" or _has_files(s),
        ),
    ],
    Files: [
        Unused(key, f"format does not take it, only {_formats_with(key)} do", partial(_is_not_read, key))
        for key in ("columns", "split", "codes")
    ],
    SplitSettings: [
        Unused(key, f"every pair has a given {key} set", partial(_are_given, key)) for key in ("dev", "test")
    ],
    TokenizerSettings: [
        Unused(
            "kind size coverage hard_limit normalization byte_fallback temperature",
            "data.tokenizer.model is a tokenizer that is used as it is",
            lambda s, _: s.given is not None,
        ),
        Unused(
            "sample",
            "data.tokenizer.model is a tokenizer that learns no new pieces",
            lambda s, _: s.given is not None and not s.new_pieces,
        ),
    ],
    FramingSettings: [
        Unused("encoder_langtok_position", "encoder_langtok is none", lambda s, _: s.encoder_langtok == "none"),
        Unused("decoder_langtok_position", "decoder_langtok is none", lambda s, _: s.decoder_langtok == "none"),
    ],
    DenoisingSettings: [
        Unused("block_tokens", "denoising.unit is sentence", lambda s, _: s.unit == "sentence"),
        Unused("cut_counts_tag", "denoising.cut_to_shortest is false", lambda s, _: not s.cut_to_shortest),
        Unused("end_is_word", "no task is cd or mlm", lambda s, recipe: not _tasks(recipe) & {"cd", "mlm"}),
    ],
    DaeTask: [
        Unused(
            "permute_sentences",
            "denoising.unit is sentence",
            lambda _, recipe: recipe.denoising is not None and recipe.denoising.unit == "sentence",
        ),
        Unused("infill_length", "infill is 0", lambda s, _: not s.infill),
        Unused("random", "mask is 0", lambda s, _: not s.mask),
    ],
    CclMSettings: [Unused("ready stagger", "latest: 0 lets all pairs join at once", lambda s, _: not s.latest)],
    ModelSettings: [
        Unused(
            "encoder_projection",
            "no task predicts on the encoder; it is for denoising with cd or mlm",
            lambda s, recipe: not _tasks(recipe) & {"cd", "mlm"},
        ),
    ],
    FreezeSettings: [
        Unused("encoder_layers", "model.freeze.encoder is the whole encoder", lambda s, _: s.encoder),
        Unused("decoder_layers", "model.freeze.decoder is the whole decoder", lambda s, _: s.decoder),
        Unused(
            "embeddings",
            "model.lora trains no embeddings unless lora.embeddings says so",
            lambda s, recipe: recipe.model.lora is not None,
        ),
    ],
    DenoisingLossSettings: [
        Unused(
            "encoder_weight",
            "the encoder predicts nothing in this task",
            lambda s, recipe: _task_of(s, recipe) in ("dae", "mass"),
        ),
        Unused("decoder_weight", "the decoder predicts nothing in mlm", lambda s, recipe: _task_of(s, recipe) == "mlm"),
        Unused(
            "divergence_share",
            "it is for intra_distillation around it",
            lambda s, recipe: s in getattr(recipe.method, "tasks", {}).values(),
        ),
    ],
    IntraDistillationSettings: [Unused("p q", "schedule is fixed", lambda s, _: s.schedule == "fixed")],
    LssdSettings: [
        Unused("gate_level gate_student", _WITHOUT_GATE, lambda s, _: s.variant == "whole"),
        Unused("cap", "variant is not adaptive", lambda s, _: s.variant != "adaptive"),
        Unused("selective_below selective_strict", "variant is not selective", lambda s, _: s.variant != "selective"),
    ],
    ParetoSettings: [
        Unused("alpha", "rule is not uni, bi or vanilla", lambda s, _: s.rule not in ("uni", "bi", "vanilla")),
        Unused("fixed_start", "rule is not bi or vanilla", lambda s, _: s.rule not in ("bi", "vanilla")),
        Unused("tolerance_bits", "rule is not uni", lambda s, _: s.rule != "uni"),
        Unused("initial schedule schedule_unit ties clip", "rule is not auto or dynamic", lambda s, _: not s.searched),
        Unused(
            "trials",
            "nothing is tried: rule is not auto or dynamic, and extra_updates is false",
            lambda s, _: not (s.searched or s.extra_updates),
        ),
        Unused(
            "interval interval_counts",
            "rule: lsmd has fixed weights",
            lambda s, _: s.rule == "lsmd" and not s.extra_updates,
        ),
    ],
    TeacherSettings: [
        Unused(
            "cache_dtype memory_gib disk_gib",
            "no states are cached (on_device: layers, or cache: off)",
            lambda s, _: _caches_nothing(s),
        ),
        Unused("memory_gib", "cache is disk", lambda s, _: s.cache == "disk"),
        Unused(
            "disk_gib",
            "no states are cached on disk; set disk, and cache: auto or disk",
            lambda s, _: not _caches_nothing(s) and (s.disk is None or s.cache == "ram"),
        ),
    ],
    TrainSettings: [
        Unused("ema_start", "train.ema_decay is 0", lambda s, _: not s.ema_decay),
        Unused(
            "ema_decay",
            "train.max_steps ends before train.ema_start",
            lambda s, _: bool(s.ema_decay) and 0 < s.max_steps < s.ema_start,
        ),
        Unused("warmup_init_lr", "train.warmup_steps: 1 is no warm-up", lambda s, _: s.warmup_steps == 1),
    ],
    PipelineSettings: [Unused("balance", "there is one stage", lambda s, _: s.stages == 1)],
    ValidationSettings: [
        Unused(
            "bleu_sentences bleu_beam bleu_ban_unknown", "validation.bleu_every is 0", lambda s, _: not s.bleu_every
        ),
        Unused(
            "selection",
            "validation.select_by goes by dev scores",
            lambda s, recipe: s.select_by != "loss" and not _has_overall_teacher(recipe),
        ),
        Unused(
            "max_best_versions",
            "pairs' bests are not kept (validation.keep_best_per_pair is false) and teach nothing",
            lambda s, recipe: not s.keep_best_per_pair and not _has_pair_bests(recipe),
        ),
    ],
    TrackingSettings: [
        Unused("project entity group wandb_runs", "tracking.wandb is off", lambda s, _: s.wandb == "off"),
        Unused(
            "wandb_runs",
            "the run has one student; list two or more under students",
            lambda s, recipe: s.wandb != "off" and not recipe.students,
        ),
        Unused(
            "wandb_pairs",
            "no dashboard is on; set tracking.wandb or tracking.tensorboard",
            lambda s, _: s.wandb == "off" and not s.tensorboard,
        ),
        Unused(
            "wandb_pairs",
            f"with fewer than {LEAST_PAIRS} pairs dashboards get all pairs' figures",
            lambda s, recipe: (s.wandb != "off" or s.tensorboard) and len(recipe.data.pairs) < LEAST_PAIRS,
        ),
    ],
}
"""By the class of a section."""
