"""What readers see while others publish: by a pin one publish, by a tag the same rows for ever.

Who publishes is a process of its own, since a process is on one branch at a time.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyspark.errors import PySparkException
from trino.exceptions import TrinoExternalError

from lake.branches import branch, publish
from lake.catalog import access, catalog, connect, for_pyiceberg, for_spark, open_catalog
from lake.settings import TRUNK, settings
from lake.stack import postgres, trino
from tests.conftest import SOAK
from tests.lake.branches.conftest import spark_session

TABLES = ("silver.reader_a", "silver.reader_b", "gold.reader_c")
PUBLISHES, PINS = (101, 12) if SOAK else (31, 3)
TAG = "readers_tag"

Spark = Callable[[str], list[tuple[int, ...]]]
Numbers = frozenset[tuple[int, ...]]


def numbered(number: int) -> pa.Table:
    """Three rows that carry the number of the publish that they are of."""
    types = pa.schema([("row", pa.int32()), ("number", pa.int32())])
    return pa.table({"row": [0, 1, 2], "number": [number] * 3}, types)


def publish_numbers(numbers: range) -> None:
    """For each number, have all rows of all tables carry it, by one publish."""
    for number in numbers:
        name = f"readers_{number}"
        branch.create(name, in_trino=False)
        opened = open_catalog(name)
        for table in TABLES:
            if opened.table_exists(table):
                branch.take(name, [table])
                opened.load_table(table).overwrite(numbered(number))
            else:
                opened.create_table(table, numbered(number).schema).append(numbered(number))
        assert publish.publish(name)


def drop_tables() -> None:
    """Take the tables off `lake`, and with them what was left of a test that failed."""
    for ref in branch.refs():
        if ref.name.startswith("readers_") and ref.kind == "branch":
            branch.drop(ref.name)
    branch.create("readers_last", in_trino=False)
    for table in TABLES:
        open_catalog("readers_last").drop_table(table)
    publish.publish("readers_last")


def drop_pins(refs: set[str]) -> None:
    """Have pins end before their time."""
    with postgres.LAKE.admin(settings().catalog_database) as admin:
        for ref in refs:
            admin.execute("select lake.drop_ref(%s)", [ref])
            branch.end(ref)


@contextmanager
def spark_on(ref: str) -> Iterator[Spark]:
    """What a new session on a branch answers."""
    with spark_session(for_spark(access(ref))) as ask:
        yield lambda query: [tuple(row) for row in ask(query)]


# Reading while a process publishes


@dataclass(frozen=True)
class Read:
    """What one statement saw: the distinct numbers, a column for each table. `ref` is a pin."""

    engine: str
    ref: str
    numbers: Numbers


@dataclass(frozen=True)
class Seen:
    """All that was read, by a pin and without, and the number that each pin's publish was of."""

    published: dict[str, int]
    pinned: list[Read]
    single: list[Read]


def join_of(ref: str) -> str:
    a, b, c = (f"{ref}.{table}" for table in TABLES)
    return (
        "select distinct a.number as a_number, b.number as b_number, c.number as c_number"
        f" from {a} as a join {b} as b on a.row = b.row join {c} as c on a.row = c.row"
    )


def single_of(table: str) -> str:
    return f"select distinct number from {TRUNK}.{table}"


def read_by_trino(seen: Seen) -> str:
    def ask(query: str) -> Numbers:
        return frozenset(tuple(row) for row in trino.ask(query))

    pin = branch.pin()
    for _ in range(2):
        seen.pinned.append(Read("trino", pin, ask(join_of(pin))))
    trino.drop_catalog(pin)
    for table in TABLES:
        seen.single.append(Read("trino", TRUNK, ask(single_of(table))))
    return pin


def read_by_spark(seen: Seen) -> str:
    pin = branch.pin(in_trino=False)
    with spark_on(pin) as ask:
        for _ in range(2):
            seen.pinned.append(Read("spark", pin, frozenset(ask(join_of(pin)))))
        for table in TABLES:
            seen.single.append(Read("spark", TRUNK, frozenset(ask(single_of(table)))))
    return pin


