"""Recipes and studies hold the papers' values: each value with the place that it is from.

Sources: "1, 2.2" is paper 1 (LSSD), section 2.2; "scripts" are the authors' released training scripts, where the paper
gives no value.
"""

import argparse
from functools import cache
from typing import Any

import pytest

from mnmt_ds.engine.recipe import Recipe, load_recipe
from mnmt_ds.planning.parameters import count_parameters
from mnmt_ds.study.plan import read_study
from tests.tiny import ROOT

LAUNCHERS = ROOT / "launchers"
Values = dict[str, tuple[Any, str]]
"""{dotted key: (value, where it is from)}."""

NO_CLIPPING: Values = {"train.clip_norm": (0, "no paper names one; fairseq's default; scripts of 3: --clip-norm 0.0")}
TAG_AT_BOTH_ENDS: Values = {
    "framing.encoder_langtok": ("tgt", "3, 4.1: one token on both sides; scripts: the target's"),
    "framing.encoder_langtok_position": ("end", "3, 4.1: appended on the source side"),
    "framing.decoder_langtok": ("tgt", "3, 4.1: prepended on the decoder side"),
}
INTO_ENGLISH: Values = {"framing.encoder_langtok": ("src", "scripts; 1, 2.2 asks for the target's, which is constant")}
OUT_OF_ENGLISH: Values = {"framing.encoder_langtok": ("tgt", "1, 2.2; 2, 2.2; scripts")}

BASE: Values = {
    "model.d_model": (512, "1, B; 2, C"),
    "model.ffn": (2048, "1, B; 2, C"),
    "model.heads": (8, "1, B; 2, C"),
    "model.encoder_layers": (6, "1, B; 2, C"),
    "model.decoder_layers": (6, "1, B; 2, C"),
}
PAPERS_1_2: Values = NO_CLIPPING | {
    "train.adam_betas": ((0.9, 0.98), "1, B; 2, C"),
    "train.warmup_steps": (4000, "scripts"),
    "train.label_smoothing": (0.1, "1, B; 2, C"),
    "train.precision": ("fp16", "1, B; 2, C: half precision"),
    "train.max_tokens": (8192, "scripts"),
    "train.batches_per_update": (8, "1, B; 2, C: a batch of 64K tokens"),
    "train.weight_decay": (0.0, "no paper names one"),
    "validation.selection": ("pairs", "1, 2.2: the mean over pairs"),
}
TED: Values = (
    BASE
    | PAPERS_1_2
    | {
        "model.dropout": (0.3, "1, B; 2, C"),
        "model.attention_dropout": (0.3, "scripts"),
        "train.max_epochs": (300, "1, 4.1; 2, C"),
        "data.tokenizer.kind": ("per_language", "1, 4.1; 2, C"),
        "data.tokenizer.size": (8000, "1, 4.1; 2, C"),
        "sampler.temperature": (1, "1, B"),
    }
)
WMT: Values = (
    BASE
    | PAPERS_1_2
    | {
        "model.attention_dropout": (0.0, "scripts: fairseq's default"),
        "train.lr": (1.5e-3, "2, C; scripts of 1"),
        "data.tokenizer.kind": ("joint", "1, 4.1; 2, C"),
        "data.tokenizer.size": (64000, "1, 4.1; 2, C"),
        "sampler.temperature": (5, "1, B"),
    }
)
WMT_1: Values = WMT | {
    "model.dropout": (0.3, "1, B"),
    "train.max_epochs": (300, "1, 4.1"),
}
WMT_2: Values = WMT | {
    "model.dropout": (0.2, "2, 4.1 and C"),
    "train.max_epochs": (70, "2, C"),
}
TED_1: Values = TED | {"train.lr": (2e-3, "scripts; the paper gives none")}
TED_2: Values = TED | {"train.lr": (1.5e-3, "2, C")}
BIG: Values = (
    TAG_AT_BOTH_ENDS
    | NO_CLIPPING
    | {
        "model.d_model": (1024, "3, 5.4"),
        "model.ffn": (4096, "3, 5.4"),
        "model.heads": (16, "3, 5.4"),
        "model.dropout": (0.3, "scripts"),
        "model.attention_dropout": (0.1, "scripts"),
        "data.tokenizer.size": (32000, "3, 5.4"),
        "sampler.temperature": (1, "3, 5.3"),
        "train.lr": (1e-3, "scripts"),
        "train.warmup_steps": (8000, "3, 5.4"),
        "train.patience": (10, "3, 5.4"),
        "train.label_smoothing": (0.1, "scripts"),
    }
)
BIG_PAPER: Values = BIG | {
    "model.share_embeddings": ("decoder", "3, 5.4: 242M and 418M parameters are two matrices'"),
    "train.max_tokens": (3750, "3, 5.4: with the next, 30K tokens"),
    "train.batches_per_update": (8, "3, 5.4: 30K tokens"),
}
M8: Values = {
    "model.encoder_layers": (6, "3, 5.4"),
    "model.decoder_layers": (6, "3, 5.4"),
    "train.max_steps": (100_000, "3, 5.4"),
}
M15: Values = {
    "model.encoder_layers": (12, "3, 5.4: doubled"),
    "model.decoder_layers": (12, "3, 5.4: doubled"),
    "train.max_steps": (300_000, "3, 5.4"),
}

