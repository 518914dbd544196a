"""docs/support_matrix.md is what the declarations say."""

from mnmt_ds.methods.support_matrix import page
from tests.contracts.docs import DOCS


def test_the_page_is_up_to_date() -> None:
    """Otherwise: python -m mnmt_ds.methods.support_matrix > docs/support_matrix.md"""
    assert (DOCS / "support_matrix.md").read_text(encoding="utf-8") == page()
