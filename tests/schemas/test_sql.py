"""Values in SQL: any text is read back from a query unchanged."""

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as some

from schemas.sql import literal


@settings(deadline=None, max_examples=60)
@given(some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\0")) | some.integers(0, 2**31))
def test_a_literal_is_read_back_unchanged(value):
    assert duckdb.execute(f"SELECT {literal(value)}").fetchall() == [(value,)]