def read_by_pyiceberg(seen: Seen) -> str:
    def ask(opened: Catalog, table: str) -> set[int]:
        return set(opened.load_table(table).scan().to_arrow()["number"].to_pylist())

    def join(opened: Catalog) -> Numbers:
        a, b, c = (ask(opened, table) for table in TABLES)
        return frozenset((x, y, z) for x in a for y in b for z in c)

    with branch.pinned() as pin:
        for _ in range(2):
            seen.pinned.append(Read("pyiceberg", pin, join(catalog())))
    for table in TABLES:
        numbers = frozenset((number,) for number in ask(open_catalog(TRUNK), table))
        seen.single.append(Read("pyiceberg", TRUNK, numbers))
    return pin


@pytest.fixture(scope="module")
def seen(lake_stack: Path) -> Iterator[Seen]:
    """A tag is made; a process publishes over and over, and meanwhile three engines read."""
    publish_numbers(range(1, 2))
    branch.tag(TAG)
    kept = Seen({}, [], [])
    later = range(2, PUBLISHES + 1)
    process = get_context("spawn").Process(target=publish_numbers, args=(later,), daemon=True)

    def read_on(read: Callable[[Seen], str]) -> None:
        pins: set[str] = set()
        while len(pins) < PINS and process.is_alive():
            pins.add(read(kept))

    process.start()
    try:
        with ThreadPoolExecutor() as pool:
            readers = (read_by_trino, read_by_spark, read_by_pyiceberg)
            for done in [pool.submit(read_on, read) for read in readers]:
                done.result()
        process.join()
        assert process.exitcode == 0
        for made in publish.log(PUBLISHES):
            assert made.run_id
            kept.published[f"publish_{made.id}"] = int(made.run_id.removeprefix("readers_"))
        yield kept
    finally:
        process.kill()
        process.join()
        branch.drop_tag(TAG)
        drop_tables()
        drop_pins({read.ref for read in kept.pinned})


@pytest.mark.parametrize("engine", ["trino", "spark", "pyiceberg"])
def test_a_pin_shows_three_tables_of_the_publish_that_it_is_named_by(
    seen: Seen, engine: str
) -> None:
    assert sorted(seen.published.values()) == [*range(1, PUBLISHES + 1)]
    reads = [read for read in seen.pinned if read.engine == engine]
    assert len({read.ref for read in reads}) == PINS
    for read in reads:
        number = seen.published[read.ref]
        assert read.numbers == {(number, number, number)}


@pytest.mark.parametrize("engine", ["trino", "spark", "pyiceberg"])
def test_without_a_pin_each_table_shows_the_rows_of_one_publish(seen: Seen, engine: str) -> None:
    reads = [read for read in seen.single if read.engine == engine]
    assert len({read.numbers for read in reads}) >= PINS / 2
    for read in reads:
        assert len(read.numbers) == 1


# Tags


def rows(opened: Catalog, table: str) -> list[tuple[int, ...]]:
    found = opened.load_table(table).scan().to_arrow().sort_by("row").to_pylist()
    return [tuple(row.values()) for row in found]


@pytest.mark.parametrize("table", TABLES)
def test_a_tag_reads_the_same_on_every_engine_many_publishes_later(seen: Seen, table: str) -> None:
    last, first = ([(row, number) for row in range(3)] for number in (PUBLISHES, 1))
    assert rows(open_catalog(TRUNK), table) == last
    assert rows(SqlCatalog(TAG, **for_pyiceberg(access(TAG))), table) == first
    query = f"select row, number from {TAG}.{table} order by row"
    assert [tuple(row) for row in trino.ask(query)] == first
    trino.drop_catalog(TAG)
    trino.add_catalog(access(TAG))
    assert [tuple(row) for row in trino.ask(query)] == first
    with spark_on(TAG) as ask:
        assert ask(query) == first


