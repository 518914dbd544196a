"""What a resumed run may change: every setting has a word, every change and every refusal a line."""

from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.best_values import DevMetric
from mnmt_ds.config.sections import sections
from mnmt_ds.engine.checkpointing.checkpoint import JobLayout, move_refusal
from mnmt_ds.engine.checkpointing.resume_changes import (
    CheckpointOrigin,
    ResumeChange,
    changes,
    measured_anew,
    recipe_changes,
    refuse,
    written_by,
)
from mnmt_ds.engine.checkpointing.resume_classes import (
    CHANGED_METRICS,
    CLASSES,
    NEXT_EPOCH,
    REFUSED,
    ResumeClass,
    is_section,
    note_of,
    resume_class,
)
from mnmt_ds.engine.dataloading.position import Cut
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import UserError

DATA = {"data": {"pairs": ["fr-en", "bs-en"]}}
SETTINGS = [
    (section.path, key)
    for section in sections(Recipe)
    for key, field in section.kind.model_fields.items()
    if not is_section(field.annotation)
]
"""Section and key of every setting of every component."""


class Corpus:
    """As much of a prepared corpus as is compared."""

    def __init__(self, content: str = "d") -> None:
        self.hash, self.tokenizer, self.directory = content * 64, self, "data"


def found(before: dict[str, Any], now: dict[str, Any]) -> dict[str, ResumeChange]:
    """The changes from one recipe to another, by name."""
    recipes = [Recipe.model_validate({**DATA, **sections}) for sections in (before, now)]
    return {change.name: change for change in recipe_changes(*recipes)}


def test_every_setting_of_every_component_has_one_word() -> None:
    missing = [f"{section}.{key}" for section, key in SETTINGS if resume_class(section, key) is None]
    assert not missing, f"say in resume_classes what a resumed run does with {', '.join(missing)}"
    rows = [(section, keys.split()) for section, by_class in CLASSES.items() for keys in by_class.values()]
    words = [(section, key) for section, keys in rows for key in keys]
    assert sorted(words) == sorted(SETTINGS), "twice, or of no setting"
    assert len(SETTINGS) > 200


def test_every_word_says_what_it_means() -> None:
    for section, key in SETTINGS:
        kind, name = resume_class(section, key), f"{section}.{key}".lstrip(".")
        assert isinstance(kind, ResumeClass) and note_of(name, kind), name
        assert (kind is ResumeClass.NEW_METRIC) == (name in CHANGED_METRICS), name


@pytest.mark.parametrize(
    "name",
    [
        "train.max_tokens", "train.batches_per_update", "train.gradient_accumulation_steps", "pipeline",
        "model.activation_checkpointing", "method.lssd.teachers.memory_gib", "method.lssd.teachers.cache",
        "method.lssd.teachers.disk", "method.lssd.teachers.on_device", "method.pareto.trials.cache_gib",
        "sampler.multidds.max_tokens", "validation.max_tokens", "train.workers",
    ],
)  # fmt: skip
def test_what_memory_asks_for_is_free(name: str) -> None:
    section, _, key = name.rpartition(".")
    assert resume_class(section, key) in (ResumeClass.FREE, ResumeClass.NO_EFFECT)


def test_changes_are_found_at_any_depth() -> None:
    lssd = {"name": "lssd", "teachers": {"memory_gib": 4}}
    inside = lambda teachers, alpha: {  # noqa: E731
        "name": "intra_distillation",
        "alpha": alpha,
        "base": {**lssd, "teachers": teachers},
    }
    names = found({"method": inside({"memory_gib": 4}, 5.0)}, {"method": inside({"memory_gib": 1, "disk": "d"}, 2.0)})
    assert {name: change.kind for name, change in names.items()} == {
        "method.alpha": "free", "method.base.teachers.memory_gib": "free", "method.base.teachers.disk": "free",
    }  # fmt: skip
    assert names["method.base.teachers.memory_gib"].line() == (
        "method.base.teachers.memory_gib: 4.0 -> 1.0: from here on"
    )
    names = found({"method": inside({}, 5.0)}, {"method": lssd})
    assert [(change.name, change.kind) for change in names.values()] == [("method.name", REFUSED)]
    students = {"method": {"name": "pareto"}, "students": [{}, {"sampler": {"temperature": 5}}]}
    other = {**students, "students": [{}, {"sampler": {"temperature": 2}, "seed": 7}], "sampler": {"temperature": 9}}
    assert {name: change.kind for name, change in found(students, other).items()} == {
        "students.1.sampler.temperature": NEXT_EPOCH, "students.1.seed": REFUSED,
    }  # fmt: skip
    assert found(students, {**students, "students": [{}, {}, {}]})["students"].kind is REFUSED
    assert not found(students, students)


def test_a_section_that_comes_or_goes() -> None:
    assert [change.line() for change in found({}, {"pipeline": {"stages": 3}}).values()] == [
        "pipeline: null -> {stages: 3, balance: time}: the checkpoint is moved to this layout"
    ]
    task = {"tasks": {"translation": {"name": "translation"}, "cd": {"name": "denoising"}}}
    denoising = {"denoising": {}, "method": {"name": "by_task", **task}}
    assert {name: change.kind for name, change in found({}, denoising).items()} == {
        "denoising": REFUSED, "method.name": REFUSED,
    }  # fmt: skip
    other = {**denoising, "denoising": {"ratio": 2, "tasks": [{"name": "cd", "ratio": 0.5}], "unit": "block"}}
    assert {name: change.kind for name, change in found(denoising, other).items()} == {
        "denoising.ratio": NEXT_EPOCH, "denoising.tasks.0.ratio": "free", "denoising.unit": REFUSED,
    }  # fmt: skip


