"""A small made-up language pair, and the settings that prepare it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from mnmt_ds import log
from mnmt_ds.data.settings import DataSettings

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

TEXT = "red green blue small large old new bird house river stone tree light night water fire wind road door song"
WORDS = TEXT.split()


@pytest.fixture(autouse=True)
def messages_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the commands do, in a process that is no rank of a job (an engine's test before may have made it one)."""
    monkeypatch.delenv("RANK", raising=False)
    log.set_up()


def sentences(count: int, seed: int = 0, words: int = 6) -> list[str]:
    """Distinct sentences of made-up English."""
    draw = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(draw.choice(WORDS) for _ in range(draw.randrange(3, words + 1)))] = None
    return list(texts)


def translated(sentence: str, language: str) -> str:
    """The sentence in a made-up language: every word reversed, with the language's own ending."""
    return " ".join(word[::-1] + language[0] for word in sentence.split())


@pytest.fixture
def moses(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes Moses files for a pair and returns its entry of ``corpora``."""

    def write(pair: str, english: list[str], split: str = "train") -> dict[str, Any]:
        source, target = pair.split("-")
        paths = {}
        for side in (source, target):
            lines = [line if side == "en" else translated(line, side) for line in english]
            paths[side] = tmp_path / f"{split}.{pair}.{side}"
            paths[side].write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return {"format": "moses", "path": str(paths[source]), "target_path": str(paths[target])}

    return write


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., DataSettings]:
    """Settings for small corpora in ``tmp_path``."""

    def make(**values: Any) -> DataSettings:
        base: dict[str, Any] = {
            "directory": str(tmp_path / "prepared"),
            "split": {"dev": 20, "test": 10},
            "clean": {"min_script": 0},
            "tokenizer": {"size": 60, "hard_limit": False},
        }
        return DataSettings.model_validate({**base, **values})

    return make


ENGLISH = sentences(400)


def three_pairs(
    moses: Callable[..., dict[str, Any]], settings_of: Callable[..., DataSettings], **values: Any
) -> DataSettings:
    """Two pairs into English and one between the two other languages, all with overlapping English."""
    corpora = {
        "bs-en": {"train": [moses("bs-en", ENGLISH[:300])]},
        "en-mr": {"train": [moses("en-mr", ENGLISH[100:])]},
    }
    return settings_of(pairs=["bs-en", "en-mr"], corpora=corpora, **values)
