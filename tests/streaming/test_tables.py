"""Tables are brought in, beside open transactions and by the hundred, and captured from there."""

from concurrent.futures import ThreadPoolExecutor

import psycopg

from lake import lag
from lake.catalog import catalog
from lake.manifest import SourceTable
from lake.settings import settings
from tests.conftest import SOAK
from tests.ingestion.conftest import declared
from tests.streaming.conftest import (
    AUDIT,
    READY_SECONDS,
    THING,
    Capture,
    Change,
    another,
    audited,
    captured,
    catch_up,
    changes,
    hand_over,
    wait_until,
)

TABLES = 300 if SOAK else 30
LATE = declared("late", ("id",), id="int", name="text")


def test_a_table_is_brought_in_whole_while_transactions_write_to_it_and_to_a_captured_one(
    thing: psycopg.Connection, running: Capture
) -> None:
    thing.execute(
        """
        create table late (id int primary key, name text);
        alter table late replica identity full;
        insert into late select i, 'first' from generate_series(1, 100) as i;
        """
    )
    running.start()
    with (
        ThreadPoolExecutor(1) as pool,
        another(thing) as first,
        another(thing) as second,
    ):
        write(first, 1, "before")
        loading = pool.submit(hand_over, THING, LATE)
        wait_until(lambda: waits_for_a_snapshot(thing), "a slot that waits for what is open")
        write(first, 1, "meanwhile")
        write(second, 2, "beside")
        assert not loading.done()
        first.commit()
        write(second, 2, "beside, still")
        second.commit()
        loaded = loading.result(READY_SECONDS)
    assert loaded
    assert loaded.rows == {"public.late": 104}
    write(thing, 3, "after")
    catch_up()
    assert captured("public.thing") == audited(thing)
    assert state(LATE, changes("public.late")) == at_source(thing, LATE)


def write(connection: psycopg.Connection, number: int, name: str) -> None:
    """Update a row of both tables, and insert one into each."""
    for table in ("thing", "late"):
        connection.execute(f"update {table} set name = %s where id = %s".encode(), [name, number])
        connection.execute(
            f"insert into {table} (id, name) values ((random() * 1e9)::int, %s)".encode(), [name]
        )


def waits_for_a_snapshot(connection: psycopg.Connection) -> bool:
    """Whether `lake ingest` is making a slot of its own."""
    temporary = "select 1 from pg_replication_slots where temporary and slot_name like %s"
    return bool(connection.execute(temporary, [f"{settings().source.slot}%"]).fetchone())


def test_hundreds_of_tables_are_ingested_and_captured_in_one_go_each_as_it_is(
    owner: psycopg.Connection, running: Capture
) -> None:
    tables = [declared(f"t{i}", ("id",), id="int", name="text") for i in range(TABLES)]
    owner.execute(AUDIT)
    every(
        owner,
        tables,
        "create table {0} (id int primary key, name text);"
        " alter table {0} replica identity full;"
        " insert into {0} values (1, 'a {0}'), (2, 'b {0}'), (3, null);",
    )
    loaded = hand_over(*tables)
    assert loaded
    assert (loaded.suspended, set(loaded.rows.values()), len(loaded.rows)) == ((), {3}, TABLES)
    running.start()
    with owner.transaction():
        every(owner, tables, "update {0} set name = 'c {0}' where id < 3;")
    every(owner, tables, "insert into {0} values (4, 'd {0}'); delete from {0} where id = 1;")
    catch_up()
    landed: dict[str, list[Change]] = {table.qualified: [] for table in tables}
    for change in changes():
        if change["op"] != "m":
            landed[change["source_table"]].append(change)
    assert {len(found) for found in landed.values()} == {4}
    for table in tables:
        assert state(table, landed[table.qualified]) == at_source(owner, table)


def every(connection: psycopg.Connection, tables: list[SourceTable], statements: str) -> None:
    """Execute statements for every table, whose name they have as `{0}`."""
    for table in tables:
        connection.execute(statements.format(table.name).encode())


def state(table: SourceTable, landed: list[Change]) -> dict[str, Change]:
    """A table's rows, by `id`: its bulk and the changes since, each following from those before."""
    lsn = lag.snapshot_lsn(table.bronze)
    assert lsn is not None
    bulk = catalog().load_table(table.bronze).scan().to_arrow().to_pylist()
    names = [column.name for column in table.columns]
    rows = {str(row["id"]): {name: row[name] and str(row[name]) for name in names} for row in bulk}
    for change in landed:
        if change["commit_lsn"] >= lsn:
            if before := change["before"]:
                assert rows.pop(before["id"]) == before
            if after := change["after"]:
                assert after["id"] not in rows
                rows[after["id"]] = after
    return rows


def at_source(connection: psycopg.Connection, table: SourceTable) -> dict[str, Change]:
    """The rows as they are now, by `id`, their values as texts."""
    query = f"select id::text, as_texts(to_jsonb(one)) from {table.name} as one"
    return dict(connection.execute(query.encode()).fetchall())
