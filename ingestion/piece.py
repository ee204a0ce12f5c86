"""A piece of a source table becomes a Parquet file of bronze, value by value.

Values are typed where bronze has an equal type, and else are the text that Postgres prints.
"""

import re
import uuid
from collections.abc import Container, Sequence
from dataclasses import dataclass

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import sql
from pyarrow.fs import S3FileSystem

from ingestion.bronze import NO_ROW, UNHELD
from ingestion.types import TEXT, BronzeType, bronze_type
from lake import source
from lake.credentials import credentials
from lake.manifest import Column
from lake.settings import settings
from lake.source import Snapshot
from lake.source.inspection import Table
from lake.types import canonical

_HELD_DAYS = (-719_162, 2_932_896)
_HELD_MICROSECONDS = (-62_135_596_800_000_000, 253_402_300_799_999_999)
"""The years 1 to 9999, which every reader of bronze knows, since 1970."""


@dataclass(frozen=True)
class File:
    """A file of bronze: where it is, as `s3://bucket/path`, and how many rows it has."""

    path: str
    rows: int


@dataclass(frozen=True)
class Piece:
    """Some pages of a table without partitions, from `first` up to `end`; None is to the last."""

    table: sql.Identifier
    first: int
    end: int | None


class UnheldKeyError(Exception):
    """A row's key has a value that its type in bronze can't hold."""


class _UnheldError(Exception):
    """A value that its type in bronze can't hold, and that was not asked for as text."""


def copy(table: Table, piece: Piece, taken: Snapshot, location: str) -> File:
    """Copy the rows of a piece into one Parquet file.

    Raises UnheldKeyError, with the column's name, where a row would be without its key.
    """
    try:
        return _copy(table, piece, taken, location, unheld=False)
    except _UnheldError:  # few tables have any, and to ask for them costs the source a quarter more
        return _copy(table, piece, taken, location, unheld=True)


def _copy(table: Table, piece: Piece, taken: Snapshot, location: str, *, unheld: bool) -> File:
    typed = [(column, bronze_type(column.type)) for column in table.columns]
    path = f"{location}/data/{taken.lsn}-{piece.first}-{uuid.uuid4()}.parquet"
    rows = 0
    with adbc.connect(source.conninfo()) as connection, connection.cursor() as cursor:
        cursor.execute("set row_security = off")  # an error instead of a part of the rows
        cursor.execute("set transaction isolation level repeatable read, read only")
        cursor.execute(f"set transaction snapshot '{taken.name}'")
        cursor.execute(_select(typed, table.printed, piece, unheld=unheld))
        with _writer(path, table.columns) as writer:
            for batch in cursor.fetch_record_batch():
                landed = _landed(batch, typed, taken, unheld=unheld)
                if bare := [n for n in table.declared.key if landed.column(n).null_count]:
                    raise UnheldKeyError(bare[0])
                writer.write_batch(landed)
                rows += batch.num_rows
    return File(path, rows)


def mark_empty(columns: Sequence[Column], taken: Snapshot, location: str) -> File:
    """Write the row that stands for a snapshot of no rows, which has its LSN by it."""
    path = f"{location}/data/{taken.lsn}-{uuid.uuid4()}.parquet"
    fields = {"_snapshot_lsn": taken.lsn, "_ingested_at": taken.at, UNHELD: NO_ROW}
    with _writer(path, columns) as writer:
        writer.write_table(pa.Table.from_pylist([fields], schema=writer.schema))
    return File(path, 1)


def _writer(path: str, columns: Sequence[Column]) -> pq.ParquetWriter:
    schema = pa.schema(
        [
            *(pa.field(column.name, bronze_type(column.type).arrow) for column in columns),
            pa.field(UNHELD, pa.string()),
            pa.field("_snapshot_lsn", pa.int64()),
            pa.field("_ingested_at", pa.timestamp("us", "UTC")),
        ]
    )
    where = path.removeprefix("s3://")
    return pq.ParquetWriter(where, schema, filesystem=_object_store(), compression="zstd")


_READ_AS_PRINTED = re.compile(r"text|character varying(\(\d+\))?")
Typed = Sequence[tuple[Column, BronzeType]]


