"""Every method and every sampler of the registries: the same losses on every layout, exact resume, no NaN.

The entries come from the registries by themselves; a new one needs no line here. Each is trained by its own example.
"""

from pathlib import Path

import pytest

from mnmt_ds.engine.parallel.run_layout import requirements_of, run_layout
from mnmt_ds.requirements import refusals
from mnmt_ds.tracking import read_records
from tests.contracts import checks
from tests.contracts.docs import sections_with
from tests.contracts.entries import Entry, entries, sections_of
from tests.contracts.runs import (
    ALONE,
    EVERYDAY,
    FURTHER,
    SPARSE,
    SPARSE_UPDATES,
    Layout,
    Outcome,
    Record,
    directory_of,
    make_recipe,
    resume_entries,
    train_entries,
)
from tests.spawn import on_ranks

every_entry = pytest.mark.parametrize("entry", entries(), ids=str)


class Runs:
    """The runs that this session's tests look at; each group of ranks is started once, when it is first needed."""

    def __init__(self, corpus: Path, folder: Path, selected: list[Entry]) -> None:
        self.corpus, self.folder, self.selected = str(corpus), str(folder), selected
        self._outcomes: dict[str, dict[Entry, Outcome]] = {}
        self._failures: dict[Entry, str] | None = None
        self._broken: dict[str, Exception] = {}

    def outcome(self, entry: Entry, layout: Layout) -> Outcome:
        """The run of an entry on a layout."""
        if layout.name in self._broken:
            raise self._broken[layout.name]
        if layout.name not in self._outcomes:
            if layout != ALONE:
                self.outcome(entry, ALONE)  # makes the plain run, too
            try:
                ranks = on_ranks(layout.ranks, train_entries, self.corpus, self.folder, self.selected, layout)
            except Exception as error:  # a rank died or hung: once is enough
                self._broken[layout.name] = error
                raise
            self._outcomes[layout.name] = dict(zip(self.selected, ranks[0], strict=True))
        return self._outcomes[layout.name][entry]

    def plain(self) -> list[Record]:
        """Lines of the plain run's metrics.jsonl, once some entry was trained."""
        return read_records(Path(self.folder) / "plain" / "metrics.jsonl")

    def resumed(self, entry: Entry) -> tuple[Path, Path]:
        """Directories of an entry's run, and of the one that went on from a checkpoint of it."""
        complete = self.outcome(entry, ALONE)
        assert not complete.failed, complete.failed
        if self._failures is None:
            failures = on_ranks(1, resume_entries, self.corpus, self.folder, self.selected, ALONE)[0]
            self._failures = dict(zip(self.selected, failures, strict=True))
        assert not self._failures[entry], self._failures[entry]
        return directory_of(self.folder, entry, ALONE), directory_of(self.folder, entry, ALONE, resumed=True)


def reasons_against(entry: Entry, layout: Layout, folder: Path) -> list[str]:
    """The declared reasons why a layout does not carry an entry's example."""
    recipe = make_recipe("corpus", str(folder / "run"), sections_of(entry, "plain"), layout)
    asked = run_layout(recipe, {"zero_optimization": {"stage": layout.zero}}, layout.ranks)
    return [str(refusal) for refusal in refusals(requirements_of(recipe), asked)]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs of the entries whose tests were selected."""
    selected = {item.callspec.params.get("entry") for item in request.session.items if hasattr(item, "callspec")}
    return Runs(tiny_corpus, tmp_path_factory.mktemp("contracts"), [entry for entry in entries() if entry in selected])


@every_entry
def test_the_example_does_something(runs: Runs, entry: Entry) -> None:
    """Its losses are not those of plain translation under fixed shares, but where it is that."""
    outcome, sections = runs.outcome(entry, ALONE), sections_of(entry, "")
    checks.complete(outcome)
    if sections != {"method": {"name": "translation"}}:
        checks.at_work(outcome, runs.plain())


@every_entry
@pytest.mark.parametrize("layout", EVERYDAY, ids=lambda layout: layout.name)
def test_losses_do_not_depend_on_the_layout(runs: Runs, entry: Entry, layout: Layout) -> None:
    """Two ranks with two micro-batches each, and one rank that accumulates four."""
    checks.complete(runs.outcome(entry, layout))
    checks.same_on_layouts(runs.outcome(entry, ALONE), runs.outcome(entry, layout))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "layout"),
    [
        pytest.param(entry, layout, id=f"{entry}-{layout.name}")
        for entry in entries()
        for layout in FURTHER
        if layout.name != "split" or "students" in sections_of(entry, "")
    ],
)
def test_further_layouts(runs: Runs, entry: Entry, layout: Layout, tmp_path: Path) -> None:
    """The same losses where the entry's requirements allow the layout, and the declared refusal where they do not."""
    outcome, reasons = runs.outcome(entry, layout), reasons_against(entry, layout, tmp_path)
    if reasons:
        assert outcome.refused in reasons, (outcome.refused or outcome.failed or "it trained", reasons)
    else:
        checks.complete(outcome)
        checks.same_on_layouts(runs.outcome(entry, ALONE), outcome)


@every_entry
def test_an_empty_micro_batch_gives_no_nan(runs: Runs, entry: Entry) -> None:
    """Ranks without a sentence left, in every update."""
    outcome = runs.outcome(entry, SPARSE)
    checks.complete(outcome, SPARSE_UPDATES)
    assert outcome.empty > 1, "no micro-batch was empty: the check means nothing"


@every_entry
def test_a_resumed_run_is_the_same_bit_for_bit(runs: Runs, entry: Entry) -> None:
    checks.same_after_resume(*runs.resumed(entry))


@every_entry
def test_settings_go_through_yaml(entry: Entry, tmp_path: Path) -> None:
    """A recipe that is written and read again is the same."""
    from mnmt_ds.config import dump, load
    from mnmt_ds.engine.recipe import Recipe

    recipe = make_recipe("corpus", str(tmp_path / "run"), sections_of(entry, str(tmp_path)), ALONE)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(recipe), encoding="utf-8")
    assert load(Recipe, path) == recipe
    assert getattr(recipe, entry.kind).name == sections_of(entry, "")[entry.kind]["name"]


@every_entry
def test_a_section_of_the_docs_tells_of_it(entry: Entry) -> None:
    """Some section under docs/ shows how a recipe asks for it."""
    sections = sections_with(f"name: {entry.name}") + sections_with(f"`{entry.name}`")
    assert sections, f"no section under docs/ names {entry} as a recipe does"
