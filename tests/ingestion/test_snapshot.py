"""The bulk load: what lands in bronze is the source, value by value, whatever interrupts it."""

import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from ingestion import bronze, copy, piece
from ingestion.snapshot import Load, ingest
from lake import lag, source
from lake.catalog import catalog
from lake.errors import LakeError
from lake.manifest import Column, SourceTable
from lake.settings import settings
from lake.stack import capture, doctor, postgres, status
from tests.ingestion.conftest import declared, in_wal

THING = declared("thing", ("part", "id"), part="text", id="int")


@pytest.fixture
def thing(owner: psycopg.Connection) -> psycopg.Connection:
    owner.execute(
        """
        create type mood as enum ('glad', 'sad');
        create table thing (
            part text,
            id int,
            small smallint,
            big bigint,
            exact numeric(20, 4),
            loose numeric,
            float double precision,
            flag boolean,
            day date,
            at timestamptz,
            local timestamp,
            clock time,
            bytes bytea,
            mood mood,
            "Quoted Name" uuid,
            document jsonb,
            list int[],
            primary key (part, id)
        );
        alter table thing replica identity full;
        grant select on thing to capture;
        insert into thing values (
            'a', 1, -32768, 9223372036854775807, -1234567890123456.7891, 1e-20, 'Infinity', true,
            '0001-01-01', '2026-10-25 02:30:00.123456+02', '2026-10-25 02:30:00.000001', '23:59:59',
            '\\x00ff', 'sad', '00000000-0000-0000-0000-000000000001',
            '{"k": "é \\" \\n 🙂", "n": [1, null]}', '{1,null}'
        );
        insert into thing (part, id) select chr(98 + i % 3), i from generate_series(1, 5000) as i;
        insert into thing (part, id) values ('', 0), (e'quote \\' " \\\\ \\t 🙂', 1);
        """
    )
    return owner


