"""The proof that nothing was lost or bent: silver against the source, row for row."""

import duckdb
import psycopg
import pyarrow as pa
from psycopg import sql

from lake.catalog import catalog
from lake.manifest import source_tables

QUARANTINE = "_quarantine"


def differences(connection: psycopg.Connection) -> dict[str, tuple[int, int]]:
    """For each declared table: the source's rows, and how many rows differ on either side.

    A row of the source must be in silver, or kept out by the quarantine, with the same values. It
    holds when nothing was written since the last build began.
    """
    return {table.qualified: _compare(connection, table.name) for table in source_tables()}


def _compare(connection: psycopg.Connection, name: str) -> tuple[int, int]:
    current = catalog().load_table(f"silver.{name}s").scan().to_arrow()
    columns = [column for column in current.column_names if not column.startswith("_")]
    lake = current.select(columns)
    quarantine = f"silver.{name}s{QUARANTINE}"
    if catalog().table_exists(quarantine):
        kept_out = catalog().load_table(quarantine).scan("on_break <> 'warn'", tuple(columns))
        broken = kept_out.to_arrow()
        once = broken.group_by(columns).aggregate([])  # it has a row for each broken rule
        lake = pa.concat_tables([lake, once.select(columns)], promote_options="permissive")
    source = _rows(connection, name, lake.schema)
    with duckdb.connect() as memory:
        memory.register("lake", lake)
        memory.register("source", source)
        found = memory.execute(
            "select count(*) from ("
            "(from lake except all from source) union all (from source except all from lake))"
        ).fetchone()
    assert found is not None
    return source.num_rows, int(found[0])


def _rows(connection: psycopg.Connection, name: str, schema: pa.Schema) -> pa.Table:
    """The source's rows, in the columns and types of the lake."""
    columns = sql.SQL(", ").join(
        sql.SQL(
            "{}::text"
            if pa.types.is_large_string(field.type) or pa.types.is_string(field.type)
            else "{}"
        ).format(sql.Identifier(field.name))
        for field in schema
    )
    query = sql.SQL("select {} from {}").format(columns, sql.Identifier(name))
    rows = connection.execute(query).fetchall()
    values = zip(*rows, strict=True) if rows else [[] for _ in schema]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)],
        schema=schema,
    )
