"""A run stopped within an epoch goes on with other settings: each of the epoch's sentences is trained on once."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.spawn import on_ranks
from tests.tiny import recipe, zero

pytestmark = pytest.mark.slow
Leg = dict[str, Any]
Sentences = list[tuple[int, int, int]]
TRAIN = {"lr": 2e-2, "warmup_steps": 2, "max_epochs": 1, "save_every": 1, "max_tokens": 96, "batches_per_update": 2}
TASKS = [{"name": "cd", "ratio": 0.3}, {"name": "dae"}]
LSSD: Leg = {
    "train": TRAIN, "validation": {"every": 5},
    "method": {"name": "lssd", "variant": "adaptive", "teachers": {"memory_gib": 1}},
}  # fmt: skip
DENOISING: Leg = {
    "train": TRAIN, "validation": {"every": 5}, "denoising": {"tasks": TASKS},
    "method": {
        "name": "by_task",
        "tasks": {"translation": {"name": "translation"}, "cd": {"name": "denoising"}, "dae": {"name": "denoising"}},
    },
}  # fmt: skip
CUTS: list[Leg] = [
    {}, *({"train": values} for values in (
        {"max_tokens": 700}, {"max_tokens": 20}, {"batches_per_update": 1}, {"batches_per_update": 9},
    )),
]  # fmt: skip
OF_LSSD: list[Leg] = [
    *CUTS,
    *({"train": values} for values in ({"label_smoothing": 0.3}, {"lr": 1.0}, {"patience": 9})),
    *({"sampler": {"temperature": value}} for value in (1.0, 5.0, 100.0)),
    *({"validation": values} for values in ({"every": 0}, {"every": 1}, {"max_tokens": 30}, {"bleu_sentences": 4})),
    *({"method": values} for values in (
        {"alpha": 0.9}, {"variant": "selective"}, {"teachers": {"cache": "off"}},
        {"teachers": {"memory_gib": 1e-7}}, {"teachers": {"memory_gib": 1e-3, "cache": "disk", "disk": "DISK"}},
    )),
    {"model": {"dropout": 0.4}}, {"pipeline": {"stages": 1}}, {"deepspeed": 2},
]  # fmt: skip
OF_DENOISING: list[Leg] = [
    *CUTS,
    *({"denoising": values} for values in (
        {"ratio": 3.0}, {"ratio": 0.1}, {"temperature": 1.0}, {"cut_to_shortest": True}, {"cut_counts_tag": True},
        {"end_is_word": True}, {"tasks": [{"name": "cd", "ratio": 0.9}, {"name": "dae", "delete": 0.5}]},
    )),
]  # fmt: skip


def train_noting_sentences(corpus: str, run: str, sections: Leg, resume: bool) -> Sentences:
    """Trains; epoch, pair and number of each sentence that a rank's iterator went by."""
    from mnmt_ds.engine.dataloading.data_iterator import DataIterator
    from mnmt_ds.engine.loop import train

    seen: Sentences = []
    update_done = DataIterator.update_done

    def note(iterator: DataIterator, losses: Any = ()) -> None:
        plan, first = iterator.plan, iterator.update_in_plan * iterator.plan.batches_per_update
        for k in range(first, min(first + plan.batches_per_update, len(plan.pair))):
            sentences = plan.sentence[plan.start[k] : plan.start[k + 1]]
            seen.extend((iterator.epoch, int(plan.pair[k]), int(sentence)) for sentence in sentences)
        update_done(iterator, losses)

    DataIterator.update_done = note  # type: ignore[method-assign]
    try:
        stage = sections.get("deepspeed", 1)
        values = {name: value for name, value in sections.items() if name != "deepspeed"}
        train(recipe(Path(corpus), Path(run), deepspeed=zero(stage, run), **values), resume=resume)
    finally:
        DataIterator.update_done = update_done  # type: ignore[method-assign]
    return seen


def train_all(corpus: str, folder: str, base: Leg, legs: list[Leg]) -> list[Sentences]:
    """The run to within its first epoch; then, from there, its end under each change."""
    first = {**base, "train": {**base["train"], "max_steps": 7}}
    found = [train_noting_sentences(corpus, f"{folder}/run", first, False)]
    for number, leg in enumerate(legs):
        run = f"{folder}/run{number}"
        shutil.copytree(f"{folder}/run", run, symlinks=True)
        changed = {
            name: {**base.get(name, {}), **value} if isinstance(value, dict) else value for name, value in leg.items()
        }
        if changed.get("method", {}).get("teachers", {}).get("disk"):
            changed["method"]["teachers"] = {**changed["method"]["teachers"], "disk": f"{run}-disk"}
        found.append(train_noting_sentences(corpus, run, {**base, **changed}, True))
    return found


@pytest.mark.parametrize(("base", "legs"), [(LSSD, OF_LSSD), (DENOISING, OF_DENOISING)], ids=["lssd", "denoising"])
def test_no_sentence_is_repeated_or_left_out(base: Leg, legs: list[Leg], tiny_corpus: Path, tmp_path: Path) -> None:
    (found,) = on_ranks(1, train_all, str(tiny_corpus), str(tmp_path), base, legs)
    before, whole = found[0], set(found[0] + found[1])
    assert len(whole) > 400
    for leg, after in zip(legs, found[1:], strict=True):
        times = Counter(sentence for sentence in before + after if sentence[0] == 0)
        assert set(times.values()) == {1}, (leg, "a sentence was repeated")
        assert times.keys() == whole, (leg, "other sentences")