def load(*tables: SourceTable, again: Sequence[str] = ()) -> Load:
    return ingest(list(tables), postgres.source_owner(), lambda *_: None, again)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture, which the shared stack has none of here, has always caught up."""
    monkeypatch.setattr(lag, "catch_up", lambda: 0)


def landed(table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = catalog().load_table(table).scan().to_arrow().to_pylist()
    return rows


def newest() -> list[dict[str, Any]]:
    lsn = lag.snapshot_lsn("bronze.thing")
    return [row for row in landed("bronze.thing") if row["_snapshot_lsn"] == lsn]


def test_each_value_lands_exactly_and_with_it_the_columns_nobody_declared(
    thing: psycopg.Connection,
) -> None:
    loaded = load(THING)
    assert loaded.rows == {"public.thing": 5003}
    (row,) = [row for row in landed("bronze.thing") if row["part"] == "a"]
    stamps = {name: row.pop(name) for name in ("_snapshot_lsn", "_ingested_at")}
    assert stamps["_snapshot_lsn"] == lag.snapshot_lsn("bronze.thing")
    assert row == {
        "part": "a",
        "id": 1,
        "small": -32768,
        "big": 9223372036854775807,
        "exact": Decimal("-1234567890123456.7891"),
        "loose": "0.00000000000000000001",
        "float": float("inf"),
        "flag": True,
        "day": date(1, 1, 1),
        "at": datetime(2026, 10, 25, 0, 30, 0, 123456, UTC),
        "local": datetime(2026, 10, 25, 2, 30, 0, 1),  # noqa: DTZ001 - as the source has it
        "clock": "23:59:59",
        "bytes": b"\x00\xff",
        "mood": "sad",
        "quoted_name": "00000000-0000-0000-0000-000000000001",
        "document": '{"k": "é \\" \\n 🙂", "n": [1, null]}',
        "list": "{1,NULL}",
        "_unheld": None,
    }


def test_the_rows_of_many_ranges_are_the_source_s_rows(
    thing: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "PAGES_PER_PIECE", 5)
    load(THING)
    files = catalog().load_table("bronze.thing").inspect.files().num_rows
    assert files > 3
    there = {(part, number) for part, number in thing.execute("select part, id from thing")}
    here = [(row["part"], row["id"]) for row in landed("bronze.thing")]
    assert len(here) == len(there)
    assert set(here) == there


def test_a_snapshot_of_no_rows_is_a_row_without_values(thing: psycopg.Connection) -> None:
    thing.execute("truncate thing")
    loaded = load(THING)
    assert loaded.rows == {"public.thing": 0}
    (row,) = landed("bronze.thing")
    assert row.pop("_snapshot_lsn") == lag.snapshot_lsn("bronze.thing")
    assert row.pop("_ingested_at")
    assert row.pop("_unheld") == bronze.NO_ROW
    assert set(row.values()) == {None}


def test_a_second_load_does_nothing(thing: psycopg.Connection) -> None:
    assert load(THING).rows
    assert not load(THING).rows
    assert len(landed("bronze.thing")) == 5003


def test_an_interrupted_load_leaves_no_slot_and_is_begun_anew(thing: psycopg.Connection) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest([THING], postgres.source_owner(), interrupt)
    with source.connect() as connection:
        assert source.slot(connection) is None
    load(THING)
    assert len(newest()) == 5003


DROP = "select pg_drop_replication_slot(%s)"
ADVANCE = "select pg_replication_slot_advance(%s, pg_current_wal_lsn())"


@pytest.mark.parametrize(
    ("by", "state"),
    [(DROP, "is gone"), (ADVANCE, "was acknowledged beyond what bronze holds")],
)
def test_changes_that_were_missed_are_told_by_every_verb_that_would_wait_for_them(
    thing: psycopg.Connection, by: str, state: str
) -> None:
    load(THING)
    assert doctor._slot(source.slot(thing)).well
    assert not capture.missed()
    thing.execute("delete from thing where id = 1")
    thing.execute(by.encode(), [settings().source.slot])
    said = f"the slot `{settings().source.slot}` {state}, so changes were missed: take all tables"
    for wait in (lag.catch_up, lambda: load(THING)):
        with pytest.raises(LakeError) as raised:
            wait()
        assert str(raised.value).startswith(said)
    found = doctor._slot(source.slot(thing))
    assert not found.well
    assert found.detail.startswith(said)
    assert capture.missed().startswith(said)
    assert any(line.startswith(f"every table: {said}") for line in status.suspended())


def test_a_table_to_take_anew_must_be_declared(thing: psycopg.Connection) -> None:
    with pytest.raises(
        LakeError, match=r"`thng` is no table that is declared: choose of public\.thing"
    ):
        load(THING, again=["thng"])


def test_a_table_that_was_out_of_the_publication_needs_a_new_snapshot(
    thing: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(THING)
    publication = settings().source.publication
    thing.execute(f'alter publication "{publication}" drop table thing'.encode())
    thing.execute("delete from thing where id > 10")

    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(lag, "catch_up", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(THING)
    assert lag.snapshot_lsn("bronze.thing") is None
    monkeypatch.setattr(lag, "catch_up", lambda: 0)
    load(THING)  # though the table is published by now
    assert {row["id"] for row in newest()} == {0, *range(1, 11)}


def test_a_snapshot_and_the_changes_from_its_lsn_on_are_the_source(
    owner: psycopg.Connection, captured: None
) -> None:
    """Of the first load and of one beside capture, while transactions overlap."""
    tables = [declared(name, ("id",), id="int", version="int") for name in ("early", "late")]
    for table in tables:
        owner.execute(f"create table {table.name} (id int primary key, version int)".encode())
        owner.execute(f"alter table {table.name} replica identity full".encode())
        owner.execute(
            f"insert into {table.name} select i, 0 from generate_series(1, 200) as i".encode()
        )
    with writers(4, [table.name for table in tables]):
        for loaded in (tables[:1], tables):
            time.sleep(0.5)
            load(*loaded)
        time.sleep(0.5)
    for table in tables:
        lsn = lag.snapshot_lsn(table.bronze)
        assert lsn is not None
        rows = {row["id"]: row["version"] for row in landed(table.bronze)}
        before = len(rows)
        followed = [
            change
            for change in in_wal()
            if change.table == table.qualified and change.position[0] >= lsn
        ]
        assert followed
        for change in followed:
            for image, follows in ((change.before, True), (change.after, False)):
                if image:
                    key, version = int(image["id"] or ""), int(image["version"] or "")
                    if follows:
                        assert rows.pop(key) == version, "each change follows from the one before"
                    else:
                        assert key not in rows
                        rows[key] = version
        there: dict[int, int] = dict(
            owner.execute(f"select id, version from {table.name}".encode()).fetchall()
        )
        assert rows == there
        assert len(rows) != before


@contextmanager
def writers(count: int, tables: Sequence[str]) -> Iterator[None]:
    """Writers whose transactions overlap; each keeps what it wrote open for a while."""
    stop = threading.Event()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with postgres.SOURCE.admin(settings().source.database) as connection:
            while not stop.is_set():
                with connection.transaction():
                    for _ in range(chance.randint(1, 4)):
                        number = 4 * chance.randint(1, 60) + seed  # no two writers wait for another
                        table = chance.choice(tables)
                        statement = chance.choice(
                            [
                                f"insert into {table} values ({number}, 1) on conflict do nothing",
                                f"update {table} set version = version + 1 where id = {number}",
                                f"delete from {table} where id = {number}",
                            ]
                        )
                        connection.execute(statement.encode())
                        time.sleep(chance.choice([0, 0.02]))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_table_that_ails_does_not_keep_the_others(
    thing: psycopg.Connection, captured: None
) -> None:
    thing.execute("create table other (id int, word text)")
    other = declared("other", ("id",), id="int", word="text")
    loaded = load(THING, other)
    assert loaded.rows == {"public.thing": 5003}
    assert [trouble.table for trouble in loaded.suspended] == ["public.other"]
    assert landed("bronze.other") == [], "models of it can be built, of no rows"
    thing.execute("insert into other values (1, 'one'); alter table other add primary key (id)")
    loaded = load(THING, other)
    assert (loaded.rows, loaded.suspended) == ({"public.other": 1}, ())
    assert [row["word"] for row in landed("bronze.other")] == ["one"]


@pytest.mark.parametrize(
    ("done", "said"),
    [
        ("drop table other", "could not be copied: .*does not exist"),
        ("revoke select on other from capture", "could not be copied: .*permission denied"),
        ("truncate other", "was truncated"),
        ("alter table other alter id type bigint", "was truncated, rewritten"),
    ],
)
def test_a_table_that_changes_while_it_is_copied_is_told_and_does_not_keep_the_others(
    thing: psycopg.Connection,
    captured: None,
    monkeypatch: pytest.MonkeyPatch,
    done: str,
    said: str,
) -> None:
    thing.execute("create table other (id int primary key); insert into other values (1)")
    other = declared("other", ("id",), id="int")
    load(THING)
    columns = piece.copy

    def after(*arguments: Any) -> Any:
        thing.execute(done.encode())
        return columns(*arguments)

    monkeypatch.setattr(piece, "copy", after)
    loaded = load(THING, other)
    monkeypatch.undo()
    assert not loaded.rows
    (trouble,) = loaded.suspended
    assert re.search(said, str(trouble)), trouble


def test_a_partitioned_table_is_one_table_whose_partitions_are_copied(
    owner: psycopg.Connection, captured: None
) -> None:
    owner.execute(
        """
        create table thing (id int, part text, note text, primary key (part, id))
            partition by list (part);
        create table thing_a partition of thing for values in ('a');
        create table thing_rest (note text, id int not null, part text not null)
            partition by list (part);
        alter table thing attach partition thing_rest default;
        create table "Thing B" partition of thing_rest for values in ('b');
        create table thing_more partition of thing_rest default;
        insert into thing select i, chr(97 + i % 4), i::text from generate_series(1, 400) as i;
        """
    )
    assert load(THING).rows == {"public.thing": 400}
    owner.execute("update thing set note = 'new' where id < 5")
    there = set(owner.execute("select part, id, note from thing where id >= 5").fetchall())
    here = {(row["part"], row["id"], row["note"]) for row in landed("bronze.thing")}
    assert {row for row in here if row[1] >= 5} == there
    told = [(change.table, (change.after or {})["id"]) for change in in_wal()]
    assert sorted(told) == [("public.thing", str(i)) for i in range(1, 5)]


def test_an_inheritance_parent_is_its_own_rows(owner: psycopg.Connection) -> None:
    owner.execute(
        """
        create table thing (part text, id int, primary key (part, id));
        create table child (more text) inherits (thing);
        insert into thing values ('a', 1);
        insert into child values ('a', 2, 'of the child');
        """
    )
    assert load(THING).rows == {"public.thing": 1}


@pytest.mark.parametrize(
    ("done", "columns"),
    [
        ("alter table thing add extra int default 7", {"extra": "int"}),
        ("alter table thing rename small to extra", {"extra": "smallint"}),
        ("alter table thing alter small type text", {"small": "text"}),
        ("alter table thing alter small type bigint", {"small": "bigint"}),
    ],
)
def test_a_table_whose_declared_columns_have_changed_is_taken_anew(
    thing: psycopg.Connection, captured: None, done: str, columns: dict[str, str]
) -> None:
    load(declared("thing", ("part", "id"), part="text", id="int", small="smallint"))
    thing.execute(done.encode())
    changed = declared("thing", ("part", "id"), part="text", id="int", **columns)
    assert load(changed).rows == {"public.thing": 5003}
    (name,) = columns
    there = {
        (part, number): value
        for part, number, value in thing.execute(f"select part, id, {name} from thing".encode())
    }
    assert {(row["part"], row["id"]): row[name] for row in newest()} == there
    assert not load(changed).rows
    tables = [".".join(name) for name in catalog().list_tables("bronze")]
    kept = [name for name in tables if name.startswith("bronze.thing_until_")]
    assert len(kept) == ("type text" in done), "what can't be widened is kept under another name"


def test_any_column_can_be_declared_as_text_and_a_key_must_be_where_no_type_holds_it(
    owner: psycopg.Connection, captured: None
) -> None:
    owner.execute("create table thing (id int primary key, until date, bytes bytea)")
    owner.execute("insert into thing values (1, 'infinity', 'x'), (2, '2026-01-01', null)")
    owner.execute("create table period (until date primary key)")
    owner.execute("insert into period values ('infinity'), ('0044-03-15 BC')")
    thing = declared("thing", ("id",), id="text", until="text", bytes="text")
    period = declared("period", ("until",), until="date")
    loaded = load(thing, period)
    assert loaded.rows == {"public.thing": 2}
    assert [str(trouble) for trouble in loaded.suspended] == [
        "public.period has a key that the lake can't hold: declare its until as text"
    ]
    assert sorted((row["id"], row["until"], row["bytes"]) for row in newest()) == [
        ("1", "infinity", "\\x78"),
        ("2", "2026-01-01", None),
    ]
    assert {row["_unheld"] for row in newest()} == {None}
    assert load(thing, declared("period", ("until",), until="text")).rows == {"public.period": 2}
    assert {row["until"] for row in landed("bronze.period")} == {"infinity", "0044-03-15 BC"}


def test_columns_have_names_of_the_lake_and_those_nobody_declared_too(
    owner: psycopg.Connection,
) -> None:
    owner.execute(
        """
        create schema "My Schema";
        create table "My Schema"."Order" (
            "OrderId" int primary key, "select" text, "größe ""x"" " text, "_unheld" text, "A" int,
            a int
        );
        insert into "My Schema"."Order" values (1, 's', 'g', 'u', 2, 3);
        """
    )
    columns = (Column("order_id", "int", "OrderId"), Column("size", "text", 'größe "x" '))
    order = SourceTable("bronze.order", "My Schema", "Order", ("order_id",), columns)
    assert load(order).rows == {'"My Schema"."Order"': 1}
    (row,) = landed("bronze.order")
    assert {name: value for name, value in row.items() if not name.startswith("_")} == {
        "order_id": 1,
        "select": "s",
        "size": "g",
        "source_unheld": "u",
        "a_2": 2,
        "a": 3,
    }


def test_from_scratch_all_tables_are_taken_anew_and_what_was_landed_is_kept(
    thing: psycopg.Connection,
) -> None:
    catalog("ingest").create_table(
        "bronze.changes", pa.schema([("lsn", pa.int64()), ("envelope", pa.string())])
    ).append(pa.table({"lsn": [1], "envelope": ["{}"]}))
    with pytest.raises(LakeError, match="lake ingest --from-scratch") as raised:
        load(THING)
    assert len(str(raised.value).splitlines()) == 1
    loaded = ingest([THING], postgres.source_owner(), lambda *_: None, from_scratch=True)
    assert loaded.rows == {"public.thing": 5003}
    names = [name for _, name in catalog().list_tables("bronze")]
    (kept,) = [name for name in names if name.startswith("changes_until_")]
    assert landed(f"bronze.{kept}") == [{"lsn": 1, "envelope": "{}"}]
    properties = catalog().load_table("bronze.changes").properties
    lsn = lag.snapshot_lsn("bronze.thing")
    assert properties[lag.SLOT_LSN] == str(lsn)
    whose = f"/{settings().source.database}/{settings().source.slot}"
    assert properties["lake.source"].endswith(whose)
    thing.execute("select pg_drop_replication_slot(%s)", [settings().source.slot])
    with pytest.raises(LakeError, match="--from-scratch"):
        load(THING)
    ingest([THING], postgres.source_owner(), lambda *_: None, from_scratch=True)
    assert len(newest()) == 5003


def test_an_external_source_is_told_which_statements_its_owner_must_run(
    thing: psycopg.Connection, tmp_path: Path
) -> None:
    with pytest.raises(LakeError) as raised:
        ingest([THING], None, lambda *_: None)
    statements = [line.strip() for line in str(raised.value).splitlines()[1:]]
    for statement in statements:
        thing.execute(statement.encode())
    assert ingest([THING], None, lambda *_: None).rows
