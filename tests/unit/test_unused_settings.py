"""Settings that others leave without effect are named: every entry of the table, with and without its reason."""

from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.engine.unused_settings import TABLE, settings_without_effect

FILES = {"train": [{"format": "tsv", "path": "x.tsv"}]}
GIVEN = {split: FILES["train"] for split in ("train", "dev", "test")}
STUDENTS = [{}, {}]


def by_task(task: str, **settings: Any) -> dict[str, Any]:
    """A recipe with one denoising task beside translation."""
    inner = {"name": "denoising", **settings}
    tasks = {"translation": {"name": "translation"}, task: inner}
    return {"denoising": {"tasks": [{"name": task}]}, "method": {"name": "by_task", "tasks": tasks}}


def distilled(task: str, **settings: Any) -> dict[str, Any]:
    """The same under intra-distillation."""
    recipe = by_task(task)
    recipe["method"]["tasks"][task] = {"name": "intra_distillation", "base": {"name": "denoising", **settings}}
    return recipe


def denoising(task: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """A recipe whose denoising section is given."""
    recipe = by_task(task["name"])
    return recipe | {"denoising": {"tasks": [task], **settings}}


def lssd(**settings: Any) -> dict[str, Any]:
    return {"method": {"name": "lssd", **settings}}


def pareto(**settings: Any) -> dict[str, Any]:
    return {"method": {"name": "pareto", **settings}, "students": STUDENTS}


def data(**settings: Any) -> dict[str, Any]:
    return {"data": {"pairs": ["fr-en"], "corpora": {"fr-en": FILES}, **settings}}


CASES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"simultaneous": True}, "simultaneous", {"simultaneous": True, "students": STUDENTS}),
    ({"sampler": {"name": "ccl_m"}, "students": STUDENTS}, "sampler", {"sampler": {"name": "ccl_m"}}),
    (data(source="cldr"), "data.corpora", data(source="files")),
    (data(catalogs=["/x"]), "data.catalogs", data(catalogs=["/x"], source="gettext", corpora={})),
    (data(min_catalog_pairs=5), "data.min_catalog_pairs", data(min_catalog_pairs=5, corpora={})),
    *(
        (
            data(corpora={"fr-en": {"train": [{"format": form, "path": "x", key: value}]}}),
            f"data.corpora.fr-en.train.0.{key}",
            data(corpora={"fr-en": {"train": [{"format": other, "path": "x", key: value}]}}),
        )
        for form, key, value, other in (
            ("moses", "columns", [2, 1], "tsv"),
            ("tsv", "split", "dev", "flores"),
            ("tsv", "codes", {"fr": "fra"}, "tmx"),
        )
    ),
    *(
        (data(corpora={"*": GIVEN}, split={key: 7}), f"data.split.{key}", data(split={key: 7}))
        for key in ("dev", "test")
    ),
    (
        data(tokenizer={"model": "/t", "size": 900}),
        "data.tokenizer.size",
        data(tokenizer={"model": "bpe", "size": 900}),
    ),
    (
        data(tokenizer={"model": "/t", "sample": 900}),
        "data.tokenizer.sample",
        data(tokenizer={"model": "/t", "sample": 900, "new_pieces": {"fr": 10}}),
    ),
    *(
        (
            {"framing": {f"{side}_langtok": "none", f"{side}_langtok_position": "after_end"}},
            f"framing.{side}_langtok_position",
            {"framing": {f"{side}_langtok": "tgt", f"{side}_langtok_position": "after_end"}},
        )
        for side in ("encoder", "decoder")
    ),
    (
        denoising({"name": "cd"}, block_tokens=64),
        "denoising.block_tokens",
        denoising({"name": "cd"}, block_tokens=64, unit="block"),
    ),
    (
        denoising({"name": "cd"}, cut_counts_tag=True),
        "denoising.cut_counts_tag",
        denoising({"name": "cd"}, cut_counts_tag=True, cut_to_shortest=True),
    ),
    (
        denoising({"name": "dae"}, end_is_word=True),
        "denoising.end_is_word",
        denoising({"name": "mlm"}, end_is_word=True),
    ),
    (
        denoising({"name": "dae", "permute_sentences": False}),
        "denoising.tasks.0.permute_sentences",
        denoising({"name": "dae", "permute_sentences": False}, unit="block"),
    ),
    (
        denoising({"name": "dae", "infill": 0, "infill_length": 2}),
        "denoising.tasks.0.infill_length",
        denoising({"name": "dae", "infill_length": 2}),
    ),
    (
        denoising({"name": "dae", "random": 0.1}),
        "denoising.tasks.0.random",
        denoising({"name": "dae", "random": 0.1, "mask": 0.3}),
    ),
    (
        {"sampler": {"name": "ccl_m", "latest": 0, "ready": 0.5, "stagger": 0.1}},
        "sampler.ready, sampler.stagger",
        {"sampler": {"name": "ccl_m", "ready": 0.5, "stagger": 0.1}},
    ),
    (
        {"model": {"encoder_projection": "own"}},
        "model.encoder_projection",
        {"model": {"encoder_projection": "own"}, **by_task("cd")},
    ),
    *(
        (
            {"model": {"freeze": {side: True, f"{side}_layers": 2}}},
            f"model.freeze.{side}_layers",
            {"model": {"freeze": {f"{side}_layers": 2}}},
        )
        for side in ("encoder", "decoder")
    ),
    (
        {"model": {"freeze": {"embeddings": True}, "lora": {}}},
        "model.freeze.embeddings",
        {"model": {"freeze": {"embeddings": True}}},
    ),
    (by_task("dae", encoder_weight=2), "method.tasks.dae.encoder_weight", by_task("cd", encoder_weight=2)),
    (distilled("mass", encoder_weight=2), "method.tasks.mass.base.encoder_weight", distilled("cd", encoder_weight=2)),
    (by_task("mlm", decoder_weight=2), "method.tasks.mlm.decoder_weight", by_task("cd", decoder_weight=2)),
    (by_task("cd", divergence_share=0.7), "method.tasks.cd.divergence_share", distilled("cd", divergence_share=0.7)),
    (
        {"method": {"name": "intra_distillation", "p": 3.0}},
        "method.p",
        {"method": {"name": "intra_distillation", "p": 3.0, "schedule": "adaptive"}},
    ),
    (lssd(gate_student="eval"), "method.gate_student", lssd(gate_student="eval", variant="selective")),
    (lssd(cap=3.0), "method.cap", lssd(cap=3.0, variant="adaptive")),
    (lssd(selective_strict=True), "method.selective_strict", lssd(selective_strict=True, variant="selective")),
    (pareto(alpha=0.6), "method.alpha", pareto(alpha=0.6, rule="bi")),
    (pareto(fixed_start="after_interval"), "method.fixed_start", pareto(fixed_start="after_interval", rule="bi")),
    (pareto(tolerance_bits=0.1), "method.tolerance_bits", pareto(tolerance_bits=0.1, rule="uni")),
    (pareto(rule="bi", initial=0.3, ties="raise"), "method.initial, method.ties", pareto(initial=0.3, ties="raise")),
    (
        pareto(rule="bi", trials={"rho": 0.2}),
        "method.trials",
        pareto(rule="bi", trials={"rho": 0.2}, extra_updates=True),
    ),
    (pareto(rule="lsmd", weights="/w", interval=3), "method.interval", pareto(interval=3)),
    (
        lssd(teachers={"cache": "off", "cache_dtype": "fp8"}),
        "method.teachers.cache_dtype",
        lssd(teachers={"cache_dtype": "fp8"}),
    ),
    (
        lssd(teachers={"cache": "disk", "disk": "/d", "memory_gib": 1}),
        "method.teachers.memory_gib",
        lssd(teachers={"memory_gib": 1}),
    ),
    (lssd(teachers={"disk_gib": 1}), "method.teachers.disk_gib", lssd(teachers={"disk_gib": 1, "disk": "/d"})),
    ({"train": {"ema_start": 9}}, "train.ema_start", {"train": {"ema_start": 9, "ema_decay": 0.9}}),
    (
        {"train": {"ema_start": 9, "ema_decay": 0.9, "max_steps": 8}},
        "train.ema_decay",
        {"train": {"ema_start": 9, "ema_decay": 0.9, "max_steps": 9}},
    ),
    (
        {"train": {"warmup_steps": 1, "warmup_init_lr": 0.1}},
        "train.warmup_init_lr",
        {"train": {"warmup_steps": 2, "warmup_init_lr": 0.1}},
    ),
    (
        {"pipeline": {"stages": 1, "balance": "parameters"}},
        "pipeline.balance",
        {"pipeline": {"stages": 2, "balance": "parameters"}},
    ),
    (
        {"validation": {"bleu_beam": 2, "bleu_sentences": 9}},
        "validation.bleu_sentences, validation.bleu_beam",
        {"validation": {"bleu_beam": 2, "bleu_sentences": 9, "bleu_every": 1}},
    ),
    (
        {"validation": {"max_best_versions": 2, "keep_best_per_pair": False}},
        "validation.max_best_versions",
        {"validation": {"max_best_versions": 2, "keep_best_per_pair": False}, "method": {"name": "lssd"}},
    ),
    (
        {"validation": {"selection": "tokens", "select_by": "bleu", "bleu_every": 1}},
        "validation.selection",
        {"validation": {"selection": "tokens", "select_by": "bleu", "bleu_every": 1}, **lssd(teacher="overall")},
    ),
    (
        {"tracking": {"project": "p", "group": "g"}},
        "tracking.project, tracking.group",
        {"tracking": {"wandb": "offline"}},
    ),
    (
        {"tracking": {"wandb_runs": "students"}, "students": STUDENTS},
        "tracking.wandb_runs",
        {"tracking": {"wandb_runs": "students", "wandb": "offline"}, "students": STUDENTS},
    ),
    (
        {"tracking": {"wandb_runs": "students", "wandb": "offline"}},
        "tracking.wandb_runs",
        {"tracking": {"wandb_runs": "run", "wandb": "offline"}},
    ),
    (
        {"tracking": {"wandb_pairs": ["fr-en"]}},
        "tracking.wandb_pairs",
        {
            "tracking": {"wandb_pairs": ["en-x7"], "tensorboard": True},
            "data": {"pairs": [f"en-x{number}" for number in range(200)]},
        },
    ),
    (
        {"tracking": {"wandb_pairs": ["fr-en"], "tensorboard": True}},
        "tracking.wandb_pairs",
        {"tracking": {"tensorboard": True}},
    ),
]