def _select(typed: Typed, printed: Container[str], piece: Piece, *, unheld: bool) -> str:
    """The query for the rows of a piece: each column as `_value` has it, and perhaps `_unheld`."""
    values = [
        _printed(sql.Identifier(column.source_name))
        if column.source_name in printed
        else _value(column, kind)
        for column, kind in typed
    ]
    pages = sql.SQL("ctid >= {}").format(sql.Literal(f"({piece.first},0)"))
    if piece.end is not None:  # the last piece takes what was appended since
        pages += sql.SQL(" and ctid < {}").format(sql.Literal(f"({piece.end},0)"))
    query = sql.SQL("select {} from only {} where {}").format(
        sql.SQL(", ").join([*values, *([_unheld(typed)] if unheld else [])]), piece.table, pages
    )
    return query.as_string()


def _value(column: Column, kind: BronzeType) -> sql.Composable:
    """A column as the driver reads it exactly, or as Postgres prints it."""
    name = sql.Identifier(column.source_name)
    if pa.types.is_decimal(kind.arrow):
        return sql.SQL("{}::text").format(name)
    is_read_as_printed = _READ_AS_PRINTED.fullmatch(canonical(column.type))
    return _printed(name) if kind == TEXT and not is_read_as_printed else name


def _printed(name: sql.Identifier) -> sql.Composable:
    """A value as its type's output function writes it, which a cast to text need not do."""
    return sql.SQL("case when {0} is distinct from null then concat({0}) end").format(name)


def _unheld(typed: Typed) -> sql.Composable:
    """A row's values that bronze's types can't hold, as JSON; null where there are none."""
    outside = {}
    for column, kind in typed:
        name = sql.Identifier(column.source_name)
        if pa.types.is_decimal(kind.arrow):
            outside[column.source_name] = sql.SQL("{} = 'NaN'").format(name)
        elif pa.types.is_temporal(kind.arrow):
            years = "{0} < '0001-01-01' or {0} >= '10000-01-01'"
            outside[column.source_name] = sql.SQL(years).format(name)
    pairs = [
        part
        for name, is_outside in outside.items()
        for part in (
            sql.Literal(name),
            sql.SQL("case when {} then concat({}) end").format(is_outside, sql.Identifier(name)),
        )
    ]
    return sql.SQL("case when {} then json_strip_nulls(json_object(array[{}]))::text end").format(
        sql.SQL(" or ").join(outside.values()), sql.SQL(", ").join(pairs)
    )


def _landed(
    batch: pa.RecordBatch, typed: Typed, taken: Snapshot, *, unheld: bool
) -> pa.RecordBatch:
    """Rows as bronze has them, of what the source answered."""
    columns = []
    for (_, kind), column in zip(typed, batch.columns, strict=False):
        columns.append(_typed(column, kind.arrow))
        if columns[-1].null_count > column.null_count and not unheld:
            raise _UnheldError
    rows = batch.num_rows
    columns.append(batch.column(len(typed)) if unheld else pa.nulls(rows, pa.string()))
    columns.append(pa.repeat(pa.scalar(taken.lsn, pa.int64()), rows))
    columns.append(pa.repeat(pa.scalar(taken.at, pa.timestamp("us", "UTC")), rows))
    names = [column.name for column, _ in typed]
    return pa.record_batch(columns, names=[*names, UNHELD, "_snapshot_lsn", "_ingested_at"])


def _typed(column: "pa.Array[pa.Scalar]", arrow: pa.DataType) -> "pa.Array[pa.Scalar]":
    """A column in its bronze type; null for what that can't hold."""
    if pa.types.is_decimal(arrow):
        return pc.cast(_held(column, pc.not_equal(column, "NaN")), arrow)
    typed = column if column.type == arrow else pc.cast(column, arrow)
    if not pa.types.is_temporal(arrow):
        return typed
    first, last = _HELD_DAYS if pa.types.is_date(arrow) else _HELD_MICROSECONDS
    number = typed.cast(pa.int32() if pa.types.is_date(arrow) else pa.int64())
    return _held(typed, pc.and_(pc.greater_equal(number, first), pc.less_equal(number, last)))


def _held(column: "pa.Array[pa.Scalar]", is_held: "pa.Array[pa.Scalar]") -> "pa.Array[pa.Scalar]":
    return column if is_held.false_count == 0 else pc.if_else(is_held, column, None)


def _object_store() -> S3FileSystem:
    return S3FileSystem(
        access_key="ingest",
        secret_key=credentials().roles["ingest"].s3_secret_key,
        endpoint_override=settings().s3_endpoint,
        region="us-east-1",
    )