def test_a_tag_and_a_pin_can_not_be_written(seen: Seen) -> None:
    pin, table = branch.pin(), TABLES[0]
    branch.create("readers_builder", in_trino=False)
    builder = access("readers_builder")
    try:
        for ref in (TAG, pin):
            opened = SqlCatalog(ref, **for_pyiceberg(access(ref)))
            before = opened.load_table(table).metadata_location
            with pytest.raises(OSError, match="ACCESS_DENIED"):
                opened.load_table(table).append(numbered(0))
            forged = SqlCatalog(ref, **for_pyiceberg(replace(builder, branch=ref)))
            with pytest.raises(OSError, match="ACCESS_DENIED"):
                forged.load_table(table).append(numbered(0))
            insert = f"insert into {ref}.{table} values (0, 0)"
            with pytest.raises(TrinoExternalError):
                trino.ask(insert)
            with spark_on(ref) as ask, pytest.raises(PySparkException, match="Access Denied"):
                ask(insert)
            assert opened.load_table(table).metadata_location == before
    finally:
        branch.drop("readers_builder")
        drop_pins({pin})


# Many tables, many publishes: pointers alone


def test_a_branch_or_a_pin_that_begins_amid_publishes_shows_none_by_half(own_lake: str) -> None:
    tables = [f"table_{number}" for number in range(20)]
    ended = threading.Event()
    with connect("maintenance") as maintenance:  # keys that open nothing: this is all pointers
        maintenance.execute(
            "insert into lake.ready_keys select gen_random_uuid(), 'key', 'secret',"
            " now() + interval '9 days' from generate_series(1, 50000)"
        )

    def publish_all(builder: psycopg.Connection, publisher: psycopg.Connection, at: int) -> None:
        name = f"maker_{at}"
        builder.execute("select lake.create_branch(%s, 'test', '1 day')", [name])
        builder.execute("delete from iceberg_tables where catalog_name = %s", [name])
        with builder.cursor() as cursor:
            cursor.executemany(
                "insert into iceberg_tables values (%s, 'silver', %s, %s, null, 'TABLE')",
                [(name, table, f"{table} of {at}") for table in tables],
            )
        publisher.execute("select lake.publish(%s, 'test', null, null)", [name])

    def publish_on() -> None:
        try:
            with connect("builder") as builder, connect("publisher") as publisher:
                for at in range(300):
                    publish_all(builder, publisher, at)
        finally:
            ended.set()

    def publishes_of(reader: psycopg.Connection, ref: str) -> tuple[set[int], int, int]:
        """The publishes that a ref's pointers are of, how many there are, and what it says."""
        found = reader.execute(
            """
            select array_agg(distinct moves.publish_id), count(*), min(refs.publish_id)
            from iceberg_tables
            join lake.moves using (table_namespace, table_name)
            join lake.refs on name = catalog_name
            where catalog_name = %s and metadata_location = after
            """,
            [ref],
        ).fetchone()
        assert found is not None
        return {*found[0]}, found[1], found[2]

    def branch_on() -> list[int]:
        began: list[int] = []
        with connect("builder") as builder:
            while not ended.is_set():
                name = f"branch_{len(began)}"
                builder.execute("select lake.create_branch(%s, 'test', '1 day')", [name])
                publishes, count, said = publishes_of(builder, name)
                assert (publishes, count) == ({said}, len(tables))
                began.append(said)
                builder.execute("select lake.drop_branch(%s)", [name])
        return began

    def pin_on() -> list[int]:
        began: list[int] = []
        with connect("reader") as reader:
            while not ended.is_set():
                row = reader.execute("select lake.pin(null, 'test', '1 day')").fetchone()
                assert row is not None
                publishes, count, said = publishes_of(reader, row[0])
                assert (publishes, count, row[0]) == ({said}, len(tables), f"publish_{said}")
                began.append(said)
        return began

    with connect("builder") as builder, connect("publisher") as publisher:
        publish_all(builder, publisher, 1000)
    with ThreadPoolExecutor() as pool:
        publishing = pool.submit(publish_on)
        began = [pool.submit(read) for read in (branch_on, pin_on)]
        publishing.result()
        for at in began:
            assert len(set(at.result())) > 10, "too few publishes were met for this to tell"
