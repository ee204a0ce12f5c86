"""What branching and publishing cost, with 10, 1,000 and 10,000 tables.

    uv run lake up && uv run python -m benchmarks.branches

It works on the running stack, in a database and a bucket of its own, which are dropped. The many
tables are rows of pointers, which is all that a branch or a publish touches. Beside it stands what
one would do otherwise with Iceberg alone: a branch in each table, one commit each, which is neither
one statement nor one transaction; that is measured on real tables.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import duckdb
import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

DATABASE = "benchbranches"
SIZES = (10, 1_000, 10_000)
ROUNDS = 20
CLIENTS, SECONDS = 4, 10
ROWS, FILES = 1_000_000, 10
CHANGES = {
    "one_file": "update silver.big set loan_status = 2 where id < 1000",
    "all_files": "update silver.big set loan_status = 2 where id % 1000 = 0",
    "appended": "insert into silver.big select id + 1000000, * except (id) from silver.big"
    " where id < 1000",
    "deleted": "delete from silver.big where id < 1000",
}
"""What is done to the big table, each on a branch of its own."""
console = Console(width=110)


@contextmanager
def own_lake() -> Iterator[None]:
    """An empty lake on the running servers."""
    from lake import catalog, object_store
    from lake.stack import postgres

    postgres.create_databases()
    object_store.create()
    catalog.create()
    try:
        yield
    finally:
        with postgres.LAKE.admin() as admin:
            admin.execute(f"drop database {DATABASE} with (force)")


def sql(role: str, query: str, *arguments: object) -> Callable[[], None]:
    """A statement of a role, to be timed on a connection that is open."""
    from lake import catalog

    connection = catalog.connect(role)  # type: ignore[arg-type]
    return lambda: (connection.execute(query.encode(), arguments), None)[1]


def owner(query: str, *arguments: object) -> None:
    from lake import catalog
    from lake.credentials import credentials

    with catalog._connect(catalog.OWNER, credentials().catalog_password) as connection:
        connection.execute(query.encode(), arguments)


def pointers(count: int) -> None:
    """Have `lake` be so many tables, all that was there before gone."""
    owner("truncate iceberg_tables, lake.refs, lake.bases, lake.keys, lake.publishes, lake.moves")
    owner(  # which open nothing: it is all pointers
        "insert into lake.ready_keys select gen_random_uuid(), 'k', 's', now() + interval '9 days'"
        " from generate_series(1, 10000)"
    )
    owner(
        """
        insert into iceberg_tables
        select
            'lake', 'silver', 'table_' || n,
            's3://lake/warehouse/silver/table_' || n || '/metadata/00001-' || gen_random_uuid()
            || '.metadata.json',
            null, 'TABLE'
        from generate_series(1, %s) as n
        """,
        count,
    )
    owner("analyze iceberg_tables")


def create(name: str) -> Callable[[], None]:
    lifetime = timedelta(days=1)
    return sql("builder", "select lake.create_branch(%s, 'b', %s)", name, lifetime)


def change(name: str, count: int) -> None:
    """Move so many pointers of a branch, as engines would."""
    owner(
        "update iceberg_tables set metadata_location = metadata_location || %s"
        " where catalog_name = %s and substr(table_name, 7)::int <= %s",
        name,
        name,
        count,
    )


def timed(act: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def median(times: list[float]) -> str:
    return f"{statistics.median(times):.1f}" if times else "—"


def measure(tables: int) -> list[str]:
    """Medians in ms: create, publish 10 and 100, the query of a diff, drop."""
    from lake.branches import diff

    pointers(tables)
    created, dropped, compared = [], [], []
    published: dict[int, list[float]] = {10: [], 100: []}
    for number in range(ROUNDS):
        created.append(timed(create(f"b{number}")))
        dropped.append(timed(sql("builder", "select lake.drop_branch(%s)", f"b{number}")))
    for count, times in published.items():
        if count > tables:
            continue
        for number in range(ROUNDS):
            name = f"p{count}_{number}"
            create(name)()
            change(name, count)
            if count == 10:
                compared.append(timed(partial(diff._pointers, name, None)))
            publish = sql("publisher", "select lake.publish(%s, 'b', null, null)", name)
            times.append(timed(publish))
    figures = [created, published[10], published[100], compared, dropped]
    return [f"{tables:,}", *map(median, figures)]


def contention(overlapping: bool) -> tuple[float, int]:
    """Publishes in a second by several clients at once, of 1,000 tables; and how many were told."""
    from lake.errors import LakeError

    pointers(1_000)
    done, told = [0], [0]
    until = time.monotonic() + SECONDS

    def client(number: int) -> None:
        from lake.branches import branch

        turn = 0
        while time.monotonic() < until:
            turn += 1
            name = f"c{number}_{turn}"
            create(name)()
            owner(
                "update iceberg_tables set metadata_location = metadata_location || 'x'"
                " where catalog_name = %s and table_name = %s",
                name,
                "table_1" if overlapping else f"table_{number + 1}",
            )
            try:
                branch.call("publisher", "select lake.publish(%s, 'b', null, null)", name)
                done[0] += 1
            except LakeError:
                told[0] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done[0] / SECONDS, told[0]


def real(count: int) -> list[str]:
    """The whole verb on real tables, in ms, and Iceberg's own branches in each table."""
    from lake.branches import branch, publish
    from lake.catalog import open_catalog

    owner("truncate iceberg_tables, lake.refs, lake.bases, lake.keys, lake.publishes, lake.moves")
    rows = pa.table({"id": [1, 2, 3]})
    branch.create("landing")
    opened = open_catalog("landing")
    for number in range(count):
        opened.create_table(f"silver.t{number}", rows.schema).append(rows)
    publish.publish("landing")
    ours = timed(lambda: branch.create("mine"))
    opened = open_catalog("mine")
    branch.take("mine", [f"silver.t{number}" for number in range(count)])
    for number in range(count):
        opened.load_table(f"silver.t{number}").append(rows)
    theirs_publish, theirs = 0.0, 0.0
    published = timed(lambda: publish.publish("mine"))
    lake = open_catalog("lake", "maintenance")
    for number in range(count):
        table = lake.load_table(f"silver.t{number}")
        snapshot = table.current_snapshot()
        assert snapshot
        began = time.perf_counter()
        table.manage_snapshots().create_branch(snapshot.snapshot_id, "mine").commit()
        theirs += (time.perf_counter() - began) * 1000
        table.append(rows, branch="mine")
        began = time.perf_counter()
        head = table.refresh().snapshot_by_name("mine")
        assert head
        table.manage_snapshots().set_current_snapshot(head.snapshot_id).commit()
        theirs_publish += (time.perf_counter() - began) * 1000
    return [str(count), *(f"{t:,.0f}" for t in (ours, theirs, published, theirs_publish))]


