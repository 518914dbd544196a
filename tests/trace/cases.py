"""The trainings whose numbers are traced."""

from typing import Any, NamedTuple

PAIRS = {"bs-en": 60, "hi-en": 120, "fr-en": 240}
"""Training sentences by pair."""

Sections = dict[str, Any]


class Case(NamedTuple):
    """A training of the list."""

    sections: Sections
    """Recipe sections, merged into the common ones."""
    ranks: int = 1
    """Processes; gloo joins them."""
    zero: int = 1
    """ZeRO stage."""
    launcher: str = "none"
    """deepspeed: its launcher starts the ranks; none: this program does, as torchrun would."""
    stop_at: int = 0
    """Updates after which the run ends and is resumed from its checkpoint; 0: it runs through."""
    evaluated: bool = False
    """Whether the best model then translates the test sets."""


LSSD: Sections = {"name": "lssd", "variant": "adaptive"}
PASSES: Sections = {"name": "intra_distillation", "passes": 2}
TRIALS: Sections = {"rho": 0.2}
EXPERTS: Sections = {"name": "multi_distill", "rule": "fix", "experts": dict.fromkeys(PAIRS, "{runs}/translation/best")}
RELEASED: Sections = {
    "peer_dropout": True, "tolerance_bits": 0.05, "ties": "raise", "clip": 0.98,
    "trials": {"data": "coming", "after": "keep", "rho": 0.3},
}  # fmt: skip
"""Pareto-MD as its released code has it, in settings of version 0.1.0 alone, so that older traces can be compared."""
STUDENTS = [{"sampler": {"temperature": 1}}, {"sampler": {"temperature": 5}}]
CD: Sections = {
    "denoising": {"tasks": [{"name": "cd"}], "unit": "block", "block_tokens": 30},
    "framing": {"encoder_langtok_position": "end"},
}
ID_CD: Sections = {
    **CD,
    "model": {"encoder_projection": "own"},
    "method": {
        "name": "by_task",
        "divisor": "task",
        "tasks": {
            "translation": {**PASSES, "base": {"name": "lssd"}},
            "cd": {**PASSES, "alpha": 2.0, "base": {"name": "denoising"}},
        },
    },
}
BLEU: Sections = {
    "validation": {"every": 20, "bleu_every": 1, "bleu_sentences": 4, "bleu_beam": 2},
    "train": {"max_steps": 60, "lr": 2e-2, "warmup_steps": 10},
}
"""Long enough that something is translated."""


def lssd(**settings: Any) -> Sections:
    """The sections of a run with LSSD.

    Args:
        settings: of the method, beside its name.

    Returns:
        Recipe sections.
    """
    return {"method": {"name": "lssd", **settings}}


def pareto(rule: str, **sections: Any) -> Sections:
    """The sections of a run of two students with Pareto-MD.

    Args:
        rule: how the weights of the peers' distillation are found.
        sections: further recipe sections; ``method`` is merged.

    Returns:
        Recipe sections.
    """
    method = {"name": "pareto", "rule": rule, "trials": TRIALS, **sections.pop("method", {})}
    return {"students": STUDENTS, "method": method, "train": {"max_steps": 6}, **sections}


def sampler(name: str, **settings: Any) -> Sections:
    """The sections of a run whose shares of the pairs a sampler moves.

    Args:
        name: the sampler's.
        settings: of the sampler.

    Returns:
        Recipe sections.
    """
    return {"sampler": {"name": name, **settings}, "validation": {"every": 4}}