RECIPES: dict[str, Values] = {
    "papers/m8": BIG_PAPER | M8,
    "papers/m15": BIG_PAPER | M15,
    "papers/ted8_diverse": TED_1 | INTO_ENGLISH,
    "papers/ted8_related": TED_1 | INTO_ENGLISH,
    "papers/wmt6": WMT_2 | INTO_ENGLISH,
    "papers/wmt6_paper1": WMT_1 | INTO_ENGLISH,
    "cd_id/row1_mmt": TAG_AT_BOTH_ENDS,
    "cd_id/row8_cd_id": TAG_AT_BOTH_ENDS,
}
"""What each recipe holds."""
TAU: dict[str, Values] = {
    tau: {"students.0.sampler.temperature": (1, "2, 4.1"), "students.1.sampler.temperature": (value, "2, 4.1")}
    for tau, value in (("wmt6", 5), ("diverse", 3))
}
SETTINGS: dict[str, dict[str, Values]] = {
    "paper1": {
        "diverse-m2o": TED_1 | INTO_ENGLISH,
        "diverse-o2m": TED_1 | OUT_OF_ENGLISH,
        "related-m2o": TED_1 | INTO_ENGLISH,
        "related-o2m": TED_1 | OUT_OF_ENGLISH,
        "wmt-m2o": WMT_1 | INTO_ENGLISH,
        "wmt-o2m": WMT_1 | OUT_OF_ENGLISH,
    },
    "paper2": {
        "wmt6-m2o": WMT_2 | INTO_ENGLISH | TAU["wmt6"],
        "wmt6-o2m": WMT_2 | OUT_OF_ENGLISH | TAU["wmt6"],
        "diverse-m2o": TED_2 | INTO_ENGLISH | TAU["diverse"],
        "diverse-o2m": TED_2 | OUT_OF_ENGLISH | TAU["diverse"],
    },
    "paper3": {
        "m8-xxx-eng": BIG_PAPER | M8,
        "m8-eng-xxx": BIG_PAPER | M8,
        "m15-xxx-eng": BIG_PAPER | M15,
        "m15-eng-xxx": BIG_PAPER | M15,
    },
    "baselines": {"m2o": INTO_ENGLISH, "o2m": OUT_OF_ENGLISH},
    "cd_id": {"": TAG_AT_BOTH_ENDS},
}
"""What every row of a study holds in each setting."""
DECODER_ALONE: Values = {"model.share_embeddings": ("decoder", "scripts: --share-decoder-input-output-embed")}
TED_SCRIPTS: Values = DECODER_ALONE | {
    "model.ffn": (1024, "scripts: transformer_iwslt_de_en"),
    "model.heads": (4, "scripts: transformer_iwslt_de_en"),
    "train.lr": (2e-3, "scripts"),
}
WMT_SCRIPTS_1: Values = DECODER_ALONE | {
    "train.batches_per_update": (16, "scripts: 8192 tokens, 8 GPUs, --update-freq 2"),
    "train.max_epochs": (157, "scripts"),
}
WMT_SCRIPTS_2: Values = DECODER_ALONE | {"train.weight_decay": (0.01, "scripts")}
BIG_SCRIPTS: Values = {
    "model.share_embeddings": ("all", "scripts: --share-all-embeddings"),
    "train.max_tokens": (8192, "scripts: with the next, the tokens of an update"),
}
M8_SCRIPTS: Values = BIG_SCRIPTS | {"train.batches_per_update": (32, "scripts: 4096 tokens, 32 GPUs, update-freq 2")}
M15_SCRIPTS: Values = BIG_SCRIPTS | {"train.batches_per_update": (16, "scripts: 2048 tokens, 32 GPUs, update-freq 2")}
RELEASED: dict[str, dict[str, Values]] = {
    "paper1": {
        **dict.fromkeys(("diverse-m2o", "diverse-o2m", "related-m2o", "related-o2m"), TED_SCRIPTS),
        **dict.fromkeys(("wmt-m2o", "wmt-o2m"), WMT_SCRIPTS_1),
    },
    "paper2": {
        **dict.fromkeys(("wmt6-m2o", "wmt6-o2m"), WMT_SCRIPTS_2),
        **dict.fromkeys(("diverse-m2o", "diverse-o2m"), TED_SCRIPTS),
    },
    "paper3": {
        **dict.fromkeys(("m8-xxx-eng", "m8-eng-xxx"), M8_SCRIPTS),
        **dict.fromkeys(("m15-xxx-eng", "m15-eng-xxx"), M15_SCRIPTS),
    },
}
"""Where the study of the released code holds something else."""