def test_all_that_is_refused_is_listed() -> None:
    before = Recipe.model_validate({**DATA, "train": {"seed": 1}})
    now = Recipe.model_validate(
        {**DATA, "train": {"seed": 2, "precision": "bf16", "lr": 1.0}, "model": {"preset": "tiny"}}
    )
    written = CheckpointOrigin(
        before, {"optimizer": {"type": "AdamW"}}, {"data": "c" * 64, "tokenizer": "d" * 64}, Cut(1, 1)
    )
    listed = changes(written, now, {"optimizer": {"type": "Lion"}}, Corpus())  # type: ignore[arg-type]
    layout = move_refusal(JobLayout(2, 0), JobLayout(1, 2))
    with pytest.raises(UserError) as caught:
        refuse(Path("run/checkpoints/step_9"), listed, layout)
    remedy = "resume with {}, or begin a new run in another directory"
    from_weights = remedy + ", from these weights with model.init=run"
    shapes = (("d_model", 512, 128), ("ffn", 2048, 512), ("heads", 8, 4), ("encoder_layers", 6, 2))
    expected = [
        *(
            f"model.{name}: {old} -> {new}: the weights have the former shape; {remedy.format(old)}"
            for name, old, new in (*shapes, ("decoder_layers", 6, 2))
        ),
        f"train.precision: fp32 -> bf16: the optimizer's state has the former type; {from_weights.format('fp32')}",
        f"train.seed: 1 -> 2: dropout and the order of data follow from it; {from_weights.format(1)}",
        "prepared data: cccccccccccc -> dddddddddddd: data was prepared anew, from other text or settings;"
        f" {from_weights.format('cccccccccccc')}",
        "deepspeed optimizer.type: AdamW -> Lion: the checkpoint has the state of the former;"
        f" {from_weights.format('AdamW')}",
        f"{layout}; else begin anew from its weights with model.init=run",
    ]
    assert list(caught.value.faults) == [f"run/checkpoints/step_9: {line}" for line in expected]
    assert layout.startswith("written by 2 rank(s) at ZeRO-0, this is 1 rank(s) at ZeRO-2; any number of ranks may")
    refuse(Path("step_9"), [change for change in listed if change.kind is not REFUSED], "")


def test_other_frozen_weights_begin_anew_from_these_weights() -> None:
    frozen = list(found({}, {"model": {"freeze": {"encoder": True}}}).values())
    with pytest.raises(UserError, match=r"is of the weights that were trained; .* with model\.init=run$"):
        refuse(Path("run/checkpoints/step_9"), frozen, "")


def test_the_loss_scaler_counts_in_fp16_alone() -> None:
    for precision, kind in (("fp16", REFUSED), ("fp32", "free")):
        recipe = Recipe.model_validate({**DATA, "train": {"precision": precision}})
        configs = [{"fp16": {"enabled": True, "loss_scale_window": n}, "train_batch_size": n} for n in (100, 200)]
        written = CheckpointOrigin(recipe, configs[0], {}, Cut(1, 1))
        (change,) = changes(written, recipe, configs[1], Corpus())  # type: ignore[arg-type]
        assert change.name == "deepspeed fp16.loss_scale_window" and change.kind == kind


def test_what_is_measured_anew() -> None:
    listed = list(found({}, {"train": {"label_smoothing": 0.2}}).values())
    assert [change.line() for change in listed] == [
        "train.label_smoothing: 0.1 -> 0.2: dev losses have other units; bests and patience begin anew"
    ]
    assert measured_anew(listed) == {DevMetric.DEV_LOSS}
    assert measured_anew(list(found({}, {"train": {"lr": 1.0}}).values())) == set()


def test_older_checkpoints_and_the_directory_tell_the_recipe(tmp_path: Path) -> None:
    """Version 0.1.0 wrote a part of it; the rest is what the run's recipe.yaml says, or else this run's."""
    now = Recipe.model_validate({**DATA, "directory": str(tmp_path), "train": {"label_smoothing": 0.3, "seed": 4}})
    values = {
        "data": "d" * 64, "batches_per_update": 6, "seed": 2, "precision": "bf16", "pairs": ["bs-en", "fr-en"],
        "model": {**now.model.model_dump(mode="json"), "d_model": 64}, "framing": {"decoder_langtok": "src"},
        "method": {"name": "several", "methods": [{"name": "lssd"}, {"name": "multi_distill", "experts": "e"}]},
        "sampler": {"name": "ccl_m", "high": 7},
    }  # fmt: skip
    for text, smoothing in (("", 0.3), ("train: {label_smoothing: 0.2}\n", 0.2)):
        if text:
            (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        written = written_by(values, now, {"a": 1})
        recipe = written.recipe
        assert (recipe.train.label_smoothing, recipe.train.seed, recipe.train.precision) == (smoothing, 2, "bf16")
        assert recipe.data.pairs == ("bs-en", "fr-en") and recipe.model.d_model == 64
        assert recipe.method.name == "multi_teacher" and recipe.sampler.high == 7
        assert written.cut == Cut(recipe.train.max_tokens, 6) and written.ds_config == {"a": 1}
    with pytest.raises(UserError, match="this version refuses"):
        written_by({**values, "sampler": {"name": "unknown"}}, now, {})
