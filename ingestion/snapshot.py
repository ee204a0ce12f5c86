"""The hand-over: one replication slot, every table copied as of its LSN, and no change missed.

The slot exports a snapshot of the source; the copies read that snapshot, side by side; capture
streams what the slot holds, which is everything after it. Nothing at the source is locked.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event

import adbc_driver_postgresql.dbapi as adbc
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import sql
from pyarrow.fs import S3FileSystem

from ingestion import bronze
from ingestion.source import Table, inspect, set_up
from ingestion.types import BronzeType, bronze_type
from lake import source
from lake.catalog import catalog
from lake.credentials import credentials
from lake.errors import LakeError
from lake.manifest import SourceTable
from lake.settings import settings

PAGES_PER_RANGE = 32_768  # 256 MiB of the source's table: one file of bronze
FIRST_DAY = -2_440_588
"""Postgres's earliest date, 4714-11-24 BC, in days since 1970."""
SLOT_LSN = "lake.slot-lsn"
"""The property of `bronze.changes` that says, by its LSN, that a slot's bulk load is complete."""


@dataclass(frozen=True)
class Load:
    """What one bulk load did. `rows` is by source table; `seconds` is wall time."""

    lsn: int
    rows: dict[str, int]
    seconds: float


Progress = Callable[[str, int, int], None]
"""Told a table's name, its pages copied and its pages in all."""


def ingest(
    declared: list[SourceTable], owner: Callable[[], psycopg.Connection] | None, progress: Progress
) -> Load | None:
    """Copy the declared tables of the source, and leave a slot that streams on from there.

    Returns None where that was done before. An interrupted load is begun anew. `owner` opens a
    connection that may set up the source, where the lake has one.

    Raises LakeError where the source is not as declared, or its slot was lost.
    """
    with source.connect() as connection:
        tables = inspect(connection, declared)
        set_up(connection, tables, owner)
        changes = bronze.create_changes()
        slot = source.slot(connection)
        if loaded := changes.properties.get(SLOT_LSN):
            _check_slot(slot)
            _check_loaded(tables, int(loaded))
            return None
        if slot:  # of a load that did not finish
            connection.execute("select pg_drop_replication_slot(%s)", [settings().source.slot])
        began = time.monotonic()
        with _exported_snapshot() as (lsn, snapshot):
            rows = _copy(tables, lsn, snapshot, progress)
        with changes.transaction() as transaction:
            transaction.set_properties({SLOT_LSN: str(lsn)})
    return Load(lsn, rows, time.monotonic() - began)


def _check_slot(slot: source.Slot | None) -> None:
    if slot is None or slot.wal_status == "lost":
        state = "is gone" if slot is None else "was invalidated: its WAL is gone"
        raise LakeError(
            f"the slot `{settings().source.slot}` {state}, so changes were missed: "
            "start over with `lake down --wipe` and `lake up`"
        )


def _check_loaded(tables: list[Table], lsn: int) -> None:
    for table in tables:
        if not catalog("ingest").table_exists(table.declared.bronze):
            raise LakeError(
                f"{table.declared.qualified} was declared after the bulk load at LSN {lsn}: "
                "start over with `lake down --wipe` and `lake up`"
            )


@contextmanager
def _exported_snapshot() -> Iterator[tuple[int, str]]:
    """Create the slot; yields its LSN and a snapshot's name, valid until the block ends.

    If the block fails, the slot is dropped, so that it holds back no WAL.
    """
    name = sql.Identifier(settings().source.slot)
    with psycopg.connect(source.conninfo(), autocommit=True, replication="database") as walsender:
        create = (
            "CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export')"  # in capitals only
        )
        row = walsender.execute(sql.SQL(create).format(name)).fetchone()
        assert row is not None
        _, consistent_point, snapshot, _ = row
        high, low = consistent_point.split("/")
        try:
            yield (int(high, 16) << 32) + int(low, 16), snapshot
        except BaseException:
            walsender.execute(sql.SQL("DROP_REPLICATION_SLOT {}").format(name))
            raise


