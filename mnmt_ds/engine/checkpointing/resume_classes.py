"""What becomes of each setting that a resumed run changes: one word for every setting of every component.

``tests/unit/test_resume_changes.py`` walks all settings: one without a word here fails. ``docs/configuration.md`` has
the words in its tables.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from mnmt_ds.best_values import DevMetric
from mnmt_ds.config import Settings


class ResumeClass(StrEnum):
    """The ways in which a resumed run treats a changed setting; it reports every one of them."""

    NO_EFFECT = "no_effect"
    """Nothing that is trained depends on it."""
    BUDGET = "budget"
    """It has effect at once; it says how long the run is, and nothing else."""
    FREE = "free"
    """It has effect at once."""
    NEXT_EPOCH = "next_epoch"
    """It has effect from the next epoch on; the one under way is finished as it was drawn."""
    NEW_METRIC = "new_metric"
    """It has effect at once, and figures before and after cannot be compared: what was measured begins anew."""
    REFUSED = "refused"
    """The run does not go on."""


NO_EFFECT, BUDGET, FREE, NEXT_EPOCH, NEW_METRIC, REFUSED = ResumeClass


_TEACHERS = {FREE: "dtype on_device weights_gib read cache cache_dtype memory_gib disk disk_gib"}
_MASKS = {FREE: "ratio keep random", REFUSED: "name"}
_ACTOR = {FREE: "every steps lr max_tokens", REFUSED: "name temperature"}
CLASSES: Mapping[str, Mapping[ResumeClass, str]] = {
    "": {
        NO_EFFECT: "name directory deepspeed",
        FREE: "profile placement simultaneous pipeline tensor",
        REFUSED: "denoising students",
    },
    "data": {
        NO_EFFECT: "directory",
        FREE: "source corpora monolingual catalogs min_catalog_pairs max_train",
        REFUSED: "pairs",
    },
    "data.corpora": {FREE: "train dev test"},
    "data.corpora.train": {FREE: "format path target_path columns split domain codes min_scores clean synthetic"},
    "data.corpora.train.clean": {FREE: "max_words max_characters max_ratio min_script copied placeholders language"},
    "data.corpora.train.synthetic": {FREE: "tag share"},
    "data.clean": {
        FREE: "bad_lines max_line_bytes max_words max_key_words max_characters max_ratio min_script copied placeholders"
        " language language_identifier duplicates drop_domains domain_cap unicode"
    },
    "data.split": {FREE: "key_language dev test seed"},
    "data.tokenizer": {
        FREE: "kind size model coverage hard_limit normalization byte_fallback sample temperature new_languages"
        " new_pieces trim",
    },
    "framing": {REFUSED: "encoder_langtok encoder_langtok_position decoder_langtok decoder_langtok_position"},
    "denoising": {
        FREE: "cut_to_shortest cut_counts_tag end_is_word",
        NEXT_EPOCH: "ratio temperature",
        REFUSED: "tasks bitext unit block_tokens",
    },
    "denoising.tasks.cd": _MASKS,
    "denoising.tasks.mlm": _MASKS,
    "denoising.tasks.mass": {**_MASKS, FREE: f"{_MASKS[FREE]} hides"},
    "denoising.tasks.dae": {
        FREE: "permute_sentences infill infill_length mask delete permute random",
        REFUSED: "name",
    },
    "sampler.temperature": {NEXT_EPOCH: "temperature", REFUSED: "name"},
    "sampler.multidds": _ACTOR,
    "sampler.multiuat": {**_ACTOR, FREE: f"{_ACTOR[FREE]} reward passes"},
    "sampler.chi_ibr": {FREE: "baseline decay", NEXT_EPOCH: "temperature rho least tolerance", REFUSED: "name"},
    "sampler.ccl_m": {FREE: "temperature ready stagger latest strength", REFUSED: "name high"},
    "students": {REFUSED: "name seed"},
    "model": {
        FREE: "init preset dropout attention_dropout activation_dropout activation_checkpointing",
        REFUSED: "d_model ffn heads encoder_layers decoder_layers share_embeddings encoder_projection max_positions"
        " scale_embedding lora",
    },
    "model.freeze": {REFUSED: "embeddings encoder decoder encoder_layers decoder_layers"},
    "model.lora": {FREE: "dropout", REFUSED: "rank alpha targets embeddings"},
    "method.translation": {REFUSED: "name"},
    "method.lssd": {
        FREE: "profile variant alpha cap selective_below selective_strict gate_level gate_student halve_total"
        " teacher_vocabulary",
        REFUSED: "name teacher",
    },
    "method.lssd.teachers": _TEACHERS,
    "method.multi_distill": {FREE: "experts alpha temperature top_k rule", REFUSED: "name"},
    "method.multi_teacher": {REFUSED: "name methods"},
    "method.pareto": {
        FREE: "profile alpha weights interval interval_counts start_epoch tolerance_bits peer_dropout schedule"
        " schedule_unit ties clip extra_updates",
        REFUSED: "name rule initial fixed_start",
    },
    "method.pareto.trials": {FREE: "rho data after cache_gib"},
    "method.denoising": {FREE: "profile encoder_weight decoder_weight divergence_share", REFUSED: "name"},
    "method.intra_distillation": {FREE: "profile passes alpha memory schedule p q", REFUSED: "name"},
    "method.by_task": {FREE: "profile weights divisor", REFUSED: "name tasks"},
    "train": {
        NO_EFFECT: "workers save_every keep_checkpoints timeout_minutes",
        BUDGET: "max_epochs max_steps patience",
        FREE: "max_tokens gradient_accumulation_steps batches_per_update lr warmup_steps warmup_init_lr adam_betas"
        " adam_eps weight_decay clip_norm ema_decay ema_start loss_implementation linear_implementation torch_compile"
        " deterministic",
        NEW_METRIC: "label_smoothing",
        REFUSED: "precision seed",
    },
    "pipeline": {FREE: "stages balance"},
    "tensor": {FREE: "vocabulary"},
    "validation": {
        FREE: "every max_tokens watch keep_best_per_pair max_best_versions bleu_every average_k",
        NEW_METRIC: "selection select_by bleu_sentences bleu_beam bleu_ban_unknown",
    },
    "tracking": {NO_EFFECT: "wandb project entity group wandb_runs wandb_pairs tensorboard log_every"},
}
"""Keys by class, for every section of a recipe as ``config.sections`` lists them."""
CHANGED_METRICS: Mapping[str, DevMetric] = {
    "train.label_smoothing": DevMetric.DEV_LOSS,
    "validation.selection": DevMetric.OVERALL,
    "validation.select_by": DevMetric.OVERALL,
    "validation.bleu_sentences": DevMetric.DEV_BLEU,
    "validation.bleu_beam": DevMetric.DEV_BLEU,
    "validation.bleu_ban_unknown": DevMetric.DEV_BLEU,
}
"""What is measured otherwise where a setting of class ``new_metric`` has changed."""
DEEPSPEED: Mapping[str, ResumeClass] = {"optimizer.type": REFUSED, "fp16": REFUSED, "": FREE}
"""Keys of DeepSpeed's JSON that the recipe does not fill, with all below them; the longest one that fits decides."""
_PREPARED = "prepare alone reads it; the prepared data are the same"
_FILLS = "the values that it fills are named themselves"
_MOVED = "the checkpoint is moved to this layout"
_DONE = "it is for the beginning of a run, which is past"
NOTES: Mapping[str, str] = {
    "profile": _FILLS,
    "model.preset": _FILLS,
    "model.init": "the weights are the checkpoint's",
    "pipeline": _MOVED,
    "pipeline.stages": _MOVED,
    "pipeline.balance": _MOVED,
    "tensor": _MOVED,
    "tensor.vocabulary": _MOVED,
    "method.multi_distill.experts": "experts with other weights are measured again",
    "method.pareto.initial": _DONE,
    "method.pareto.fixed_start": _DONE,
    "sampler.multidds.temperature": _DONE,
    "sampler.multiuat.temperature": _DONE,
    "sampler.ccl_m.high": "pairs have joined by it",
    "sampler.chi_ibr.baseline": "the losses that were read at the start are kept",
    "data.pairs": "weights, bests and the order of data are those of the former pairs",
    "train.precision": "the optimizer's state has the former type",
    "train.seed": "dropout and the order of data follow from it",
    "students.seed": "dropout and the order of data follow from it",
    "train.ema_decay": "from here on; an average that was not kept before begins with the present weights",
    "train.label_smoothing": "dev losses have other units; bests and patience begin anew",
    "validation.selection": "the overall dev loss is another mean; the overall best and patience begin anew",
    "validation.select_by": "the overall best and patience begin anew",
    "validation.average_k": "of validations so far, those whose weights were kept are averaged",
    "validation.bleu_sentences": "dev BLEU is of other text; experts are measured anew",
    "validation.bleu_beam": "dev BLEU is of another search; experts are measured anew",
    "validation.bleu_ban_unknown": "dev BLEU is of another search; experts are measured anew",
    "validation.keep_best_per_pair": "a pair's best weights are kept from its next better dev loss on",
}
"""What a change of a setting means."""
REASONS: Mapping[str, str] = {
    "denoising": "the text that is drawn is numbered by it",
    "framing": "the model knows the former tags",
    "model": "the weights have the former shape",
    "model.freeze": "the optimizer's state is of the weights that were trained",
    "": "the checkpoint has the state of the former",
}
"""Why settings are refused, by section; the longest name that fits."""
DEFAULT_NOTES = {
    NO_EFFECT: "from here on",
    BUDGET: "from here on",
    FREE: "from here on",
    NEXT_EPOCH: "from the next epoch on",
}
"""What a change means, by class, where ``NOTES`` says nothing else."""


