"""Names and docstrings: every public function says what it does, takes and gives, shape letters are explained, one
class name has one meaning, and words that this project once used in a sense of its own do not come back.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "mnmt_ds").rglob("*.py"))
RETIRED = (
    "column", "faculty", "foresight", "found", "heard", "holder", "lesson", "lessons", "letters", "loud", "one",
    "passing", "quiet", "relay", "remembered", "shelf", "told", "unremembered", "vault", "walk",
)  # fmt: skip
"""Identifiers that say nothing, or hide a term that the field has."""
WITHOUT_SECTIONS = {"property", "setter", "model_validator", "field_validator", "overload"}
"""Decorators of functions that are read as values or called by pydantic."""
THIRD_PERSON = re.compile(r"[A-Z][a-z]*s")
"""The first word of a function's docstring, such as Computes."""
NO_VERBS = {"As", "Bytes", "Its", "Lengths", "Losses", "Metrics", "Settings", "Tensors", "This", "Thus", "Tokens"}
"""Words of that form with which descriptions that lack a verb would begin."""
SHAPED = re.compile(r"_?[a-z][a-z0-9_]*_[A-Z][A-Z0-9]*")
"""A name with its shape, such as hidden_BTD."""


def names(path: Path) -> list[str]:
    """Every identifier of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.arg):
            found.append(node.arg)
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
    return found


def public_functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, ast.ClassDef | None]]:
    """Public functions of a module and of its public classes, each with its class; ``__init__`` counts."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, None
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and (inner.name == "__init__" or not inner.name.startswith("_")):
                    yield inner, node


def parameters(function: ast.FunctionDef) -> list[str]:
    """Names of a function's parameters, without self and those that begin with an underscore."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    known = [argument.arg for argument in every if argument is not None]
    return [name for name in known if name not in ("self", "cls") and not name.startswith("_")]


def faults(function: ast.FunctionDef, of: ast.ClassDef | None) -> list[str]:
    """What a function's docstring lacks."""
    decorators = {ast.unparse(decorator).split("(")[0].split(".")[-1] for decorator in function.decorator_list}
    text = ast.get_docstring(function) or ""
    if function.name == "__init__":
        text += "\n" + ((ast.get_docstring(of) or "") if of is not None else "")
        if not parameters(function):
            return []
    if not text.strip():
        return ["no docstring"]
    if decorators & WITHOUT_SECTIONS:
        return []
    section = re.search(r"^\s*Args:\s*\n((?:\s+.*\n?|\n)*)", text + "\n", re.MULTILINE)
    described = section[0] if section else ""
    lacking = [name for name in parameters(function) if not re.search(rf"^\s*\**{name}\b.*:", described, re.MULTILINE)]
    gives = function.returns is not None and ast.unparse(function.returns) not in ("None", "NoReturn", "Never")
    silent = gives and function.name != "__init__" and not re.search(r"^\s*(Returns|Yields):", text, re.MULTILINE)
    return [f"Args lacks {name}" for name in lacking] + (["no Returns or Yields"] if silent else [])


def lacks_verb(function: ast.FunctionDef) -> bool:
    """Whether a function's docstring does not begin with what it does; properties are values, and so named."""
    decorators = {ast.unparse(decorator).split("(")[0].split(".")[-1] for decorator in function.decorator_list}
    words = (ast.get_docstring(function) or "").split()
    if not words or decorators & {"property", "cached_property"}:
        return False
    first = words[0].strip(",.:;")
    return not THIRD_PERSON.fullmatch(first) or first in NO_VERBS


def packages() -> list[str]:
    return sorted({path.relative_to(ROOT / "mnmt_ds").parts[0] for path in SOURCES})


@pytest.mark.parametrize("package", packages())
def test_every_public_function_says_what_it_takes_and_gives(package: str) -> None:
    wrong = []
    for path in SOURCES:
        if path.relative_to(ROOT / "mnmt_ds").parts[0] == package:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for function, of in public_functions(tree):
                wrong += [
                    f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {f}" for f in faults(function, of)
                ]
            classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
            wrong += [f"{path.relative_to(ROOT)}: {node.name}" for node in classes if not ast.get_docstring(node)]
    assert not wrong


@pytest.mark.parametrize("package", packages())
def test_the_docstring_of_a_public_function_begins_with_a_verb(package: str) -> None:
    wrong = []
    for path in SOURCES:
        if path.relative_to(ROOT / "mnmt_ds").parts[0] == package:
            for function, _ in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
                if lacks_verb(function):
                    wrong.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: say what it does")
    assert not wrong


def test_shape_letters_are_explained_where_they_are_used() -> None:
    wrong = []
    for path in SOURCES:
        if any(SHAPED.fullmatch(name) for name in names(path)):
            head = path.read_text(encoding="utf-8")[:3000]
            if not re.search("letters", head, re.IGNORECASE):
                wrong.append(str(path.relative_to(ROOT)))
    assert not wrong


def test_retired_words_do_not_come_back() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted({n for n in names(path) if n.strip("_") in RETIRED}) for path in SOURCES
    }
    assert {path: words for path, words in wrong.items() if words} == {}


def test_a_class_name_has_one_meaning() -> None:
    where = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


def test_the_checks_above_can_fail() -> None:
    tree = ast.parse(
        "def one(x: int, *rest: int) -> int:\n"
        '    """Adds.\n\n    Args:\n        x: a number.\n    """\n'
        "class Empty:\n"
        "    def take(self, y): ...\n"
    )
    found = [(function.name, faults(function, of)) for function, of in public_functions(tree)]
    assert found == [("one", ["Args lacks rest", "no Returns or Yields"]), ("take", ["no docstring"])]
    texts = ["Adds numbers.", "Reads, then writes.", "The sum.", "Whether it adds.", "Metrics of a run.", "Adding."]
    functions = [ast.parse(f'def add() -> int:\n    """{text}"""\n').body[0] for text in texts]
    assert [lacks_verb(f) for f in functions if isinstance(f, ast.FunctionDef)] == [False] * 2 + [True] * 4
