"""The page of what goes with what, docs/support_matrix.md, generated from the declared requirements.

``python -m mnmt_ds.cli.reference`` writes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mnmt_ds.methods.registry import METHODS
from mnmt_ds.methods.registry import requirements as method_requirements
from mnmt_ds.requirements import Requirements, RunLayout, refusals
from mnmt_ds.samplers.registry import SAMPLERS
from mnmt_ds.samplers.registry import requirements as sampler_requirements

STAGES = {"stages": 2, "model_layers": 9, "most_stages": 6}
LAYOUTS: dict[str, dict[str, Any]] = {
    "ZeRO 0": {"zero_stage": 0},
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 2": {"zero_stage": 2},
    "ZeRO 3": {"zero_stage": 3},
    "pipeline stages": {"zero_stage": 1, **STAGES},
    "vocabulary-parallel": {"zero_stage": 1, "vocabulary_shards": 2},
    "stages, vocabulary-parallel": {"zero_stage": 1, **STAGES, "vocabulary_shards": 2},
    "split students": {"zero_stage": 1, "students": 2, "split": True},
}
"""Columns: what each asks for, on four ranks."""
FORMS: dict[str, dict[str, Any]] = {
    "ZeRO 0": {"zero_stage": 0},
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 2 or 3": {"zero_stage": 2},
    "`offload_optimizer`": {"zero_stage": 1, "offload_optimizer": True},
    "bf16, ZeRO 0": {"zero_stage": 0, "precision": "bf16"},
    "bf16, ZeRO 1": {"zero_stage": 1, "precision": "bf16"},
    "fp16, ZeRO 0": {"zero_stage": 0, "precision": "fp16"},
    "fp16, ZeRO 1": {"zero_stage": 1, "precision": "fp16"},
    "`students`, together": {"zero_stage": 1, "students": 2},
    "`students`, `placement: split`": {"zero_stage": 1, "students": 2, "split": True},
    "`simultaneous: true`": {"zero_stage": 1, "students": 2, "simultaneous": True},
}
"""Rows of the second table: choices that no method makes."""
SETTINGS: dict[str, dict[str, Any]] = {
    "lssd, `gate_student: eval`": {"name": "lssd", "variant": "selective", "gate_student": "eval"},
    "lssd, `teachers.on_device: layers`": {"name": "lssd", "teachers": {"on_device": "layers"}},
    "multi_distill, `top_k: 0`": {"name": "multi_distill", "rule": "fix", "top_k": 0},
    "pareto, `extra_updates` beside a search": {"name": "pareto", "rule": "auto", "extra_updates": True},
}
"""Settings that change what a method needs."""


WORDS: dict[str, str] = {
    "peers": "two students or more",
    "weight_search": "trials at validations",
    "extra_updates": "extra updates at validations",
    "eval_states": "the student's states without dropout",
    "passes": "passes of each batch",
    "teachers": "frozen teachers",
    "shared_teacher": "one teacher for all pairs",
    "pair_bests": "the pairs' best checkpoints",
    "layer_streaming": "teachers layer by layer",
    "top_k": "most probable words",
    "dev_bleu": "dev BLEU",
    "measured_by": "measurements of the student",
}
"""A requirement in words; numbers stand before them."""
HEAD = """# What goes with what

Every method and sampler declares what it needs of a run (`mnmt_ds/requirements.py`), and one function compares that
with the layout that a recipe asks for. The tables show its answers; a number is the reason below, which `mnmt-ds train`
gives as its message. A method that wraps others needs what they need, too. "Vocabulary-parallel" is `tensor:
{vocabulary: N}`: embeddings, output projection and loss split by words over N ranks
([parallelism](parallelism.md#vocabulary-over-several-ranks)). It has nothing to do with a vocabulary that source and
target languages have in common.
"""


def page() -> str:
    """Renders the page docs/support_matrix.md.

    Returns:
        Markdown, with a final line end.
    """
    notes: dict[str, int] = {}
    needs = {f"`{name}`": _needs_of({"name": name, **_example(name)}) for name in METHODS}
    needs |= {name: _needs_of(section) for name, section in SETTINGS.items()}
    methods = {name: _row(need, LAYOUTS.values(), notes) for name, need in needs.items()}
    sampler_needs = {
        f"`{name}`": sampler_requirements(entry.settings.model_construct()) for name, entry in SAMPLERS.items()
    }
    samplers = {name: _row(need, LAYOUTS.values(), notes) for name, need in sampler_needs.items()}
    forms = {
        name: _row(Requirements(), ({**STAGES, **form}, {"vocabulary_shards": 2, **form}), notes)
        for name, form in FORMS.items()
    }
    reasons = "\n".join(f"{number}. {reason}" for reason, number in notes.items())
    return "\n".join(
        [
            HEAD,
            "## Methods\n",
            _table("`method`", LAYOUTS, methods),
            "## Samplers\n",
            _table("`sampler`", LAYOUTS, samplers),
            "## Layouts with one another\n",
            _table("", ["pipeline stages", "vocabulary-parallel"], forms),
            "## What each declares\n",
            _table("", ["needs"], {name: [_words(need)] for name, need in (needs | sampler_needs).items()}),
            f"## Reasons\n\n{reasons}\n",
        ]
    )


def _example(name: str) -> Mapping[str, Any]:
    """The method's section of an entry's example, where that names the entry itself."""
    section = METHODS[name].example.get("method", {})
    return section if section.get("name") == name else {}


def _needs_of(section: Mapping[str, Any]) -> Requirements:
    """What a method with these settings needs."""
    return method_requirements(METHODS[section["name"]].settings.model_validate(section))


def _row(needs: Requirements, layouts: Iterable[Mapping[str, Any]], notes: dict[str, int]) -> list[str]:
    """A cell a layout: yes, or the numbers of the reasons, which are noted."""
    cells = []
    for values in layouts:
        layout = RunLayout(ranks=4, **values)
        if needs.peers:
            layout = layout._replace(students=2)
        numbers = [notes.setdefault(str(refusal), len(notes) + 1) for refusal in refusals(needs, layout)]
        cells.append(", ".join(f"no ({number})" for number in numbers) or "yes")
    return cells


def _words(needs: Requirements) -> str:
    """Requirements beyond the defaults, in words."""
    nothing, phrases = Requirements()._asdict(), []
    for field, value in needs._asdict().items():
        if value != nothing[field]:
            number = f"{value} " if isinstance(value, int) and not isinstance(value, bool) else ""
            phrases.append(number + WORDS[field])
    return ", ".join(phrases) or "nothing"


def _table(corner: str, columns: Iterable[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table, with a final line end."""
    head = [corner, *columns]
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows.items())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
