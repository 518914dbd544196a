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
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        own = {id(node) for node in attributes if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")}
        touched = {node.attr for node in attributes if id(node) not in own} & names
        if touched and path.name not in allowed:
            wrong.append(f"{path.relative_to(ROOT)}: {', '.join(sorted(touched))}")
    assert not wrong


def test_no_private_name_of_another_package_is_undeclared() -> None:
    """Attributes with an underscore that nothing in this package defines are another package's."""
    documented = {"_replace", "_asdict", "_fields", "_make", "_exit", "_current_frames"}
    declared = {part for api in PRIVATE_APIS for name in (api.owner, *api.names) for part in re.split(r"[.:]", name)}
    defined, used = set[str](), dict[str, str]()
    for path in sorted((ROOT / "mnmt_ds").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
            elif isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                defined |= {node.attr} if own and isinstance(node.ctx, ast.Store) else set()
                used.setdefault(node.attr, str(path.relative_to(ROOT)))
    assert {name: file for name, file in used.items() if name not in defined | declared | documented} == {}


def test_the_page_is_written_from_the_list() -> None:
    path = ROOT / "docs" / "deepspeed_internals.md"
    page = path.read_text(encoding="utf-8")
    assert page == generated(ROOT)[path], "run python -m mnmt_ds.cli.reference"
    assert len(re.findall(r"^\| `", page, re.M)) == len(PRIVATE_APIS)
    assert private_apis.__doc__ and "docs/deepspeed_internals.md" in private_apis.__doc__