def recipe_of(sections: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"data": {"pairs": ["fr-en"]}, **sections})


@pytest.mark.parametrize("sections, names, effective", CASES)
def test_named_where_it_has_no_effect(sections: dict[str, Any], names: str, effective: dict[str, Any]) -> None:
    lines = settings_without_effect(recipe_of(sections))
    assert [line.partition(": no effect, since ")[0] for line in lines] == [names]
    assert settings_without_effect(recipe_of(effective)) == []


def test_every_entry_has_a_case() -> None:
    said = {
        line.partition(": no effect, since ")[2]
        for case in CASES
        for line in settings_without_effect(recipe_of(case[0]))
    }
    assert {unused.reason for entries in TABLE.values() for unused in entries} == said


def test_defaults_and_what_a_profile_fills_are_not_said() -> None:
    assert settings_without_effect(recipe_of({})) == []
    for sections in (lssd(), pareto(rule="bi"), pareto(), by_task("dae")):
        recipe = recipe_of(sections | {"profile": "released"})
        assert settings_without_effect(recipe) == []
        written_out = Recipe.model_validate(recipe.model_dump(mode="json"))
        assert settings_without_effect(written_out) == []


def test_commands_say_it(tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.tiny import recipe

    path = tmp_path / "recipe.yaml"
    path.write_text(dump(recipe(tiny_corpus, tmp_path / "run", train={"max_steps": 2})))
    line = "train.ema_start: no effect, since train.ema_decay is 0"
    assert main(["validate", str(path), "train.ema_start=5"]) == 2
    assert f"warning: {line}\n" in capfd.readouterr().out
    assert main(["train", str(path), "--dry-run", "train.ema_start=5"]) == 0
    assert f"warning: {line}\n" in capfd.readouterr().out
    assert main(["plan", str(path), "--no-probe", "train.ema_start=5"]) == 0
    assert f"warning: {line}\n" in capfd.readouterr().out
    assert main(["train", str(path), "train.ema_start=5", "data.split.dev=7"]) == 0
    err = capfd.readouterr().err
    assert line in err and "prepared with other settings than the recipe's" in err


def test_corpus_of_other_settings_is_said(tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.tiny import recipe

    path = tmp_path / "recipe.yaml"
    path.write_text(dump(recipe(tiny_corpus, tmp_path / "run", train={"max_steps": 2})))
    assert main(["train", str(path), "--dry-run", "data.pairs=[fr-en]"]) == 0
    assert "prepared with other settings" not in capfd.readouterr().out  # the recipe says nothing of its text
    changed = ["data.clean.max_words=100", "data.split.dev=7"]
    assert main(["train", str(path), "--dry-run", *changed]) == 0
    out = capfd.readouterr().out
    assert "manifest.json: prepared with other settings than the recipe's (data: " in out
    assert "clean.max_words" in out and "split.dev" in out and "and taken as it is" in out
    assert main(["plan", str(path), "--no-probe", *changed]) == 0
    assert "prepared with other settings than the recipe's" in capfd.readouterr().out