def own_values(study: str, row: str, setting: str) -> Values:
    """What a row holds beside its setting's values, by the paper."""
    into_english = setting.endswith(("m2o", "xxx-eng"))
    if study == "paper1" and row.startswith("lssd"):
        return {
            "method.alpha": (2.0 if into_english else 0.6, "1, 4.1"),
            "method.cap": (2.0, "1, 3.3"),
            "method.selective_below": (0.0, "1, 3.3"),
            "method.gate_level": ("sentence", "1, 3.3"),
            "method.halve_total": (False, "1, Equation 3"),
            "method.teacher_vocabulary": ("full", "1, Equation 4"),
        }
    if study == "paper2" and row.startswith("vanilla"):
        tau = int(row[-1])
        return START_AT_0 | {f"students.{n}.sampler.temperature": (tau, "2, Table 2") for n in (0, 1)}
    if study == "paper2" and row.startswith(("uni", "bi-0")):
        start = START_AT_0 if row.startswith("bi") else {}
        alpha = float(row.split("-")[1])
        return {"method.alpha": (alpha, "2, 4.1: searched among 0.2, 0.4, 0.6, 0.8"), **EACH_EPOCH, **start}
    if study == "paper2" and row == "auto":
        return {
            "method.initial": (0.1, "2, 3.4"),
            "method.schedule": (4, "2, Equation 12"),
            "method.trials.rho": (0.1, "2, 4.1"),
            "method.trials.after": ("restore", "2, Algorithm 2"),
            **EACH_EPOCH,
        }
    if study in ("paper3", "cd_id") and row.startswith(("cd", "dae", "mass")):
        values: Values = {
            "method.divisor": ("shared", "the paper leaves it open; code: one sample size"),
            "denoising.ratio": (1.0, "3, 5.3: half and half"),
            "denoising.temperature": (10 / 7, "3, 5.3"),
            "denoising.bitext": (True, "3, 5.3"),
        }
        if row.startswith("cd"):
            values |= {
                "denoising.tasks.0.ratio": (0.3, "3, 5.4"),
                "denoising.tasks.0.keep": (0.1, "3, 4.1"),
                "denoising.tasks.0.random": (0.1, "3, 4.1"),
            }
        return values
    return {}


EACH_EPOCH: Values = {
    "method.interval": (1, "2, 4.1: every epoch"),
    "method.start_epoch": (1, "2, Algorithm 1"),
    "method.peer_dropout": (False, "2, Equation 4"),
}
START_AT_0: Values = {"method.fixed_start": ("after_interval", "2, Algorithm 1: alpha = 0 until t % T = 0")}
LSSD_SCRIPTS: dict[str, tuple[tuple[float, bool], tuple[float, bool], tuple[float, bool]]] = {
    "diverse-m2o": ((2.5, False), (1.0, False), (2.5, False)),
    "diverse-o2m": ((0.6, True), (0.5, False), (0.5, True)),
    "related-m2o": ((2.5, False), (1.3, False), (2.5, False)),
    "related-o2m": ((0.5, False), (0.5, False), (0.5, True)),
    "wmt-m2o": ((2.0, False), (1.0, False), (2.0, False)),
    "wmt-o2m": ((0.6, True), (0.8, True), (0.8, True)),
}
"""Scripts of LSSD, whole, selective and adaptive: weight, and whether the teacher's vocabulary is the language's."""
RHO = {"wmt6-m2o": 0.1, "wmt6-o2m": 0.2, "diverse-m2o": 0.05, "diverse-o2m": 0.2}
"""Scripts of Pareto-MD: --trial-dataset-ratio of AUTO."""
PARETO_SCRIPTS = {"wmt6-m2o": (0.6, 0.6), "wmt6-o2m": (0.2, 0.4), "diverse-m2o": (0.6, 0.8), "diverse-o2m": (0.4, 0.4)}
"""Scripts of Pareto-MD: --distillation-weight of UNI and BI."""


