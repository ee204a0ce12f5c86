"""What is equal is found to be, and what is planted is found by its key: on both real sides."""

import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from lake import source
from lake.catalog import open_catalog
from lake.errors import LakeError
from lake.manifest import Column, SourceTable
from lake.settings import TRUNK, settings
from lake.stack import postgres, trino
from lake.verify import digests, run, tables
from lake.verify.report import Report, TableReport, lines
from lake.verify.run import Options
from lake.verify.tables import Target
from lake.verify.values import literal
from tests.lake.branches.conftest import published
from tests.lake.verify.conftest import Make
from tests.lake.verify.made import Made

EVERY_PLANE = "".join(chr(plane * 0x10000 + 0x41) for plane in range(17))
TEXTS = ["", "a", "A", "é", "e\u0301", "ß", "ﬀ", "\u2028", "'\"\\", "2:-", "-", " a ", "\x01\x7f"]
TEXTS += [EVERY_PLANE, "\U0010ffff", "\ufffd", "null", "NaN", "x" * 3000]
COLUMNS = {
    "small": "smallint",
    "whole": "integer",
    "large": "bigint",
    "money": "numeric(12,2)",
    "wide": "numeric(38,10)",
    "free": "numeric",
    "flag": "boolean",
    "single": "real",
    "double": "double precision",
    "day": "date",
    "local": "timestamp",
    "moment": "timestamptz",
    "bytes": "bytea",
    "note": "text",
    "padded": "char(5)",
    "doc": "jsonb",
    "many": "integer[]",
    "span": "interval",
    "clock": "time",
    "address": "inet",
    "thing": "uuid",
}
VALUES: dict[str, list[str]] = {
    "smallint": ["-32768", "32767", "0"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "numeric(12,2)": ["9999999999.99", "-0.01", "0", "NaN"],
    "numeric(38,10)": ["1234567890123456789012345678.0123456789", "NaN", "-0.0000000001"],
    "numeric": ["1e-20", "Infinity", "-Infinity", "NaN", "1.50", "1.5"],
    "boolean": ["t", "f"],
    "real": ["NaN", "Infinity", "-Infinity", "-0", "0", "1e-45", "3.4028235e38", "0.1"],
    "double precision": ["NaN", "-Infinity", "-0", "5e-324", "1e+20", "0.1", "123456789.125"],
    "date": ["0001-01-01", "9999-12-31", "infinity", "-infinity", "4714-11-24 BC", "10000-01-01"],
    "timestamp": ["0001-01-01 00:00:00", "9999-12-31 23:59:59.999999", "infinity"],
    "timestamptz": ["2026-01-01 00:00:00.1+00", "0001-01-01 00:00:00+00", "294276-01-01 00:00+00"],
    "bytea": ["\\x", "\\x00ff"],
    "text": TEXTS,
    "char(5)": ["", "a", "ab   ", "é"],
    "jsonb": ['{"a": [1, null, "\\u00e9"]}', "null", "1.50"],
    "integer[]": ["{}", "{1,NULL,3}", "{{1,2},{3,4}}"],
    "interval": ["1 year 2 mons 3 days 04:05:06.789", "-00:00:01"],
    "time": ["24:00:00", "00:00:00.000001"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1"],
    "uuid": ["00000000-0000-0000-0000-000000000000"],
}
VALUES["timestamp"] += ["2026-01-01 10:20:30.1", "2026-01-01 10:20:30.000010", "0044-03-15 BC"]
VALUES["timestamptz"] += ["2026-07-01 00:00:00+05", "-infinity", "1969-12-31 23:59:59.999999+00"]


class Life:
    """A random life of a table whose key is (id, name), of texts as above."""

    def __init__(self, made: Made, seed: int) -> None:
        self.made, self.random = made, random.Random(seed)
        self.others = [c for c in made.columns if c not in ("id", "name")]

    def value(self, column: str) -> str | None:
        values = VALUES[self.made.columns[column]]
        return None if self.random.random() < 0.15 else self.random.choice(values)

    def key(self) -> list[Any]:
        return [self.random.randint(1, 40), self.random.choice(TEXTS)]

    def live(self, connection: psycopg.Connection, transactions: int) -> None:
        for _ in range(transactions):
            with connection.transaction():
                for _ in range(self.random.randint(1, 6)):
                    self.step(connection)

    def step(self, connection: psycopg.Connection) -> None:
        table, names = f'"{self.made.name}"', ["id", "name", *self.others]
        match self.random.choice("iiiuuudk"):
            case "i":
                listed = ", ".join(f'"{name}"' for name in names)
                marks = ", ".join("%s" for _ in names)
                connection.execute(
                    f"insert into {table} ({listed}) values ({marks})"
                    " on conflict do nothing".encode(),
                    [*self.key(), *map(self.value, self.others)],
                )
            case "u":
                column = self.random.choice(self.others)
                connection.execute(
                    f'update {table} set "{column}" = %s where id = %s'.encode(),
                    [self.value(column), self.random.randint(1, 40)],
                )
            case "d":
                connection.execute(
                    f"delete from {table} where id = %s and name = %s".encode(), self.key()
                )
            case "k":
                new = self.key()
                connection.execute(
                    f"update {table} set id = %s, name = %s where (id, name) = (%s, %s) and"
                    f" not exists (select from {table} where (id, name) = (%s, %s))".encode(),
                    [*new, *self.key(), *new],
                )


@contextmanager
def at_work(made: Made) -> Iterator[None]:
    """Have the table change, on a connection of its own, until the block ends."""
    stop = threading.Event()

    def work() -> None:
        with postgres.SOURCE.admin(settings().source.database) as connection:
            life = Life(made, 99)
            while not stop.is_set():
                life.live(connection, 1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def verified(made: Made, target: Target, **options: Any) -> TableReport:
    """Compare the source as it is now with a table of the lake, as the verb does."""
    with run.snapshot() as at:
        made.land()
        there = tables.at_source(at.connection, made.declared)
        return run.compare(made.declared, there, target, at, Options(**options))


def named(found: TableReport) -> set[tuple[Any, ...]]:
    """The differences that are named: their kind and their key."""
    return {(one.kind, *one.key.values()) for one in found.examples}


def counts(found: TableReport) -> tuple[int, int, int]:
    return found.missing, found.extra, found.differing


@pytest.fixture
def random_table(make: Make) -> Made:
    made = make("things", ("id", "name"), id="integer", name="text", **COLUMNS)
    made.connection.execute("alter table things alter note set storage external")
    Life(made, 1).live(made.connection, 60)
    made.load()
    return made


def test_random_rows_of_many_types_are_equal_while_the_source_is_at_work(
    random_table: Made,
) -> None:
    made, life = random_table, Life(random_table, 2)
    with at_work(made):
        bronze = verified(made, made.bronze())
    assert (bronze.verdict, bronze.examples) == ("equal", [])
    assert bronze.changes > 0
    life.live(made.connection, 30)
    made.land()
    rows = made.state()
    broken = [row for row in rows if row["flag"] == "t"]
    assert 0 < len(broken) < len(rows)
    built = made.build(rows, broken)
    with at_work(made):
        silver = verified(made, made.silver(built))
        whole = verified(made, made.bronze())
    assert (silver.verdict, silver.examples) == ("equal", [])
    assert 0 < silver.changes < whole.changes
    assert whole.verdict == "equal"
    assert silver.unheld
    assert {"day", "local", "moment", "money", "wide"} >= silver.unheld.keys()
    assert any(change.unchanged for change in made.changes), "some values were not repeated"


def test_a_row_that_was_changed_dropped_or_doubled_in_silver_is_found_by_its_key(
    random_table: Made,
) -> None:
    made = random_table
    built = made.build()
    silver = made.relation("silver_made", "things")
    changed, dropped, doubled = [made.key_of(row) for row in made.state()[:3]]
    for statement in (
        f"update {silver} set note = 'planted' where {where(changed)}",
        f"delete from {silver} where {where(dropped)}",
        f"insert into {silver} select * from {silver} where {where(doubled)}",
        f"insert into {silver} (id, name) values (-1, 'planted')",
    ):
        trino.ask(statement)
    found = verified(made, made.silver(built))
    assert found.verdict == "different"
    assert counts(found) == (1, 2, 1)
    assert named(found) == {
        ("differing", *changed),
        ("missing", *dropped),
        ("extra", *doubled),
        ("extra", "-1", "planted"),
    }
    (differing,) = [one for one in found.examples if one.kind == "differing"]
    assert (differing.columns, differing.source, differing.lake) == (["note"], [], [])
    with_values = verified(made, made.silver(built), values=True)
    (differing,) = [one for one in with_values.examples if one.kind == "differing"]
    assert differing.lake == [{"note": "planted"}]
    (missing,) = [one for one in with_values.examples if one.kind == "missing"]
    assert (list(missing.source[0]), missing.lake) == (list(made.columns), [])


def where(key: tuple[str | None, ...]) -> str:
    number, name = key
    assert name is not None
    return f"id = {number} and name = {literal(name)}"


@pytest.mark.parametrize(
    ("column", "planted"),
    [
        ("double", "double '-0.0'"),
        ("double", "double '1.0000000000000002'"),
        ("single", "real '0.10000001'"),
        ("local", "timestamp '2026-01-01 00:00:00.000001'"),
        ("moment", "timestamp '2026-01-01 00:00:00.000001 UTC'"),
        ("day", "date '2026-01-02'"),
        ("wide", "decimal '1234567890123456789012345678.0123456788'"),
        ("bytes", "x'00'"),
        ("flag", "null"),
        ("note", "''"),
        ("padded", "'a'"),
    ],
)
def test_the_least_difference_of_a_value_is_found(make: Make, column: str, planted: str) -> None:
    held = {
        "double": "0",
        "single": "0.1",
        "local": "2026-01-01",
        "moment": "2026-01-01 00:00+00",
        "day": "2026-01-01",
        "wide": "1234567890123456789012345678.0123456789",
        "bytes": "\\x",
        "flag": "f",
        "note": None,
        "padded": "a",
    }
    if planted.startswith("double '1.0"):
        held["double"] = "1"
    made = make("thing", ("id",), id="integer", **{name: COLUMNS[name] for name in held})
    marks = ", ".join("%s" for _ in held)
    made.connection.execute(f"insert into thing values (1, {marks})".encode(), [*held.values()])
    made.load()
    built = made.build()
    assert verified(made, made.silver(built)).verdict == "equal"
    silver = made.relation("silver_made", "thing")
    trino.ask(f'update {silver} set "{column}" = {planted}')
    found = verified(made, made.silver(built))
    assert counts(found) == (0, 0, 1)
    assert [one.columns for one in found.examples] == [[column]]


def test_a_change_that_bronze_has_lost_doubled_or_bent_is_found(make: Make) -> None:
    made = make("account", ("id",), id="integer", balance="integer")
    made.connection.execute("insert into account select i, 0 from generate_series(1, 9) as i")
    made.load()
    for number in range(1, 6):
        made.connection.execute("update account set balance = 7 where id = %s", [number])
    made.connection.execute("delete from account where id = 6")
    assert verified(made, made.bronze()).verdict == "equal"
    bulk, landed = (made.relation("bronze_made", name) for name in ("account", "account_changes"))
    trino.ask(f"insert into {landed} select * from {landed} where ordinal = 1")
    assert verified(made, made.bronze()).verdict == "equal", "what is landed twice is no difference"
    trino.ask(f"delete from {landed} where json_extract_scalar(after, '$.id') = '1'")
    trino.ask(f"delete from {landed} where op = 'd'")
    trino.ask(
        f'update {landed} set after = \'{{"id":"2","balance":"8"}}\''
        " where json_extract_scalar(after, '$.id') = '2'"
    )
    trino.ask(f"delete from {bulk} where id = 9")
    trino.ask(f"update {bulk} set balance = 1 where id = 8")
    found = verified(made, made.bronze(), examples=9)
    assert named(found) == {
        ("differing", "1"),
        ("differing", "2"),
        ("extra", "6"),
        ("differing", "8"),
        ("missing", "9"),
    }


def test_an_empty_table_equals_its_snapshot_and_so_does_one_that_was_emptied(make: Make) -> None:
    made = make("thing", ("id",), id="integer", note="text")
    made.load()
    assert verified(made, made.bronze()).verdict == "equal"
    built = made.build()
    assert verified(made, made.silver(built)).verdict == "equal"
    made.connection.execute("insert into thing values (1, 'a'), (2, 'b')")
    assert verified(made, made.silver(built)).verdict == "equal"
    built = made.build()
    made.connection.execute("truncate thing")
    made.connection.execute("insert into thing values (2, 'c')")
    for target in (made.silver(built), made.bronze()):
        found = verified(made, target)
        assert (found.verdict, found.rows, found.lake_rows) == ("equal", 1, 1)
    made.connection.execute("delete from thing")
    assert verified(made, made.silver(built)).verdict == "equal"
    built = made.build()
    found = verified(made, made.silver(built))
    assert (found.verdict, found.rows, found.changes) == ("equal", 0, 0)


def test_rows_that_are_kept_out_are_not_missing_and_in_both_places_they_are_doubled(
    make: Make,
) -> None:
    made = make("thing", ("id",), id="integer", note="text")
    made.connection.execute("insert into thing select i, i from generate_series(1, 9) as i")
    made.load()
    built = made.build(made.state(), made.state()[:3])
    assert verified(made, made.silver(built)).verdict == "equal"
    silver, kept_out = (made.relation("silver_made", n) for n in ("thing", "thing_quarantine"))
    trino.ask(f"insert into {silver} values (1, '1')")
    trino.ask(f"update {kept_out} set note = 'planted' where id = 2")
    trino.ask(f"delete from {kept_out} where id = 3 and on_break <> 'warn'")
    found = verified(made, made.silver(built))
    assert named(found) == {("extra", "1"), ("differing", "2"), ("missing", "3")}
    made.connection.execute("update thing set note = 'mended'")
    found = verified(made, made.silver(built))
    assert named(found) == {("extra", "1")}, "what changed since is bronze's, and is doubled still"


def test_a_table_without_a_key_is_compared_by_its_rows_and_their_copies(make: Make) -> None:
    made = make("entry", (), note="text", amount="numeric(12,2)")
    made.connection.execute(
        "insert into entry select n, 1.5 from unnest(%s::text[]) as n, generate_series(1, 3)",
        [[*TEXTS, None]],
    )
    made.load()
    made.connection.execute("insert into entry values ('a', 1.5), ('b', null), ('b', null)")
    built = made.build()
    made.connection.execute("delete from entry where note = 'é'")
    made.connection.execute("update entry set amount = 2 where note = 'a'")
    made.connection.execute("insert into entry values ('b', null)")
    for target in (made.bronze(), made.silver(built)):
        found = verified(made, target)
        assert (found.verdict, found.examples) == ("equal", [])
        assert not found.has_key
    silver = made.relation("silver_made", "entry")
    trino.ask(f"update {silver} set _copies = _copies - 1 where note = 'b'")
    trino.ask(f"insert into {silver} values ('planted', null, 2)")
    found = verified(made, made.silver(built))
    assert counts(found) == (1, 2, 0)
    assert all(re.fullmatch("[0-9a-f]{16}", one.key["row"] or "") for one in found.examples)
    assert not any(one.source or one.lake for one in found.examples), "no values unless asked"
    found = verified(made, made.silver(built), values=True)
    rows = [row["note"] for one in found.examples for row in (*one.source, *one.lake)]
    assert {"b", "planted"} <= set(rows)


def test_a_large_value_that_only_a_renamed_row_has_is_left_out_and_said(make: Make) -> None:
    made = make("page", ("id",), id="integer", title="text", body="text")
    made.connection.execute("alter table page alter body set storage external")
    made.connection.execute(
        "insert into page select i, 'a', repeat(i::text, 5000) from generate_series(1, 4) as i"
    )
    made.load()
    built = made.build()
    made.connection.execute("update page set title = 'b' where id < 3")
    made.connection.execute("update page set id = 9 where id = 2")
    found = verified(made, made.silver(built))
    assert (found.verdict, found.uncompared) == ("equal", 1)
    assert found.rows == found.lake_rows == 3
    assert "1 keys" in "\n".join(lines(report(found)))
    assert verified(made, made.silver(made.build())).uncompared == 0
    trino.ask(f"update {made.relation('silver_made', 'page')} set body = 'planted' where id = 1")
    assert named(verified(made, made.silver(built))) == {("differing", "1")}


def test_columns_that_one_side_lacks_are_named_whoever_declared_them(own_lake: str) -> None:
    published(a=[1])
    names = ("value", "not_built", "gone")
    columns = tuple(Column(name, "bigint", name) for name in names)
    declared = SourceTable("bronze.a", "public", "a", ("value",), columns)
    held = open_catalog(TRUNK).load_table("silver.a")
    shape, left_out = tables._shape(declared, held, ["value", "not_built", "undeclared"])
    assert [column.name for column in shape.columns] == ["value"]
    assert left_out == ["not_built", "gone", "undeclared"]


def test_few_of_many_rows_are_found_and_so_is_that_all_of_them_differ(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "FETCHED", 300)
    made = make("thing", ("id",), id="integer", note="text")
    made.connection.execute("insert into thing select i, i from generate_series(1, 20000) as i")
    made.load()
    built = made.build()
    silver = made.relation("silver_made", "thing")
    assert verified(made, made.silver(built)).verdict == "equal"
    trino.ask(f"update {silver} set note = 'planted' where id in (7, 17000)")
    trino.ask(f"delete from {silver} where id = 300")
    found = verified(made, made.silver(built))
    assert named(found) == {("differing", "7"), ("differing", "17000"), ("missing", "300")}
    assert found.is_complete
    trino.ask(f"update {silver} set note = 'planted'")
    monkeypatch.setattr(digests, "RANGES", 20)
    found = verified(made, made.silver(built))
    assert found.verdict == "different"
    assert not found.is_complete
    assert 20 <= found.differing < 1000
    assert "at least" in next(iter(lines(report(found))))


def test_samples_are_of_their_size_and_find_what_is_in_them(make: Make) -> None:
    made = make("thing", ("id",), id="integer", note="text")
    made.connection.execute("insert into thing select i, i from generate_series(1, 4000) as i")
    made.load()
    built = made.build()
    trino.ask(
        f"update {made.relation('silver_made', 'thing')} set note = 'planted' where id <= 2000"
    )
    rows = set()
    for _ in range(3):
        found = verified(made, made.silver(built), sample=0.05)
        assert found.rows == found.lake_rows
        assert 120 < found.rows < 280
        assert 0.35 < found.differing / found.rows < 0.65
        rows.add(found.rows)
    assert len(rows) > 1, "others each time"


def report(*found: TableReport) -> Report:
    return Report(1, datetime.now(UTC), "lake", 1, 1.0, found)


def test_a_sample_s_ranges_are_of_its_part_of_all_hashes() -> None:
    for _ in range(100):
        for part in (0.0001, 0.05, 0.5, 0.99):
            ranges = run._ranges(part)
            assert all(-(2**63) <= a <= b < 2**63 for a, b in ranges)
            assert sum(b - a + 1 for a, b in ranges) == int(2**64 * part)
    assert run._ranges(1) == []


def test_wide_tables_and_large_values_are_compared(make: Make) -> None:
    wide = {f"c{i}": "double precision" if i % 3 else "timestamptz" for i in range(300)}
    made = make("wide", ("id",), id="integer", **wide, body="text", data="bytea")
    made.connection.execute(
        "insert into wide (id, c1, c3, body, data)"
        " select i, i, now(), repeat('é', 2500000), decode(repeat('ab', 2500000), 'hex')"
        " from generate_series(1, 3) as i"
    )
    made.load()
    built = made.build()
    made.connection.execute("update wide set c2 = 3 where id = 2")
    assert verified(made, made.silver(built)).verdict == "equal"
    assert verified(made, made.bronze()).verdict == "equal"
    made.connection.execute("update wide set body = body || 'e' where id = 3")
    made.land()
    trino.ask(
        f"update {made.relation('bronze_made', 'wide_changes')}"
        """ set after = replace(after, 'e"', 'f"') where after like '%e"%'"""
    )
    found = verified(made, made.silver(built), values=True)
    assert [(one.kind, one.key, one.columns) for one in found.examples] == [
        ("differing", {"id": "3"}, ["body"])
    ]
    assert re.fullmatch("[0-9a-f]{32}", found.examples[0].lake[0]["body"] or ""), "its MD5"


# -- what can't be said ----------------------------------------------------------------------------


def test_open_transactions_are_waited_for_only_so_long(
    owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "PATIENCE_SECONDS", 1)
    owner.execute("create table thing (id integer)")
    monkeypatch.setattr(source, "LOOKS_SECONDS", 0.1)
    said: list[str] = []
    with owner.transaction():
        owner.execute("insert into thing values (1)")
        with (
            pytest.raises(LakeError, match="transactions were open at the source for 1 s"),
            run.snapshot(said.append),
        ):
            pass
    (only,) = said
    assert f": pid {owner.info.backend_pid} of " in only
    with run.snapshot() as at:
        assert at.lsn > 0
    assert_no_slot_is_left()


def test_the_snapshot_is_what_was_committed_before_its_lsn_and_its_slot_is_gone(
    owner: psycopg.Connection,
) -> None:
    owner.execute("create table thing (id integer)")
    owner.execute(f"grant select on thing to {settings().source.user}")
    owner.execute("insert into thing values (1)")
    with run.snapshot() as at:
        owner.execute("insert into thing values (2)")
        assert at.connection.execute("select id from public.thing").fetchall() == [(1,)]
        after = owner.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert after is not None
        assert at.lsn < after[0]
        assert_no_slot_is_left()


def assert_no_slot_is_left() -> None:
    """Slots are dropped a moment after their connection."""
    query = "select slot_name from pg_replication_slots where database = current_database()"
    with source.connect() as connection:
        for _ in range(50):
            if not connection.execute(query).fetchall():
                return
            time.sleep(0.1)
    pytest.fail("a slot is left at the source")


def test_rows_that_the_source_hides_are_not_taken_for_all(make: Make) -> None:
    made = make("thing", ("id",), id="integer", note="text")
    made.connection.execute("insert into thing values (1, 'a')")
    made.load()
    made.connection.execute("alter table thing enable row level security")
    made.connection.execute(
        f"create policy nothing on thing to {settings().source.user} using (false)"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        verified(made, made.bronze())
