"""A change is landed as the WAL has it: with odd names, 300 columns, values of megabytes.

The tests share one capture, which none of them ends.
"""

import hashlib
from collections.abc import Iterator
from itertools import cycle

import psycopg
import pytest

from lake.catalog import catalog
from lake.manifest import Column, SourceTable
from tests.conftest import empty_own, settings_of_own
from tests.ingestion.conftest import declared, own_source
from tests.ingestion.test_values import is_equal, printed, typed_value
from tests.pgoutput import Row
from tests.streaming.conftest import (
    THING,
    capture_in,
    catch_up,
    changes,
    create_thing,
    hand_over,
)

KINDS = {
    "integer": "{}",
    "bigint": "{} * 1000000007::bigint",
    "numeric(12,2)": "{} / 7.0",
    "double precision": "{} / 7.0",
    "boolean": "{} % 2 = 0",
    "text": "'é \"' || {}",
    "date": "date '2026-01-01' + {}",
    "timestamp with time zone": "timestamptz '2026-01-01 12:00:00.000001+02' + {} * interval '1 h'",
    "bytea": "int4send({})",
    "jsonb": "jsonb_build_object('n', {})",
    "uuid": "md5({}::text)::uuid",
    "integer[]": "array[{}, null]",
}
"""Types, and a value of each that is made of a number."""
MEGABYTES = {
    "large": (
        "text",
        "(select string_agg(md5((i + n)::text), '') from generate_series(1, 160000) as i)",
    ),
    "bytes": (
        "bytea",
        "(select string_agg(sha256(int4send(i + n)), '') from generate_series(1, 160000) as i)",
    ),
}
"""The same of values that have five megabytes."""
WIDE = {f"c{i}": kind for i, kind in zip(range(298), cycle(KINDS), strict=False)}
WIDE |= {name: kind for name, (kind, _) in MEGABYTES.items()}

WIDE_TABLE = declared("everything", ("id",), **WIDE)
ODD_TABLE = SourceTable(
    "bronze.odd",
    'My "Schema',
    "Täble.x",
    ("key",),
    (Column("key", "int", 'Key"\\'), Column("order", "text", "order"), Column("e", "text", "é🙂")),
)


@pytest.fixture(scope="module")
def streamed(
    made_own: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[psycopg.Connection]:
    """A source of three tables that are captured."""
    with settings_of_own():
        empty_own()
        with own_source("streamed") as owner:
            create_thing(owner)
            owner.execute(
                """
                create schema "My ""Schema";
                create table "My ""Schema"."Täble.x" (
                    "Key""\\" int primary key, "order" text, "é🙂" text
                );
                """
            )
            listed = ", ".join(f"{name} {kind}" for name, kind in WIDE.items())
            owner.execute(f"create table everything (id int primary key, {listed})".encode())
            insert_wide(owner, 1)
            hand_over(THING, ODD_TABLE, WIDE_TABLE)
            with capture_in(tmp_path_factory.mktemp("streamed")) as job:
                job.start()
                yield owner


def insert_wide(owner: psycopg.Connection, number: int) -> None:
    """Insert a row of 300 columns, whose values are made of a number."""
    narrow = [KINDS[kind].format(f"(n + {i})") for i, kind in enumerate(list(WIDE.values())[:298])]
    values = ", ".join([*narrow, *(value for _, value in MEGABYTES.values())])
    row = f"select n, {values} from (values ({number})) as one (n)"
    owner.execute(f"insert into everything {row}".encode())


def test_a_change_has_its_images_as_the_wal_has_them(streamed: psycopg.Connection) -> None:
    streamed.execute("alter table thing replica identity default")
    streamed.execute("insert into thing values (200, 'é \"\\ 🙂', repeat('b', 10000))")
    streamed.execute("update thing set name = null where id = 200")  # `big` is unchanged TOAST
    streamed.execute("update thing set id = 201 where id = 200")
    streamed.execute("delete from thing where id = 201")
    streamed.execute("alter table thing replica identity full")
    streamed.execute("update thing set name = 'whole' where id = 1")
    streamed.execute("truncate thing")
    streamed.execute("select pg_logical_emit_message(true, 'a \"prefix\"', 'content')")
    streamed.execute("select pg_logical_emit_message(false, 'at once', '')")
    catch_up()
    big = "b" * 10_000
    whole = {"id": "1", "name": "first", "big": None}
    expected = [
        ("c", {"id": "200"}, None, {"id": "200", "name": 'é "\\ 🙂', "big": big}, None),
        ("u", {"id": "200"}, None, {"id": "200", "name": None}, ["big"]),
        ("u", {"id": "201"}, {"id": "200"}, {"id": "201", "name": None}, ["big"]),
        ("d", {"id": "201"}, {"id": "201"}, None, None),
        ("u", None, whole, whole | {"name": "whole"}, None),
        ("t", None, None, None, None),
    ]
    columns = ("op", "key", "before", "after", "unchanged")
    assert [tuple(row[c] for c in columns) for row in changes("public.thing")] == expected
    messages = [(row["key"]["prefix"], row["after"]["content"]) for row in changes("message")]
    assert ('a "prefix"', "\\x636f6e74656e74") in messages
    assert ("at once", "\\x") in messages


def test_names_of_any_kind_are_landed_as_they_are(
    streamed: psycopg.Connection,
) -> None:
    streamed.execute("""insert into "My ""Schema"."Täble.x" values (1, 'a', 'b')""")
    catch_up()
    (row,) = changes('"My ""Schema"."Täble.x"')
    assert row["after"] == {'Key"\\': "1", "order": "a", "é🙂": "b"}
    assert row["key"] == {'Key"\\': "1"}


def test_a_row_of_300_columns_and_values_of_megabytes_is_the_same_in_bulk_and_in_changes(
    streamed: psycopg.Connection,
) -> None:
    (bulk,) = catalog().load_table("bronze.everything").scan().to_arrow().to_pylist()
    there = printed([*WIDE])[1]
    assert len(there["large"] or "") == 5_120_000
    assert len(there["bytes"] or "") == len("\\x") + 2 * 5_120_000
    typed = {name: typed_value(kind, there[name] or "") for name, kind in WIDE.items()}
    assert [name for name in WIDE if not is_equal(bulk[name], typed[name])] == []

    insert_wide(streamed, 2)
    versions = [brief(printed([*WIDE])[2])]
    for statement in (
        "update everything set c0 = -1 where id = 2",
        "alter table everything replica identity full",
        "update everything set c0 = -2 where id = 2",
    ):
        streamed.execute(statement.encode())
        versions.append(brief(printed([*WIDE])[2]))
    streamed.execute("delete from everything where id = 2")
    catch_up()
    landed = [
        (row["op"], row["key"], brief(row["before"]), brief(row["after"]), row["unchanged"])
        for row in changes("public.everything")
    ]
    left_out = landed[1][-1] or []
    assert MEGABYTES.keys() <= {*left_out}, "what a change leaves alone is not repeated"
    first, second, _, third = versions
    repeated = {name: value for name, value in second.items() if name not in left_out}
    key: Row = {"id": "2"}
    assert landed == [
        ("c", key, {}, key | first, None),
        ("u", key, {}, key | repeated, left_out),
        ("u", None, key | second, key | third, None),
        ("d", None, key | third, {}, None),
    ]


def brief(row: Row | None) -> Row:
    """A row, with a digest for each value that is too large to be shown."""
    return {
        name: hashlib.md5(value.encode()).hexdigest() if value and len(value) > 1000 else value
        for name, value in (row or {}).items()
    }
