"""The floor: the same tables made by hand with DuckDB alone, from the same bronze.

    python -m benchmarks.floor FILE           builds or goes on with the tables of a database file
    python -m benchmarks.floor FILE QUERY …   seconds of each query, as JSON

One process has the machine to itself and keeps its tables in a file of its own: no catalog, no
branches, no other reader, no contracts, no tests. The models stand in `floor.sql`.
"""

import json
import sys
import time
from pathlib import Path
from string import Template

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import S3FileSystem

from ingestion.types import TEXT, bronze_type
from lake.catalog import access, catalog
from lake.lag import CHANGES, COMPLETE_LSN, SNAPSHOT_LSN
from lake.manifest import SourceTable, source_tables
from lake.settings import settings

MEMORY, THREADS = "6GB", 2
LAYERS = {
    "silver": ("loans", "loans_history", "loans_quarantine", "loan_payments"),
    "gold": ("dim_dates", "fct_loans", "ftr_loans", "agg_loan_approvals"),
}
READ = {
    "loan": ("loan_changes", "loans_history"),
    "loan_payment": ("payment_changes", "loan_payments"),
}
"""Of each source table: where its changes are put, and the table that tells how far it was read."""
CHANGE = Template(
    """
    create or replace temp table $changes as
    select
        $bulk_columns,
        'r' as op,
        _snapshot_lsn - 1 as _commit_lsn,
        0::bigint as _ordinal,
        null::timestamptz as _committed_at,
        _ingested_at
    from bulk
    union all
    select
        $columns,
        op,
        _commit_lsn,
        _ordinal,
        _committed_at,
        _ingested_at
    from (
        select
            op,
            from_json(coalesce(after, before), '$image') as image,
            commit_lsn as _commit_lsn,
            ordinal as _ordinal,
            committed_at as _committed_at,
            ingested_at as _ingested_at
        from landed
        where
            source_table = '$table' and op in ('c', 'u', 'd')
            and commit_lsn > greatest($since, $snapshot - 1) and commit_lsn <= $complete
    )
    """
)
"""The workload changes no key and has no values that are left out, but in deletes."""


def rows(name: str, row_filter: str) -> ds.Dataset | pa.Table:
    """The files of a table of bronze that may hold what is asked for; it has no deletes."""
    opened, table = access(), catalog().load_table(name)
    files = S3FileSystem(
        access_key=opened.access_key,
        secret_key=opened.secret_key,
        endpoint_override=settings().s3_endpoint,
        region="us-east-1",
    )
    planned = table.scan(row_filter).plan_files()
    paths = [task.file.file_path.removeprefix("s3://") for task in planned]
    if not paths:
        return table.schema().as_arrow().empty_table()
    return ds.dataset(paths, filesystem=files, format="parquet")


def take_changes(database: duckdb.DuckDBPyConnection, table: SourceTable) -> None:
    """Have the typed changes of a source table, from where the last build ended, in a table."""
    into, reached_by = READ[table.name]
    known = database.execute(f"select 1 from duckdb_tables() where table_name = '{reached_by}'")
    since = -1
    if known.fetchall():
        query = f"select coalesce(max(_commit_lsn), -1) from {reached_by}"
        ((since,),) = database.execute(query).fetchall()
    snapshot = int(catalog().load_table(table.bronze).properties[SNAPSHOT_LSN])
    complete = int(catalog().load_table(CHANGES).properties.get(COMPLETE_LSN, -1))
    taken = f"_snapshot_lsn = {snapshot} and _snapshot_lsn - 1 > {since}"
    database.register("bulk", rows(table.bronze, f"{taken} and {table.key[0]} is not null"))
    wanted = f"commit_lsn > {max(since, snapshot - 1)} and commit_lsn <= {complete}"
    landed = rows(CHANGES, f"source_table = '{table.qualified}' and {wanted}")
    database.register("landed", landed)
    values = []
    for column in table.columns:
        text = f"image.{column.name}"
        if column.type == "bytea":
            text = f"unhex(substr({text}, 3))"
        held = bronze_type(column.type) != TEXT
        values.append(f"{text}::{column.type if held else 'varchar'} as {column.name}")
    filled = CHANGE.substitute(
        changes=into,
        bulk_columns=", ".join(column.name for column in table.columns),
        columns=", ".join(values),
        since=since,
        snapshot=snapshot,
        complete=complete,
        image=json.dumps({column.name: "varchar" for column in table.columns}),
        table=table.qualified,
    )
    database.execute(filled)


def build(database: duckdb.DuckDBPyConnection) -> None:
    """Make the tables, or bring them up to bronze."""
    for table in source_tables():
        take_changes(database, table)
    # Each statement by itself: DuckDB 2.0.0 joins to nothing what a large insert of the same
    # transaction has put into a table.
    database.execute(Path(__file__).with_name("floor.sql").read_text())
    for layer, names in LAYERS.items():
        database.execute(f"create schema if not exists {layer}")
        for name in names:
            database.execute(f"create or replace view {layer}.{name} as from main.{name}")


def main(file: str, *queries: str) -> None:
    with duckdb.connect(file) as database:
        for option, value in {
            "memory_limit": MEMORY,
            "threads": THREADS,
            "TimeZone": "UTC",
        }.items():
            database.execute(f"set {option} = '{value}'")
        if not queries:
            build(database)
            return
        took = []
        for query in queries:
            began = time.perf_counter()
            database.execute(query).fetchall()
            took.append(time.perf_counter() - began)
        sys.stdout.write(json.dumps(took))


if __name__ == "__main__":
    main(*sys.argv[1:])
