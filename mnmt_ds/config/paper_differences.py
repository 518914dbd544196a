"""Where papers, released code and this code differ, as a page: docs/paper_differences.md.

Settings declare their rows beside themselves (``Settings.differences``); what no setting decides stands as a paragraph
"Differs: WHAT; paper: ...; released: ...; ours: ...; why: ..." in the docstring of the code that does it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mnmt_ds.config.markdown import escape
from mnmt_ds.config.sections import instance_of, sections
from mnmt_ds.config.settings import Settings
from mnmt_ds.config.yaml_values import format_value

HEAD = """# Papers, released code, and this code

Every difference that is left, and why. *Paper* is what the text says, *released* what the authors' code and scripts do,
*ours* the default here; in front stands what `profile: paper` or `profile: released` sets. The papers' recipes and
studies (`launchers/recipes/papers/`, `launchers/studies/paper1.yaml` to `paper3_released.yaml`) have the papers' or
scripts' value wherever the default is another: a test holds them to it.

1: LSSD, 2: Pareto-MD, 3: concurrent denoising and intra-distillation ([methods](methods/README.md)).

## Settings

| setting | paper | released | ours | why |
|---|---|---|---|---|
"""
CODE = """
## What no setting decides

| what | where | paper | released | ours | why |
|---|---|---|---|---|---|
"""
PARAGRAPH = re.compile(
    r"Differs: (?P<what>.+?); paper: (?P<paper>.+?); released: (?P<released>.+?); ours: (?P<ours>.+?);"
    r" why: (?P<why>.+)"
)


def page(kind: type[Settings], package: Path) -> str:
    """Renders the page docs/paper_differences.md.

    Args:
        kind: the recipe's class.
        package: the directory whose modules' docstrings are read.

    Returns:
        Markdown, with a final line end.
    """
    settings = "".join(_row(cells) for cells in setting_rows(kind))
    code = "".join(_row(cells) for cells in docstring_rows(package))
    return HEAD + settings + CODE + code


def setting_rows(kind: type[Settings]) -> Iterator[tuple[str, ...]]:
    """Makes the rows of all settings that declare a difference.

    Args:
        kind: the recipe's class.

    Yields:
        Cells: setting, paper, released, ours, why.
    """
    for section in sections(kind):
        defaults = instance_of(section.kind).model_dump(mode="json")
        released = section.kind.released({})
        for name, row in section.kind.differences.items():
            key = f"{section.path}.{name}" if section.path else name
            default_text = f"`{format_value(defaults[name])}`"
            set_by_profile = f"`{format_value(released[name])}`" if name in released else ""
            yield (
                f"[`{key}`](configuration.md#{key})",
                row.paper or default_text,
                ": ".join(part for part in (set_by_profile, row.released) if part) or default_text,
                default_text,
                row.why,
            )


def docstring_rows(package: Path) -> Iterator[tuple[str, ...]]:
    """Makes the rows that stand in docstrings.

    Args:
        package: the directory whose modules are read.

    Yields:
        Cells: what, where, paper, released, ours, why.

    Raises:
        ValueError: where a paragraph begins with "Differs:" and lacks one of the five parts.
    """
    for path in sorted(package.rglob("*.py")):
        for text in _docstrings(path):
            for paragraph in re.split(r"\n\s*\n", text):
                line = " ".join(paragraph.split())
                if not line.startswith("Differs:"):
                    continue
                match = PARAGRAPH.fullmatch(line)
                if match is None:
                    raise ValueError(f"{path}: give what, paper, released, ours and why: {line}")
                where = f"`{path.relative_to(package.parent)}`"
                yield match["what"], where, match["paper"], match["released"], match["ours"], match["why"].rstrip(".")


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a module, its classes and functions."""
    source = path.read_text(encoding="utf-8")
    nodes: list[ast.AST] = [ast.parse(source)] if "Differs:" in source else []
    for node in nodes:  # grows on the way
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |\n"