def resume_class(section: str, key: str) -> ResumeClass | None:
    """Looks up what a resumed run does with a changed setting.

    Args:
        section: the section's path, such as ``method.lssd``; empty: the top level.
        key: a field of its settings.

    Returns:
        The class; None where the table lacks the setting.
    """
    by_class = CLASSES.get(section, {})
    return next((kind for kind, keys in by_class.items() if key in keys.split()), None)


def note_of(name: str, kind: ResumeClass) -> str:
    """Looks up the note that explains a change.

    Args:
        name: section and key.
        kind: its class.

    Returns:
        A phrase.
    """
    if name in NOTES:
        return NOTES[name]
    if kind is REFUSED:
        return str(longest_fit(REASONS, name))
    return _PREPARED if name.startswith("data.") else DEFAULT_NOTES[kind]


def longest_fit(table: Mapping[str, Any], name: str) -> Any:
    """Looks up a dotted name, or the longest section that holds it.

    Args:
        table: values by dotted name; the empty name is above all.
        name: dotted.

    Returns:
        The value of the longest name that fits; None where none does.
    """
    keys = name.split(".")
    names = [".".join(keys[:n]) for n in range(len(keys), -1, -1)]
    return next((table[prefix] for prefix in names if prefix in table), None)


def is_section(annotation: Any) -> bool:
    """Returns whether a field always holds one settings object, whose own fields then decide.

    Args:
        annotation: the field's.

    Returns:
        False for values, for what may be absent, and for lists and mappings of settings.
    """
    if get_origin(annotation) is Annotated:
        return is_section(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return all(is_section(member) for member in _members(get_args(annotation)))
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _members(arguments: Iterable[Any]) -> Iterable[Any]:
    return (bool if argument is NoneType else argument for argument in arguments)