CASES: dict[str, Case] = {
    "translation": Case({"method": {"name": "translation"}, **BLEU}, zero=0, evaluated=True),
    "lssd_whole": Case(lssd(variant="whole")),
    "lssd_adaptive": Case(lssd(variant="adaptive")),
    "lssd_selective": Case(lssd(variant="selective", gate_student="eval")),
    "lssd_released": Case(
        lssd(profile="released", variant="adaptive", gate_level="token", teacher_vocabulary="language")
    ),
    "lssd_cache_off": Case(lssd(variant="adaptive", teachers={"cache": "off"})),
    "lssd_cache_ram": Case(lssd(variant="adaptive", teachers={"cache": "ram", "cache_dtype": "fp8"}), zero=2),
    "lssd_cache_disk": Case(
        lssd(teachers={"cache": "disk", "disk": "{runs}/states", "weights_gib": 0.0, "read": "mapped"})
    ),
    "lssd_layers": Case(lssd(teachers={"on_device": "layers"})),
    "lssd_reference": Case({**lssd(variant="adaptive"), "train": {"loss_implementation": "reference"}}),
    "lssd_chunked": Case({**lssd(variant="adaptive"), "train": {"loss_implementation": "chunked"}}),
    "lssd_bf16": Case({**lssd(variant="adaptive"), "train": {"precision": "bf16"}}),
    "lssd_resumed": Case({**lssd(variant="adaptive"), "train": {"save_every": 3}}, stop_at=7),
    "stsd": Case(lssd(teacher="overall")),
    "id_lssd": Case({"method": {**PASSES, "schedule": "adaptive", "base": LSSD}}),
    "id_cd": Case(ID_CD),
    "dae_mlm": Case({
        "validation": {"selection": "tokens"},
        "method": {
            "name": "by_task",
            "divisor": "shared",
            "tasks": {"translation": {"name": "translation"}, "dae": {"name": "denoising"},
                      "mlm": {"name": "denoising"}},
            "weights": {"mlm": 0.5},
        },
        "denoising": {"tasks": [{"name": "dae"}, {"name": "mlm"}], "ratio": 0.5, "unit": "block",
                      "cut_to_shortest": True},
    }),
    "mass": Case({
        "method": {"name": "by_task", "divisor": "task", "tasks": {"translation": {"name": "translation"},
                                                                   "mass": {"name": "denoising"}}},
        "denoising": {"tasks": [{"name": "mass"}]},
    }),
    "multi_distill": Case({"method": EXPERTS}),
    "several": Case({"method": {"name": "several", "methods": [{"name": "lssd"}, EXPERTS]}}),
    "pareto_uni": Case(pareto("uni")),
    "pareto_bi": Case(pareto("bi", method={"extra_updates": True})),
    "pareto_auto": Case(pareto("auto")),
    "pareto_dynamic": Case(pareto("dynamic", method={"base": {**LSSD, "gate_student": "eval"}},
                                  train={"max_steps": 8})),
    "pareto_released": Case(pareto("auto", method=RELEASED)),
    "pareto_cd": Case({
        **pareto("bi", **CD),
        "method": {"name": "by_task", "divisor": "task", "tasks": {"translation": {"name": "pareto", "rule": "bi"},
                                                                   "cd": {"name": "denoising"}}},
    }),
    "temperature": Case({**sampler("temperature", temperature=5.0), "train": {"workers": 1}}),
    "multidds": Case(sampler("multidds", every=3, lr=1e-2, steps=20)),
    "multiuat": Case(sampler("multiuat", every=3, lr=1e-2, steps=20, passes=2, reward="enttp")),
    "chi_ibr": Case(sampler("chi_ibr", baseline="{runs}/baseline.json")),
    "ccl_m": Case({**sampler("ccl_m", ready=0.05, stagger=0.5, latest=3), **lssd()}),
    "two_zero0": Case(lssd(variant="adaptive"), 2, 0),
    "two_zero1": Case(lssd(variant="adaptive"), 2, 1, launcher="deepspeed"),
    "two_zero2": Case(lssd(variant="adaptive", teachers={"cache": "ram"}), 2, 2),
    "two_zero3": Case(lssd(variant="adaptive", gate_student="eval"), 2, 3),
    "two_pareto_split": Case(pareto("auto", placement="split"), 2, 1),
    "two_pareto_at_once": Case(pareto("bi", placement="split", simultaneous=True), 2, 3),
    "two_id_cd": Case(ID_CD, 2, 3),
    "two_multidds": Case(sampler("multidds", every=3, lr=1e-2, steps=20), 2, 2),
    "two_stages": Case({"pipeline": {"stages": 2, "balance": "parameters"}}, 2, 0),
    "two_stages_lssd": Case({**lssd(variant="adaptive"), "pipeline": {"stages": 2, "balance": "parameters"}}, 2, 1),
    "two_stages_pareto": Case(pareto("auto", pipeline={"stages": 2, "balance": "parameters"}), 2, 1),
    "two_vocabulary": Case({"tensor": {"vocabulary": 2}, **BLEU}, 2, 0),
    "two_vocabulary_lssd": Case({**lssd(variant="adaptive"), "tensor": {"vocabulary": 2}}, 2, 1),
}  # fmt: skip
"""The list, in its order: ``translation`` first, whose best model is the expert of others."""
