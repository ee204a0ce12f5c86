"""The hand-over: a replication slot, tables copied as of its LSN, and no change missed.

The slot exports a snapshot of the source; the copies read that snapshot, side by side; capture
streams what comes after it. Nothing at the source is locked.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
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
from pyiceberg.table import Table as Iceberg

from ingestion import bronze
from ingestion.source import Table, inspect, set_up
from ingestion.types import BronzeType, bronze_type
from lake import lag, source
from lake.catalog import alone, catalog
from lake.credentials import credentials
from lake.errors import LakeError
from lake.manifest import SourceTable
from lake.settings import settings

PAGES_PER_RANGE = 32_768  # 256 MiB of the source's table: one file of bronze
NOTHING = -1
"""In place of a first page: the one row, without a value, that stands for a snapshot of no rows."""
FIRST_DAY = -2_440_588
"""Postgres's earliest date, 4714-11-24 BC, in days since 1970."""
SLOT_LSN = "lake.slot-lsn"
"""The property of `bronze.changes` that says, by its LSN, that the slot's bulk load is complete."""


@dataclass(frozen=True)
class Load:
    """What one bulk load did. `rows` is by source table; `seconds` is wall time."""

    lsn: int
    rows: dict[str, int]
    seconds: float


Loaded = tuple[int, dict[str, int]]
"""The LSN of a load, and its rows by source table."""
Progress = Callable[[str, int, int], None]
"""Told a table's name, its pages copied and its pages in all."""


def ingest(
    declared: list[SourceTable],
    owner: Callable[[], psycopg.Connection] | None,
    restart_capture: Callable[[], None],
    progress: Progress,
    again: Sequence[str] = (),
) -> Load | None:
    """Copy what bronze lacks of the declared tables, so that their changes go on from there.

    The first load leaves the slot for capture to stream from. A later one takes the tables that
    were declared since, and those named in `again`, while capture and the source go on. What was
    interrupted is finished by the next. Returns None where there was nothing to do.

    `owner` opens a connection that may set up the source, where the lake has one;
    `restart_capture` has the capture job read the publication again.

    Raises LakeError where the source is not as declared, its slot was lost, or `again` names a
    table that is not declared.
    """
    with alone("lake ingest", "ingest"), source.connect() as connection:
        tables = inspect(connection, declared)
        named = _named(tables, again)
        changes = bronze.create_changes()
        bronze.create_schema_changes()
        slot = source.slot(connection)
        begun = changes.properties.get(SLOT_LSN)
        if begun:
            _check_slot(slot)
            for table in tables:
                if table in named or not table.published:  # remembered, should this be killed
                    bronze.forget_snapshot(table.declared.bronze)
        set_up(connection, tables, owner)
        began = time.monotonic()
        if begun:
            lacking = [t for t in tables if not _is_loaded(t, int(begun))]
            if not lacking:
                return None
            lsn, rows = _load_beside_capture(lacking, restart_capture, progress)
        else:
            if slot:  # of a load that did not finish
                connection.execute("select pg_drop_replication_slot(%s)", [settings().source.slot])
            lsn, rows = _load_first(tables, changes, progress)
    return Load(lsn, rows, time.monotonic() - began)


def _named(tables: list[Table], names: Sequence[str]) -> list[Table]:
    """The tables of those names, with or without their schema."""
    known = {name: t for t in tables for name in (t.declared.name, t.declared.qualified)}
    if unknown := [name for name in names if name not in known]:
        raise LakeError(
            f"no table `{unknown[0]}` is declared: "
            f"choose of {', '.join(t.declared.qualified for t in tables)}"
        )
    return [known[name] for name in names]


def _check_slot(slot: source.Slot | None) -> None:
    if slot is None or slot.wal_status == "lost":
        state = "is gone" if slot is None else "was invalidated: its WAL is gone"
        raise LakeError(
            f"the slot `{settings().source.slot}` {state}, so changes were missed: "
            "start over with `lake down --wipe` and `lake up`"
        )


def _is_loaded(table: Table, slot_lsn: int) -> bool:
    lsn = bronze.snapshot_lsn(table.declared.bronze)
    return lsn is not None and lsn >= slot_lsn