def own_released_values(study: str, row: str, setting: str) -> Values:
    """What a row holds beside its setting's values, by the released code and its scripts."""
    if study == "paper1" and row.startswith("lssd"):
        variant = ("lssd", "lssd-selective", "lssd-adaptive").index(row)
        alpha, language = LSSD_SCRIPTS[setting][variant]
        values: Values = {
            "method.alpha": (alpha, "scripts"),
            "method.teacher_vocabulary": ("language" if language else "full", "scripts"),
            "method.cap": (1.0, "code"),
            "method.selective_below": (0.2, "code"),
            "method.halve_total": (True, "code"),
        }
        if row == "lssd-adaptive":
            values["method.gate_level"] = ("sentence", "all six scripts")
        if row == "lssd-selective":
            values["method.gate_level"] = ("sentence" if setting.startswith("wmt") else "token", "scripts")
        return values
    if study == "paper2" and row in ("uni", "bi"):
        return {
            "method.interval_counts": ("coming", "code: before epochs 6, 9, 12"),
            "method.alpha": (PARETO_SCRIPTS[setting][("uni", "bi").index(row)], "scripts"),
            "method.start_epoch": (5, "code"),
            "method.peer_dropout": (True, "code"),
            "method.interval": (3 if row == "uni" else 1, "scripts; BI's weights do not change"),
        }
    if study == "paper2" and row == "auto":
        return {
            "method.interval": (2 if setting == "wmt6-m2o" else 1, "scripts"),
            "method.schedule_unit": ("epoch", "code: sqrt((E - e) / (E - 5))"),
            "method.trials.rho": (RHO[setting], "scripts; options' default"),
            "method.trials.after": ("keep", "code"),
        }
    if study == "paper2" and row.startswith("vanilla"):
        return own_values(study, row, setting)
    if study == "paper3" and row == "mass":
        return {
            "denoising.tasks.0.ratio": (0.3, "scripts: MASK_RATIO"),
            "denoising.tasks.0.keep": (0, "code: every place is <mask>"),
            "denoising.tasks.0.random": (0, "code: every place is <mask>"),
            "denoising.tasks.0.hides": ("words", "scripts: whole words"),
            **CD_ID_CODE,
        }
    if study == "paper3" and row.startswith("dae"):
        mlm: Values = {"denoising.tasks.1.ratio": (0.3, "scripts: --mask-prob")} if row == "dae_mlm" else {}
        return mlm | {
            "denoising.tasks.0.mask": (0.3, "scripts: --mask 0.30 --mask-whole-words"),
            "denoising.tasks.0.infill": (0, "scripts: no spans"),
            "denoising.tasks.0.random": (0.1, "code: 10 % random words"),
            **CD_ID_CODE,
        }
    if study == "paper3" and row == "cd_id":
        return CD_ID_CODE | {
            "method.tasks.translation.memory": ("first", "code"),
            "method.tasks.cd.base.divergence_share": (0.5, "code"),
        }
    return CD_ID_CODE if study == "paper3" and row.startswith("cd") else {}


CD_ID_CODE: Values = {
    "method.divisor": ("shared", "code"),
    "denoising.unit": ("block", "code"),
    "denoising.block_tokens": (511, "code"),
    "denoising.cut_to_shortest": (True, "code"),
    "denoising.cut_counts_tag": (True, "code: the item's length has the tag"),
    "denoising.end_is_word": (True, "code: special symbols begin words"),
}


def expected_values(study: str, row: str, setting: str) -> Values:
    """All that a row of a study is held to in a setting."""
    family = study.removesuffix("_released")
    values = dict(SETTINGS[family][setting])
    if study != family:
        values |= {"validation.selection": ("tokens", "code: the mean over all dev tokens")}
        values |= RELEASED[family][setting] | own_released_values(family, row, setting)
    else:
        values |= own_values(family, row, setting)
    if row in ("multidds", "multiuat", "ccl-m", "chi-ibr"):  # samplers with other settings
        values.pop("sampler.temperature", None)
    if family == "paper2" and row == "vanilla-1":  # each of its students has a sampler of its own
        values.pop("sampler.temperature", None)
    return values


@cache
def recipes(study: str) -> dict[tuple[str, str], list[Recipe]]:
    """Recipes of a study's first seeds, by row and setting; a row of bilingual models has one a pair."""
    entries = read_study(LAUNCHERS / "studies" / f"{study}.yaml").entries
    return {(entry.row, entry.condition): [job.recipe for job in entry.jobs] for entry in entries}