def _copy(tables: list[Table], lsn: int, snapshot: str, progress: Progress) -> dict[str, int]:
    """Copy the tables, range by range, side by side; each is committed whole."""
    ingested_at = datetime.now(UTC)
    rows: dict[str, int] = {}
    stop = Event()
    with ThreadPoolExecutor(max_workers=settings().bulk_workers) as pool:
        for table in tables:
            target = bronze.create_snapshots(table.declared.bronze, table.columns)
            copied = 0

            def copy(first: int, table: Table = table, location: str = target.location()) -> _File:
                if stop.is_set():
                    raise InterruptedError
                return _copy_range(table, first, lsn, snapshot, ingested_at, location)

            futures = {
                pool.submit(copy, first): first
                for first in range(0, max(table.pages, 1), PAGES_PER_RANGE)
            }
            try:
                for future in _as_they_end(futures):
                    future.result()
                    copied += PAGES_PER_RANGE
                    progress(table.declared.qualified, min(copied, table.pages), table.pages)
            except BaseException:
                stop.set()
                raise
            files = [future.result() for future in futures]
            target.add_files([f.path for f in files if f.rows], check_duplicate_files=False)
            rows[table.declared.qualified] = sum(f.rows for f in files)
    return rows


def _as_they_end(futures: "dict[Future[_File], int]") -> "Iterator[Future[_File]]":
    pending = set(futures)
    while pending:
        done, pending = wait(pending, return_when=FIRST_EXCEPTION, timeout=0.2)
        yield from done


@dataclass(frozen=True)
class _File:
    path: str
    rows: int


def _copy_range(
    table: Table, first: int, lsn: int, snapshot: str, ingested_at: datetime, location: str
) -> _File:
    """Copy the rows of `PAGES_PER_RANGE` pages from page `first` into one Parquet file."""
    path = f"{location}/data/{lsn}-{first}-{uuid.uuid4()}.parquet"
    types = [(column.name, bronze_type(column.type)) for column in table.columns]
    fields = [pa.field(name, kind.arrow) for name, kind in types]
    fields += [pa.field("_snapshot_lsn", pa.int64())]
    fields += [pa.field("_ingested_at", pa.timestamp("us", "UTC"))]
    schema = pa.schema(fields)
    stamps = (pa.scalar(lsn, pa.int64()), pa.scalar(ingested_at, pa.timestamp("us", "UTC")))
    rows = 0
    with adbc.connect(source.conninfo()) as connection, connection.cursor() as cursor:
        cursor.execute("set transaction isolation level repeatable read, read only")
        cursor.execute(f"set transaction snapshot '{snapshot}'")
        cursor.execute(_select(table, types, first))
        with pq.ParquetWriter(
            path.removeprefix("s3://"), schema, filesystem=_object_store(), compression="zstd"
        ) as writer:
            for batch in cursor.fetch_record_batch():
                columns = [
                    _typed(batch.column(i), kind, f"{table.declared.qualified}.{name}")
                    for i, (name, kind) in enumerate(types)
                ] + [pa.repeat(stamp, batch.num_rows) for stamp in stamps]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                rows += batch.num_rows
    return _File(path, rows)


def _select(table: Table, types: list[tuple[str, BronzeType]], first: int) -> str:
    columns = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(name)) if kind.text else sql.Identifier(name)
        for name, kind in types
    )
    pages = f"ctid >= '({first},0)'"
    if first + PAGES_PER_RANGE < table.pages:  # the last range takes what was appended since
        pages += f" and ctid < '({first + PAGES_PER_RANGE},0)'"
    query = sql.SQL("select {} from only {} where {}").format(
        columns,
        table.identifier,
        sql.SQL(pages),
    )
    return query.as_string()


def _typed(column: "pa.Array[pa.Scalar]", kind: BronzeType, name: str) -> "pa.Array[pa.Scalar]":
    """`column` in its bronze type. Raises LakeError where that can't hold one of its values."""
    try:
        typed = column if column.type == kind.arrow else pc.cast(column, kind.arrow)
    except pa.ArrowInvalid as error:  # a numeric's NaN or infinity
        raise LakeError(f"{name} has a value that bronze can't hold: {error}") from None
    if pa.types.is_temporal(kind.arrow):
        whole = pa.int64() if kind.arrow.bit_width == 64 else pa.int32()
        earliest = pc.min(typed.cast(whole)).as_py() or 0
        days = earliest if pa.types.is_date(kind.arrow) else earliest // 86_400_000_000
        if days < FIRST_DAY:  # the driver shifts Postgres's infinity past the end of the integers
            raise LakeError(f"{name} has an infinite time, which bronze can't hold")
    return typed


def _object_store() -> S3FileSystem:
    return S3FileSystem(
        access_key="ingest",
        secret_key=credentials().roles["ingest"].s3_secret_key,
        endpoint_override=settings().s3_endpoint,
        region="us-east-1",
    )