def big() -> None:
    """Have `lake` be one table, which is merged on read as dbt's tables are."""
    from lake.branches import branch, publish
    from lake.catalog import open_catalog

    owner("truncate iceberg_tables, lake.refs, lake.bases, lake.keys, lake.publishes, lake.moves")
    branch.create("landing")
    ids, size = np.arange(ROWS), ROWS // FILES
    numbers = {f"number_{n}": np.random.default_rng(n).normal(size=ROWS) for n in range(20)}
    rows = pa.table({"id": ids, "loan_status": ids % 2} | numbers)
    on_read = dict.fromkeys(("write.update.mode", "write.delete.mode"), "merge-on-read")
    table = open_catalog("landing").create_table("silver.big", rows.schema, properties=on_read)
    for start in range(0, ROWS, size):
        table.append(rows.slice(start, size))
    publish.publish("landing")


def compare(name: str, statement: str) -> list[str]:
    """Seconds of `lake diff` after a statement on a branch, and of comparing all rows by DuckDB."""
    from lake.branches import branch, diff
    from lake.catalog import access, for_spark, open_catalog
    from lake.stack import spark

    branch.create(name)
    branch.take(name, ["silver.big"])
    session = spark.session(for_spark(access(name)))
    session.sql(statement).collect()
    session.stop()

    def whole() -> None:
        was, now = (open_catalog(on).load_table("silver.big").scan() for on in ("lake", name))
        with duckdb.connect() as connection:
            connection.register("was", was.to_arrow())
            connection.register("now", now.to_arrow())
            for query in ("from was except all from now", "from now except all from was"):
                connection.execute(f"select count(*) from ({query})").fetchall()

    found: list[diff.Diff] = []
    ours = timed(lambda: found.append(diff.diff(name, keys={"silver.big": ("id",)})))
    theirs = timed(whole)
    (table,) = found[0].tables
    assert table.rows
    told = f"+{table.rows.added} -{table.rows.removed} ~{table.rows.changed}"
    return [name, told, str(table.files_read), f"{ours / 1000:.2f}", f"{theirs / 1000:.2f}"]


def main() -> None:
    """Measure, and print."""
    os.environ["LAKE_CATALOG_DATABASE"] = os.environ["LAKE_BUCKET"] = DATABASE
    os.environ["LAKE_PORTS__TRINO"] = "1"  # it is not told
    with own_lake():
        table = Table("TABLES", "create", "publish 10", "publish 100", "diff's query", "drop")
        for size in SIZES:
            table.add_row(*measure(size))
        console.print("[bold]SQL, ms, median of 20[/]", table)
        table = Table("TABLES", "branch: ours", "in each table", "publish: ours", "in each table")
        for size in (10, 100):
            table.add_row(*real(size))
        console.print("[bold]the whole verb on real tables, ms, one run[/]", table)
        big()
        table = Table("CHANGE", "rows", "files read", "lake diff", "all rows compared")
        for name, statement in CHANGES.items():
            table.add_row(*compare(name, statement))
        console.print(f"[bold]a diff of {ROWS:,} rows in {FILES} files, s, one run[/]", table)
        for overlapping in (False, True):
            rate, told = contention(overlapping)
            what = "the same table" if overlapping else "tables of their own"
            console.print(
                f"{CLIENTS} clients on {what}: {rate:.0f} branches made, written and published "
                f"in a second, {told} conflicts told in {SECONDS} s"
            )


if __name__ == "__main__":
    typer.run(main)
