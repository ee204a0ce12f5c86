"""A qualified name stands for one table, whatever Postgres allows as a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lake.names import parts, qualified

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(names, names)
def test_a_qualified_name_is_read_back_as_the_same_schema_and_table(
    schema: str, table: str
) -> None:
    assert parts(qualified(schema, table)) == (schema, table)


def test_ordinary_names_stay_as_they_are() -> None:
    assert qualified("public", "loan") == "public.loan"


@pytest.mark.parametrize("name", ["loan", "a.b.c", "Public.loan", '"public.loan', "public."])
def test_what_names_no_table_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no qualified name"):
        parts(name)
