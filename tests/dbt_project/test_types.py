"""Every type that is typed: what Postgres prints is the same value on Spark and on Trino.

Postgres is the oracle: it says which generated texts are values of a type, and prints them. In
bulk they have these values already (`tests/ingestion/test_values.py`).
"""

import json
from pathlib import Path
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lake import source
from tests.dbt_project.conftest import ENGINES, Ask, compiled
from tests.ingestion.test_values import is_equal, typed_value, values

TYPES = (
    *("smallint", "integer", "bigint", "real", "double precision", "boolean", "bytea", "date"),
    *("timestamp without time zone", "timestamp(3) without time zone", "timestamp with time zone"),
    *("numeric(10,2)", "numeric(38,38)", "numeric(38,0)", "numeric(5,0)"),
    *("numeric(39,2)", "numeric(2,5)", "numeric(3,-2)", "numeric", "text", "character(5)"),
    *("jsonb", "interval", "time(2) with time zone", "uuid", "money", "inet", "text[]"),
)
"""Those of the lake's types, and some that are text there."""
ROWS = 8
NAME = 'the "value", it\'s \\ ü'
"""A column at the source; the type is put before it."""
ESCAPES: dict[str, dict[str, str | int | None]] = {
    "spark": {"\\": "\\\\", "'": "\\'"},
    "trino": {"'": "''"},
}
"""What a text's characters are in a literal of an engine."""


def printed(connection: psycopg.Connection, kind: str, texts: list[str]) -> list[str]:
    """The texts that are values of a type, as Postgres prints them."""
    found = connection.execute(
        f"select concat(v::{kind}) from unnest(%s::text[]) as v"
        " where v is not null and pg_input_is_valid(v, %s)".encode(),
        [texts, kind],
    ).fetchall()
    return [text for (text,) in found]


def query_of(types: tuple[str, ...]) -> str:
    """A query, in the project's macros, for the values of rows that are to be put in."""
    columns = [
        {"name": f"c{i}", "type": kind, "source_name": kind + NAME} for i, kind in enumerate(types)
    ]
    return f"""
        {{%- set columns = {columns} -%}}
        {{%- for c in columns -%}} {{%- do c.update(type=canonical_type(c.type)) -%}} {{%- endfor -%}}
        select
            {{%- for c in columns %}}
            {{{{ value_in('image', c) }}}} as {{{{ c.name }}}},
            {{%- endfor %}}
            number
        from (
            select number, {{{{ image_of('json') }}}} as image
            from (values @rows@) as landed (number, json)
        ) as images
        order by number
    """  # noqa: E501


def literal(engine: str, text: str) -> str:
    return "'" + text.translate(str.maketrans(ESCAPES[engine])) + "'"


def test_what_postgres_prints_is_the_same_value_on_both_engines(tmp_path: Path, ask: Ask) -> None:
    queries = {engine: compiled(tmp_path, engine, query_of(TYPES))[0] for engine in ENGINES}
    drawn = {name: st.lists(values(name), min_size=ROWS, max_size=ROWS) for name in TYPES}
    valued: set[tuple[str, bool]] = set()

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.fixed_dictionaries(drawn), st.booleans())
    def agree(texts: dict[str, list[str]], is_ascii: bool) -> None:
        with source.connect() as connection:
            known = {name: printed(connection, name, mine) for name, mine in texts.items()}
        images = [
            {name + NAME: mine[row] if row < len(mine) else None for name, mine in known.items()}
            for row in range(ROWS)
        ]
        rows = [json.dumps(image, ensure_ascii=is_ascii) for image in images]
        for engine, query in queries.items():
            listed = ", ".join(f"({i}, {literal(engine, row)})" for i, row in enumerate(rows))
            found = ask(engine, query.replace("@rows@", listed))
            for image, row in zip(images, found, strict=True):
                for i, name in enumerate(TYPES):
                    text, value = image[name + NAME], row[f"c{i}"]
                    expected = None if text is None else typed_value(name, text)
                    assert is_equal(comparable(name, value), expected), (engine, name, text, value)
                    if text is not None:
                        valued.add((name, expected is not None))

    agree()
    assert {name for name, _ in valued} == set(TYPES)
    unheld = {name for name, is_held in valued if not is_held}
    assert {"date", "timestamp with time zone", "numeric(10,2)"} <= unheld


def comparable(name: str, value: Any) -> Any:
    """A value as Postgres's text is made one: Trino's client tells a real in few digits."""
    return typed_value(name, repr(value)) if name == "real" and value is not None else value
