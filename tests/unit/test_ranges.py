"""Every number of every settings class has a range, and what lies outside is refused in one line."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from mnmt_ds.analysis.analyses import AnalysisSettings
from mnmt_ds.cli.main import make_parser
from mnmt_ds.config import load
from mnmt_ds.config.ranges import NumberRange, number_option, range_text, ranges_of, setting_option
from mnmt_ds.config.sections import example_of, sections
from mnmt_ds.config.settings import Settings, settings_classes
from mnmt_ds.config.yaml_values import format_value
from mnmt_ds.decoding.beam_search import BeamSettings
from mnmt_ds.engine.recipe import Recipe
from mnmt_ds.errors import UserError
from mnmt_ds.evaluation.scores import ScoreSettings
from mnmt_ds.study.settings import StudySettings

UNBOUNDED = {
    "Files.columns": "a number or a name; its own check says from 1 on",
    "Files.min_scores": "its keys are numbers or names; the reader's check says from 1 on",
}
"""Fields with a number that declares no bounds, each with the reason."""


def numeric_fields() -> Iterator[tuple[type[Settings], str, FieldInfo]]:
    kinds = {section.kind for root in (Recipe, StudySettings) for section in sections(root)}
    for kind in [*sorted(kinds, key=lambda kind: kind.__name__), BeamSettings, ScoreSettings, AnalysisSettings]:
        for name, field in kind.model_fields.items():
            if ranges_of(field) and not settings_classes(field.annotation):
                yield kind, name, field


def test_the_walk_sees_what_it_should() -> None:
    names = {f"{kind.__name__}.{name}" for kind, name, _ in numeric_fields()}
    assert len(names) > 95
    assert {"TrainSettings.adam_betas", "DataSettings.max_train", "ByTaskSettings.weights", "MlmTask.ratio"} <= names
    assert {"ConditionSettings.seeds", "LaunchSettings.ranks", "MultiUatSettings.passes", "TrialSettings.rho"} <= names


@pytest.mark.parametrize(("kind", "name", "field"), numeric_fields(), ids=lambda value: getattr(value, "__name__", ""))
def test_every_number_has_a_range(tmp_path: Path, kind: type[Settings], name: str, field: FieldInfo) -> None:
    if f"{kind.__name__}.{name}" in UNBOUNDED:
        return
    assert all(number.ge is not None or number.gt is not None for number in ranges_of(field)), (
        "declare a lower bound: Field(ge=...)"
    )
    path = tmp_path / "settings.yaml"
    allowed = ranges_of(field)[0]
    for bad in wrong_values(allowed):
        path.write_text(f"{name}: {format_value(around(field, bad))}\n" + others(kind, name))
        with pytest.raises(UserError) as caught:
            load(kind, path)
        assert len(caught.value.faults) == 1
        message = caught.value.faults[0]
        assert message.startswith(f"{path}:1: {name}"), message
        if not isinstance(bad, bool) and not (isinstance(bad, float) and allowed.kind is int):
            assert range_text(field) and f"must be {range_text(field)}, not {bad}" in message, message
        assert number_option_refuses(allowed, bad)


def wrong_values(allowed: NumberRange) -> list[Any]:
    """Values around a range, and those that no range holds."""
    step = 1 if allowed.kind is int else 1e-3
    wrong: list[Any] = [math.nan, math.inf, -math.inf, True]
    wrong += [] if allowed.ge is None else [allowed.ge - step, -(10**9)]
    wrong += [] if allowed.gt is None else [allowed.gt, -1]
    wrong += [] if allowed.le is None else [allowed.le + step]
    return wrong + ([] if allowed.lt is None else [allowed.lt, 10**9])


def number_option_refuses(allowed: NumberRange, bad: Any) -> bool:
    with pytest.raises(argparse.ArgumentTypeError, match="must be "):
        number_option(**allowed._asdict())(str(bad))
    return True


def around(field: FieldInfo, value: Any) -> Any:
    """A field's value with a number in it: alone, in a tuple or in a dict."""
    text = str(field.annotation)
    if text.startswith("dict"):
        return {"fr-en" if "int" in text else "cd": value}
    if "tuple" in text:
        return [value, value][: 1 if "..." in text else 2] if "..." in text else [0.5, value]
    return value


def others(kind: type[Settings], name: str) -> str:
    """What else a section needs, as YAML."""
    return "".join(f"{key}: {format_value(item)}\n" for key, item in example_of(kind).items() if key != name)


def test_options_of_settings_have_their_range() -> None:
    assert setting_option(BeamSettings, "beam")("7") == 7
    assert setting_option(BeamSettings, "length_penalty")("-0.5") == -0.5


def test_numbers_inside_values_are_found() -> None:
    beta = ranges_of(sections(Recipe)[0].kind.model_fields["train"].annotation.model_fields["adam_betas"])  # type: ignore[union-attr]
    assert beta == [NumberRange(float, ge=0, lt=1)] * 2
    assert range_text(BeamSettings.model_fields["beam"], below=10) == "at least 1"


def test_every_option_that_is_a_number_has_a_range() -> None:
    bare = [
        (command, action.dest)
        for command, parser in parsers(make_parser(), "")
        for action in parser._actions
        if action.type in (int, float) and action.dest != "local_rank"  # what launchers give
    ]
    assert not bare


def parsers(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for choice, sub in action.choices.items():
                if isinstance(sub, argparse.ArgumentParser):
                    yield from parsers(sub, f"{name} {choice}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("translate m --pair a-b --beam 0", "--beam: must be at least 1 and at most 1,000, not 0"),
        (
            "translate m --pair a-b --length-penalty nan",
            "--length-penalty: must be at least -10 and at most 10",
        ),
        ("translate m --pair a-b --jobs -1", "--jobs: must be at least 1 and at most 4,096, not -1"),
        ("evaluate r --seed -1", "--seed: must be at least 0, not -1"),
        ("compare r --samples 1.5", "--samples: must be a whole number, not '1.5'"),
        ("plan r --memory inf", "--memory: must be more than 0, not inf"),
        ("bench loss --rounds 0", "--rounds: must be at least 1, not 0"),
    ],
)
def test_options_out_of_range(capsys: pytest.CaptureFixture[str], words: str, expected: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        make_parser(words.split()[0]).parse_args(words.split())
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err
