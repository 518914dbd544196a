"""Pairs that are validated and not trained on, such as those of the model that a run starts from."""

import json
from pathlib import Path

import pytest

from mnmt_ds.cli.main import main
from mnmt_ds.config import dump
from mnmt_ds.engine.recipe import Recipe, with_first_weights
from mnmt_ds.tracking import read_records
from tests.spawn import on_ranks
from tests.tiny import recipe


def train_two(corpus: str, place: str) -> None:
    """A run that watches two pairs, then one that starts from it, trains on these and stands still."""
    from mnmt_ds.engine import loop

    first, second = Path(place) / "first", Path(place) / "second"
    watch = {"watch": ["bs-en", "hi-en"]}
    loop.train(recipe(Path(corpus), first, data={"pairs": ["fr-en"]}, validation=watch, train={"max_steps": 2}))
    sections = {"data": {"pairs": ["bs-en", "hi-en"]}, "validation": {"watch": ["fr-en"]}}
    still = {"max_steps": 1, "lr": 1e-12, "warmup_init_lr": 0.0}
    made = recipe(Path(corpus), second, **sections, train=still, model={"init": str(first)})
    loop.train(with_first_weights(made))


@pytest.mark.slow
def test_watched_losses_are_those_of_trained_pairs(tiny_corpus: Path, tmp_path: Path) -> None:
    on_ranks(1, train_two, str(tiny_corpus), str(tmp_path))
    first, second = (
        [record for record in read_records(tmp_path / run / "metrics.jsonl") if record["kind"] == "valid"][-1]
        for run in ("first", "second")
    )
    for pair in ("bs-en", "hi-en"):
        for name in ("loss", "nll", "ppl"):
            assert first[f"watch/{pair}/{name}"] == pytest.approx(second[f"valid/{pair}/{name}"], rel=1e-5)
    assert second["watch/fr-en/loss"] == pytest.approx(first["valid/fr-en/loss"], rel=1e-5)
    assert first["watch/avg/macro"] == pytest.approx(second["valid/avg/macro"], rel=1e-5)
    assert first["valid/avg/macro"] == first["valid/fr-en/loss"]  # what selects is as if none was watched
    description = json.loads((tmp_path / "first" / "best" / "model.json").read_text())
    assert description["pairs"] == ["fr-en"]


def test_what_cannot_be_watched(tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for watch in (["fr-en"], ["xx-en", "xx-en"]):
        with pytest.raises(ValueError, match=r"validation\.watch: .* is validated already; name pairs"):
            recipe(tiny_corpus, tmp_path / "run", validation={"watch": watch})
    path = tmp_path / "recipe.yaml"
    made: Recipe = recipe(tiny_corpus, tmp_path / "run", data={"pairs": ["fr-en"]}, validation={"watch": ["xx-en"]})
    path.write_text(dump(made))
    assert main(["train", str(path), "--dry-run"]) == 2
    assert "xx-en not prepared there" in capfd.readouterr().err
    assert main(["train", str(path), "--dry-run", 'validation.watch=["bs-en"]']) == 0
    assert "bs-en       watched" in capfd.readouterr().out
