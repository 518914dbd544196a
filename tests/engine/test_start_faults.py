"""Whatever is wrong with a run, in whichever file, stands in one list before it starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.engine.start_faults import all_faults_listed, load_for_start, start_faults
from mnmt_ds.errors import UserError
from tests.tiny import recipe

JSON = {"zero_optimization": {"stage": 3, "offload_param": {"devise": "cpu"}}, "wandb": {"enabled": True}, "foo": 1}
OF_JSON = ["wandb.enabled is not taken", "foo: DeepSpeed has no such key", "zero_optimization.offload_param.devise"]
OF_LAYOUT = ["pipeline: DeepSpeed's pipelines go with ZeRO 0 and 1, not 3", "pipeline: 99 stages"]
OF_METHOD = ["method pareto: one student only"]


def written(corpus: Path, home: Path, config: dict[str, Any], **sections: Any) -> Path:
    """A recipe with a DeepSpeed file of its own."""
    (home / "own.json").write_text(json.dumps(config))
    path = home / "recipe.yaml"
    path.write_text(dump(recipe(corpus, home / "run", deepspeed=home / "own.json")))
    changed = home / "changed.yaml"
    changed.write_text("extends: recipe.yaml\n" + "".join(f"{k}: {json.dumps(v)}\n" for k, v in sections.items()))
    return changed


def refused(path: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_for_start(path, ())
    return list(caught.value.faults)


def has_each_once(faults: list[str], texts: list[str]) -> None:
    assert len(faults) == len(texts) == len(set(faults)), faults
    assert all(any(text in fault for fault in faults) for text in texts), faults


def test_faults_of_all_files_stand_in_one_list(tiny_corpus: Path, tmp_path: Path) -> None:
    path = written(
        tiny_corpus, tmp_path, JSON,
        train={"lr": -1}, method={"name": "pareto"}, pipeline={"stages": 99},
        data={"directory": str(tmp_path / "none")},
    )  # fmt: skip
    has_each_once(refused(path), ["changed.yaml:2: train.lr", *OF_JSON, *OF_LAYOUT, *OF_METHOD, "no prepared corpus"])


def test_what_reads_a_faulty_setting_is_not_judged(tiny_corpus: Path, tmp_path: Path) -> None:
    """Nothing is said of a method, a precision or pairs that stand there only because the recipe's are at fault."""
    config = {"fp16": {"enabled": True}}
    path = written(tiny_corpus, tmp_path, config, train={"precison": "fp16"}, method={"name": "parreto"})
    has_each_once(refused(path), ["unknown key 'train.precison'", "no such method 'parreto'"])
    path = written(tiny_corpus, tmp_path, config, data={"pairs": ["en_fr"]}, sampler={"name": "x"})
    has_each_once(refused(path), ["data: pairs", "no such sampler 'x'", "fp16.enabled is True there"])


def test_a_fault_met_on_the_way_brings_the_others(tiny_corpus: Path, tmp_path: Path) -> None:
    made = recipe(tiny_corpus, tmp_path / "run", method={"name": "pareto"}, pipeline={"stages": 99})
    with pytest.raises(UserError) as caught, all_faults_listed(made):
        raise UserError("none/manifest.json: no prepared corpus")
    has_each_once(list(caught.value.faults), ["none/manifest.json", OF_LAYOUT[1], *OF_METHOD])
    assert start_faults(recipe(tiny_corpus, tmp_path / "run")) == []


def test_validate_lists_them_beside_those_of_the_text(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fr-en.tsv").write_text("un\tone\nno tab\n")
    files = {"fr-en": {"train": [{"format": "tsv", "path": str(tmp_path / "fr-en.tsv")}]}}
    data = {"pairs": ["fr-en"], "corpora": files, "directory": str(tmp_path / "none"), "tokenizer": {"size": 0}}
    path = written(tiny_corpus, tmp_path, JSON, train={"lr": -1}, method={"name": "pareto"}, data=data)
    assert main(["validate", str(path), "--processes", "1"]) == 2
    faults = capsys.readouterr().out.splitlines()[:-1]
    texts = ["fr-en.tsv:2", "train.lr", "data.tokenizer.size", *OF_JSON, *OF_METHOD]
    assert all(any(text in fault for fault in faults) for text in texts), faults
    assert not any("no prepared corpus" in fault for fault in faults)
