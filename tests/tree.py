"""README's tree, a line a file, made from each file's own first line: ``python -m tests.tree`` writes it anew."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("ds_configs", "launchers", "mnmt_ds", "tests")
START, END = "## The tree\n", "\n## "
SAID_HERE = {
    "zero0.json": "no sharding",
    "zero1.json": "optimizer states sharded (default)",
    "zero2.json": "and gradients",
    "zero2_offload.json": "ZeRO-2, optimizer on the CPU",
    "zero3.json": "and parameters",
    "zero3_offload.json": "ZeRO-3, optimizer and parameters on the CPU",
    "page.html": "Template of page.py's page",
    "cpu.cpp": "The CPU build: blocks of logits, statistics and gradients, by register tiles and SIMD lanes",
    "cuda.cu": "The CUDA build: statistics, gates and gradients of rows, one block of threads a token",
}
SUFFIXES = {".py", ".yaml", ".sh", ".json", ".html", ".h", ".cpp", ".cu"}


def tree() -> str:
    """All folders in order; a folder's line is its package's."""
    parts = []
    for top in FOLDERS:
        for folder in [ROOT / top, *sorted(path for path in (ROOT / top).rglob("*") if path.is_dir())]:
            files = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
            lines = [f"- `{path.name}` {said_of(path)}".rstrip() for path in files if path.name != "__init__.py"]
            if lines and not {"__pycache__", "results"} & set(folder.parts):
                package = folder / "__init__.py"
                title = f"**`{folder.relative_to(ROOT)}/`** {said_of(package) if package.exists() else ''}".rstrip()
                parts += [title, "", *lines, ""]
    return "\n".join(parts)


def said_of(path: Path) -> str:
    """What a file says of itself in its first sentence."""
    text = path.read_text(encoding="utf-8")
    if path.name in SAID_HERE:
        return SAID_HERE[path.name]
    if path.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
    else:
        comments = re.search(r"(?m)((?:^(?:#|//)(?!!).*\n)+)", text)
        said = re.sub(r"(?m)^(#|//) ?", "", comments.group(1)) if comments else ""
        said = said.split("\n  ")[0]
    return re.split(r"(?<=[a-z\d)`])\.(\s|$)", " ".join(said.split()))[0].rstrip(".")


def with_tree(readme: str) -> str:
    """A README's text with the tree as it is now."""
    before, after = readme.split(START)
    rest = after.find(END)
    return before + START + "\n" + tree() + (after[rest:].lstrip("\n") if rest >= 0 else "")


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_tree(path.read_text(encoding="utf-8")), encoding="utf-8")
