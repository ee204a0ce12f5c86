"""A declared type is the source's in whichever of Postgres's words it is written."""

import pytest

from lake.types import canonical, is_same


@pytest.mark.parametrize(
    ("declared", "written"),
    [
        ("decimal(12, 2)", "numeric(12,2)"),
        ("numeric(12)", "numeric(12,0)"),
        ("numeric(3, -2)", "numeric(3,-2)"),
        ("INT8", "bigint"),
        ("int[][]", "integer[]"),
        ("varchar(10)", "character varying(10)"),
        ("timestamp(3)", "timestamp without time zone"),
        ("timestamp (3) with time zone", "timestamp with time zone"),
        ("timestamptz(0)[]", "timestamp with time zone[]"),
        ("time with time zone", "time with time zone"),
        ("interval day to second(3)", "interval day to second(3)"),
        ('"char"', '"char"'),
        ("char", "character(1)"),
        ('"My  Schema"."Odd Type"[]', '"My  Schema"."Odd Type"[]'),
    ],
)
def test_a_type_has_one_form(declared: str, written: str) -> None:
    assert canonical(declared) == written
    assert canonical(written) == written


def test_the_schema_of_a_type_may_be_left_out() -> None:
    assert is_same("mood", "public.mood")
    assert is_same("mood[]", "public.mood[]")
    assert is_same('"Mood"', 'public."Mood"')
    assert not is_same("mood", "public.bad_mood")
    assert not is_same("public.mood", "shop.mood")