def differences(recipe: Recipe, expected: Values) -> list[str]:
    """Values of a recipe that are not the expected ones, with the source of these."""
    texts = []
    for key, (value, source) in expected.items():
        found: Any = recipe
        for name in key.split("."):
            if isinstance(found, tuple):
                found = found[int(name)]
            elif isinstance(found, dict):
                found = found[name]
            else:
                found = getattr(found, name, "no such setting")
        if found != value:
            texts.append(f"{key} is {found!r}, not {value!r} ({source})")
    return texts


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str) -> None:
    assert not differences(load_recipe(LAUNCHERS / "recipes" / f"{name}.yaml"), RECIPES[name])


def test_every_recipe_of_the_papers_is_in_the_table() -> None:
    paths = (LAUNCHERS / "recipes" / "papers").glob("*.yaml")
    assert {f"papers/{path.stem}" for path in paths} == {name for name in RECIPES if name.startswith("papers/")}


@pytest.mark.parametrize("study", [*SETTINGS, "paper1_released", "paper2_released", "paper3_released"])
def test_studies(study: str) -> None:
    assert {setting for _, setting in recipes(study)} == SETTINGS[study.removesuffix("_released")].keys()
    wrong = [
        f"{study} {setting} {row}: {text}"
        for (row, setting), jobs in recipes(study).items()
        for recipe in jobs
        for text in differences(recipe, expected_values(study, row, setting))
    ]
    assert not wrong, "\n".join(wrong[:20])


def test_a_slip_is_seen() -> None:
    """The comparison names key, value, the paper's value and its source."""
    recipe = load_recipe(LAUNCHERS / "recipes" / "papers" / "m8.yaml", ["framing.encoder_langtok=src"])
    assert differences(recipe, BIG_PAPER | M8) == [
        "framing.encoder_langtok is 'src', not 'tgt' (3, 4.1: one token on both sides; scripts: the target's)"
    ]


@pytest.mark.parametrize(
    ("study", "setting", "millions"),
    [
        ("paper3", "m8-xxx-eng", 242),  # 3, 5.4
        ("paper3", "m15-xxx-eng", 418),  # 3, 5.4
        ("paper3_released", "m8-xxx-eng", 209),  # scripts: --share-all-embeddings
        ("paper3_released", "m15-eng-xxx", 385),
    ],
)
def test_sizes_of_paper_3s_models(study: str, setting: str, millions: int) -> None:
    """Counted from the shape: D width, F feed-forward, V words, an attention 4 D (D + 1), a norm 2 D."""
    recipe = recipes(study)["mmt", setting][0]
    d, f, v = recipe.model.d_model, recipe.model.ffn, recipe.data.tokenizer.size
    attention, ffn, norm = 4 * d * (d + 1), 2 * d * f + f + d, 2 * d
    encoder = recipe.model.encoder_layers * (attention + ffn + 2 * norm) + norm
    decoder = recipe.model.decoder_layers * (2 * attention + ffn + 3 * norm) + norm
    total = {"all": 1, "decoder": 2}[recipe.model.share_embeddings] * v * d + encoder + decoder
    assert round(total / 1e6) == millions
    assert count_parameters(recipe.model, v).total == total


def test_the_paper_sweeps_alpha() -> None:
    rows = {row for row, _ in recipes("paper2")}
    assert {f"{rule}-{alpha}" for rule in ("uni", "bi") for alpha in (0.2, 0.4, 0.6, 0.8)} <= rows


TRAINING_SENTENCES = {
    "diverse": (5664, 9840, 18798, 25335, 134327, 174444, 192304, 205640),
    "related": (4509, 5946, 10017, 61470, 103093, 182470, 184755, 208458),
    "wmt": (5000, 10000, 80000, 400000, 1500000, 3000000),
}
"""1, A: Tables 5 and 6, by corpus."""


@pytest.mark.parametrize("study", ["paper1", "paper1_released", "paper2", "paper2_released"])
def test_resource_classes_divide_every_corpus(study: str) -> None:
    """Else there is no Pareto frontier: each corpus has pairs that are high-resource, and others."""
    settings = read_study(LAUNCHERS / "studies" / f"{study}.yaml").settings
    parser = argparse.ArgumentParser()
    parser.add_argument("--high", type=int)
    parser.add_argument("--very-low", type=int)
    options, _ = parser.parse_known_args(settings.evaluate.split())
    for setting in settings.conditions:
        sizes = next(sizes for corpus, sizes in TRAINING_SENTENCES.items() if setting.startswith(corpus))
        high = sum(size >= options.high for size in sizes)
        assert options.high == 100_000 and 0 < high < len(sizes), setting
        assert not any(size < options.very_low for size in sizes)