def _load_first(tables: list[Table], changes: Iceberg, progress: Progress) -> Loaded:
    """Load all tables under the slot that capture will stream from.

    If that fails, the slot is dropped, so that it holds back no WAL.
    """
    name = settings().source.slot
    with _exported_snapshot(name) as (lsn, snapshot):
        try:
            rows = _copy(tables, lsn, snapshot, progress)
        except BaseException:
            with source.connect() as connection:
                connection.execute("select pg_drop_replication_slot(%s)", [name])
            raise
    with changes.transaction() as transaction:
        transaction.set_properties({SLOT_LSN: str(lsn)})
    return lsn, rows


def _load_beside_capture(
    tables: list[Table], restart_capture: Callable[[], None], progress: Progress
) -> Loaded:
    """Load tables that are published by now, under a slot that goes with its connection.

    Making that slot waits for the transactions that are under way, so whatever its snapshot does
    not hold began when the tables were published, and reaches capture.
    """
    restart_capture()
    before = lag.catch_up()
    with ExitStack() as held:
        if any(bronze.holds_rows(table.declared.bronze) for table in tables):
            # A run would read past the new snapshot before it is there, and not go back to it.
            held.enter_context(alone("lake run", "ingest"))
        temporary = f"{settings().source.slot}_{uuid.uuid4().hex[:12]}"
        lsn, snapshot = held.enter_context(_exported_snapshot(temporary, temporary=True))
        lag.catch_up()
        lsn = _last_commit(before, lsn)
        return lsn, _copy(tables, lsn, snapshot, progress)


def _last_commit(before: int, lsn: int) -> int:
    """The LSN of the last captured commit between two LSNs, of which a later one has landed.

    This is what a snapshot at `lsn` goes by: no transaction that it holds was committed later, and
    each that it does not hold names this commit, or a later one, as prior. By `lsn` itself those
    changes would be missed that a transaction made before it was committed as the first after it.
    """
    between = f"prior_commit_lsn >= {before} and prior_commit_lsn < {lsn}"
    landed = catalog().load_table(lag.CHANGES).scan(between, selected_fields=("prior_commit_lsn",))
    return int(pc.max(landed.to_arrow()["prior_commit_lsn"]).as_py())


@contextmanager
def _exported_snapshot(slot: str, *, temporary: bool = False) -> Iterator[tuple[int, str]]:
    """Create a slot; yields its LSN and a snapshot's name, valid until the block ends."""
    with psycopg.connect(source.conninfo(), autocommit=True, replication="database") as walsender:
        create = "CREATE_REPLICATION_SLOT {} {} LOGICAL pgoutput (SNAPSHOT 'export')"  # in capitals
        kind = sql.SQL("TEMPORARY" if temporary else "")
        row = walsender.execute(sql.SQL(create).format(sql.Identifier(slot), kind)).fetchone()
        assert row is not None
        _, consistent_point, snapshot, _ = row
        high, low = consistent_point.split("/")
        yield (int(high, 16) << 32) + int(low, 16), snapshot


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
            rows[table.declared.qualified] = sum(f.rows for f in files)
            if not rows[table.declared.qualified]:
                files = [copy(NOTHING)]
            bronze.commit_snapshot(target, [f.path for f in files if f.rows], lsn)
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
    """Copy the rows of `PAGES_PER_RANGE` pages from page `first` into one Parquet file.

    Where that is NOTHING, copy a row of nulls: a snapshot has an LSN by its rows.
    """
    path = f"{location}/data/{lsn}-{first}-{uuid.uuid4()}.parquet"
    types = [(column.name, bronze_type(column.type)) for column in table.columns]
    fields = [pa.field(name, kind.arrow) for name, kind in types]
    fields += [pa.field(bronze.UNHELD, pa.string()), pa.field("_snapshot_lsn", pa.int64())]
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
                ]
                columns += [pa.nulls(batch.num_rows, pa.string())]
                columns += [pa.repeat(stamp, batch.num_rows) for stamp in stamps]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                rows += batch.num_rows
    return _File(path, rows)


def _select(table: Table, types: list[tuple[str, BronzeType]], first: int) -> str:
    columns = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(name)) if kind.text else sql.Identifier(name)
        for name, kind in types
    )
    if first == NOTHING:
        nothing = sql.SQL("select {} from (select) as one left join only {} on false")
        return nothing.format(columns, table.identifier).as_string()
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
