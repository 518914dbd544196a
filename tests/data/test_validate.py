"""``validate`` lists every fault, one line each, and writes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnmt_ds.cli.main import main
from mnmt_ds.data.prepare import prepare
from mnmt_ds.data.settings import DataSettings
from mnmt_ds.data.validate import MAX_LISTED_FAULTS, validate
from mnmt_ds.errors import UserError
from tests.data.conftest import sentences

Moses = Callable[..., dict[str, Any]]
Make = Callable[..., DataSettings]
ENGLISH = sentences(200)


def corpora(moses: Moses) -> dict[str, Any]:
    return {"bs-en": {"train": [moses("bs-en", ENGLISH)]}, "mr-en": {"train": [moses("mr-en", ENGLISH)]}}


def test_all_is_well(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    settings = settings_of(pairs=["bs-en", "mr-en"], corpora=corpora(moses))
    before = sorted(tmp_path.rglob("*"))
    assert validate(settings) == []
    assert sorted(tmp_path.rglob("*")) == before
    prepare(settings)
    assert validate(settings) == []


def test_every_fault_is_listed(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    settings = settings_of(pairs=["bs-en", "mr-en"], corpora=corpora(moses))
    source, target = tmp_path / "train.bs-en.bs", tmp_path / "train.bs-en.en"
    lines = source.read_bytes().split(b"\n")
    lines[4] = b"caf\xe9"
    lines[9] = b"nul \x00"
    lines[19] = b"x" * 10_000_000
    source.write_bytes(b"\n".join(lines))
    target.write_bytes(target.read_bytes() + b"one more\n")
    (tmp_path / "train.mr-en.mr").unlink()
    faults = validate(settings)
    assert len(faults) == 5
    assert all("\n" not in fault for fault in faults)
    starts = [
        f"{source}:5: byte 4 (0xe9) is not UTF-8",
        f"{source}:10: a NUL byte",
        f"{source}:20: a line of more than 1000000 bytes",
    ]
    for fault, start in zip(faults, starts, strict=False):
        assert fault.startswith(start)
    assert faults[3].startswith(f"{source}:201: has 200 lines, but {target} has 201;")
    assert faults[4].startswith(f"{tmp_path / 'train.mr-en.mr'}: cannot be read (No such file or directory)")


def test_a_pair_without_a_sentence(moses: Moses, settings_of: Make) -> None:
    files = {"bs-en": {"train": [moses("bs-en", ENGLISH)]}, "mr-en": {"train": [moses("mr-en", [""] * 5)]}}
    (fault,) = validate(settings_of(pairs=["bs-en", "mr-en"], corpora=files))
    assert fault.startswith("pair mr-en: no train sentence is left (read 5, empty 5); give more text")


def test_many_faults_of_one_file_are_counted(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    settings = settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": [moses("bs-en", ENGLISH)]}})
    source = tmp_path / "train.bs-en.bs"
    source.write_bytes(
        b"".join(b"\xff\n" if i < 150 else line + b"\n" for i, line in enumerate(source.read_bytes().split(b"\n")[:-1]))
    )
    faults = validate(settings)
    assert len(faults) == MAX_LISTED_FAULTS + 1
    assert faults[-1] == f"{source}: {150 - MAX_LISTED_FAULTS} more lines like these"
    assert (
        validate(settings.model_copy(update={"clean": settings.clean.model_copy(update={"bad_lines": "drop"})})) == []
    )


def test_a_flipped_bit_in_any_prepared_file_is_found(moses: Moses, settings_of: Make) -> None:
    settings = settings_of(pairs=["bs-en"], corpora={"bs-en": {"train": [moses("bs-en", ENGLISH)]}})
    prepare(settings)
    root = Path(settings.directory)
    names = list(json.loads((root / "manifest.json").read_text())["files"])
    assert len(names) == 3 * 2 + 3 * 2 + 2
    for name in names:
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        faults = validate(settings)
        assert len(faults) == 1, name
        assert name in faults[0] or "tokenizer" in faults[0]
        (root / name).write_bytes(whole)
    assert validate(settings) == []
    assert validate(settings.model_copy(update={"max_train": {"*": 50}})) == [
        f"{root / 'manifest.json'}: prepared with other settings (max_train); run mnmt-ds prepare again"
    ]


def test_the_commands_exit_codes(
    moses: Moses, settings_of: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(pairs=["bs-en", "mr-en"], corpora=corpora(moses))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"data": settings.model_dump(mode="json")}))
    assert main(["validate", str(recipe)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{recipe}: no faults"
    assert main(["prepare", str(recipe)]) == 0
    (tmp_path / "train.bs-en.bs").write_text("one line\n")
    assert main(["validate", str(recipe)]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == f"{recipe}: 1 fault"
    assert main(["prepare", str(recipe)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"mnmt-ds prepare: {tmp_path / 'train.bs-en.bs'}:2: has 1 lines")
    assert main(["prepare", str(recipe), "data.tokenizr.size=3"]) == 2
    assert "did you mean 'tokenizer'?" in capsys.readouterr().err


def test_a_monolingual_file_of_another_language(moses: Moses, settings_of: Make, tmp_path: Path) -> None:
    (tmp_path / "mono.hi").write_text("\n".join(ENGLISH) + "\n", encoding="utf-8")
    settings = settings_of(
        pairs=["bs-en"],
        corpora={"bs-en": {"train": [moses("bs-en", ENGLISH)]}},
        monolingual={"hi": [{"format": "text", "path": str(tmp_path / "mono.hi")}]},
        clean={"min_script": 0.3},
    )
    (fault,) = validate(settings)
    assert fault.startswith("data.monolingual.hi: 200 of 200 lines are not in the script of 'hi'; give that language's")
    with pytest.raises(UserError, match="not in the script of 'hi'"):
        prepare(settings)
