"""What other packages do otherwise than one would guess, and this package does not touch: ``docs/surprises.md``."""

import ast

import pytest

from tests.docs.pages import ROOT

NOT_IMPORTED = {
    "torchmetrics": "its chrF leaves out pairs without a match",
    "langdetect": "it takes traditional Chinese for Korean",
    "mtdata": "its table of codes folds variants of Chinese into the last one",
}
SAMPLING = {"enable_sampling", "nbest_size", "alpha", "sample_encode_as_ids", "nbest_encode_as_ids"}
"""SentencePiece's sampling: a seed holds within a process alone, and nbest_size 1 raises."""


def _faults(path: str, tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"{path}: {name}" for name in names if name.split(".")[0] in NOT_IMPORTED]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, words = node.func.attr, {keyword.arg for keyword in node.keywords}
            if ("encode" in name.lower() and words & SAMPLING) or name in SAMPLING:
                found.append(f"{path}: {name}")
            # transformers infers no mask for an encoder-decoder: padding would be attended to
            if name == "generate" and None not in words and "attention_mask" not in words:
                found.append(f"{path}: generate without a mask")
            if name.startswith("Multimodal") or any(str(word).startswith("multimodal") for word in words):
                found.append(f"{path}: {name}")  # Megatron's plain open of such a set loses modes
    return found


def test_what_is_not_used() -> None:
    paths = sorted((ROOT / "mnmt_ds").rglob("*.py"))
    assert [fault for path in paths for fault in _faults(path.name, ast.parse(path.read_text()))] == []


@pytest.mark.parametrize(
    "text",
    [
        "import torchmetrics.text", "from langdetect import detect", "model.encode(text, nbest_size=1)",
        "model.generate(ids)", "open_dataset.IndexedDataset(path, multimodal=True)", "model.nbest_encode_as_ids(x, 1)",
    ],
)  # fmt: skip
def test_it_would_be_found(text: str) -> None:
    assert len(_faults("x.py", ast.parse(text))) == 1
