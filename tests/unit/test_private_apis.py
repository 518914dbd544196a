"""Private parts of other packages: each is still there, each use is declared, and the page says the same."""

import ast
import re
from pathlib import Path

from mnmt_ds import private_apis
from mnmt_ds.cli.reference import generated
from mnmt_ds.private_api_list import PRIVATE_APIS, TESTED, PrivateApi, vanished

ROOT = Path(__file__).parents[2]


def test_nothing_has_vanished() -> None:
    """A new version of a package that lacks one fails here, by name, with the file that needs it."""
    assert not vanished(), "\n".join(vanished())


def test_a_vanished_name_is_named() -> None:
    """The check can fail: of a module, of a class, of what a class sets on its objects."""
    for owner in ("deepspeed.utils.groups", "deepspeed.runtime.pipe.module:PipelineModule", "deepspeed.no_module"):
        assert PrivateApi(owner, ("no_such_name",), "", "", "").missing() == ["no_such_name"], owner
    assert PrivateApi("deepspeed.utils.groups", ("mpu",), "", "", "").missing() == []


def test_declared_versions_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package, (declared, _) in TESTED.items():
        assert f'"{package}{declared}"' in text, f"pyproject.toml declares another range of {package}"


def test_every_file_named_exists_and_uses_what_is_declared() -> None:
    for api in PRIVATE_APIS:
        for path in api.used_in.split(", "):
            assert list((ROOT / "mnmt_ds").rglob(path)), path


def test_private_names_are_touched_where_they_are_declared() -> None:
    """In ``private_apis`` or a file that an entry names; no other file uses one of the declared names."""
    allowed = {Path(path).name for api in PRIVATE_APIS for path in api.used_in.split(", ")} | {"private_apis.py"}
    names = {name for api in PRIVATE_APIS for name in api.names if name.startswith("_") or name.startswith("ds_")}
    wrong = []
    for path in sorted((ROOT / "mnmt_ds").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & names
        if touched and path.name not in allowed:
            wrong.append(f"{path.relative_to(ROOT)}: {', '.join(sorted(touched))}")
    assert not wrong


def test_the_page_is_written_from_the_list() -> None:
    path = ROOT / "docs" / "deepspeed_internals.md"
    page = path.read_text(encoding="utf-8")
    assert page == generated(ROOT)[path], "run python -m mnmt_ds.cli.reference"
    assert len(re.findall(r"^\| `", page, re.M)) == len(PRIVATE_APIS)
    assert private_apis.__doc__ and "docs/deepspeed_internals.md" in private_apis.__doc__
