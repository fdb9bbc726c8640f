"""The page of data sets says what the catalogues say."""

from __future__ import annotations

from tests.docs.data_sets import PAGE, page


def test_the_table_of_data_sets_is_that_of_the_catalogues() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "renew it: python -m tests.docs.data_sets --write"
