"""docs/support_matrix.md is what the declarations say, and requirements join as they should."""

from mnmt_ds.cli.reference import generated
from mnmt_ds.methods.support_matrix import WORDS
from mnmt_ds.requirements import Requirements, combined
from tests.contracts.docs import DOCS


def test_the_page_is_up_to_date() -> None:
    page = DOCS / "support_matrix.md"
    assert page.read_text(encoding="utf-8") == generated(DOCS.parent)[page], "run python -m mnmt_ds.cli.reference"
    assert list(WORDS) == list(Requirements._fields)


def test_requirements_join() -> None:
    """Whatever any part needs; the greatest number; each name once, in order."""
    parts = [
        Requirements(peers=True, passes=2, measured_by=("b",)),
        Requirements(top_k=4, measured_by=("a", "b")),
        Requirements(passes=3, dev_bleu=True),
    ]
    wanted = Requirements(peers=True, passes=3, top_k=4, dev_bleu=True, measured_by=("b", "a"))
    assert combined(parts) == wanted
    assert combined([]) == Requirements() and combined(iter(parts)) == wanted
