"""The hand-over: a replication slot, tables copied as of its LSN, and no change missed.

The slot exports a snapshot of the source; the copies read that snapshot, side by side; capture
streams what comes after it. Nothing at the source is locked.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event

import psycopg
from psycopg import sql
from pyiceberg.table import Table as Iceberg

from ingestion import bronze, piece
from ingestion.piece import File, Piece, Taken
from ingestion.source import Table, inspect, set_up
from lake import lag, source
from lake.catalog import alone
from lake.errors import LakeError
from lake.manifest import SourceTable
from lake.settings import settings

PAGES_PER_RANGE = 32_768  # 256 MiB of the source's table: one file of bronze
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
    progress: Progress,
    again: Sequence[str] = (),
) -> Load | None:
    """Copy what bronze lacks of the declared tables, so that their changes go on from there.

    The first load leaves the slot for capture to stream from. A later one takes the tables that
    were declared since, and those named in `again`, while capture and the source go on. What was
    interrupted is finished by the next. Returns None where there was nothing to do.

    `owner` opens a connection that may set up the source, where the lake has one.

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
            lsn, rows = _load_beside_capture(lacking, progress)
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


def _load_beside_capture(tables: list[Table], progress: Progress) -> Loaded:
    """Load tables that are published by now, under a slot that goes with its connection.

    Making that slot waits for the transactions that are under way, so whatever its snapshot does
    not hold began when the tables were published, and reaches capture.
    """
    with ExitStack() as held:
        if any(bronze.exists(table.declared.bronze) for table in tables):
            # A run would read past the new snapshot before it is there, and not go back to it.
            held.enter_context(alone("lake run", "ingest"))
        temporary = f"{settings().source.slot}_{uuid.uuid4().hex[:12]}"
        lsn, snapshot = held.enter_context(_exported_snapshot(temporary, temporary=True))
        lag.catch_up()  # so that who reads the snapshot finds other tables to be as late
        return lsn, _copy(tables, lsn, snapshot, progress)


@contextmanager
def _exported_snapshot(slot: str, *, temporary: bool = False) -> Iterator[tuple[int, str]]:
    """Create a slot; yields its LSN and a snapshot's name, valid until the block ends.

    The snapshot has exactly the transactions committed before that LSN, the slot all others.
    """
    with psycopg.connect(source.conninfo(), autocommit=True, replication="database") as walsender:
        create = "CREATE_REPLICATION_SLOT {} {} LOGICAL pgoutput (SNAPSHOT 'export')"  # in capitals
        kind = sql.SQL("TEMPORARY" if temporary else "")
        row = walsender.execute(sql.SQL(create).format(sql.Identifier(slot), kind)).fetchone()
        assert row is not None
        _, consistent_point, snapshot, _ = row
        high, low = consistent_point.split("/")
        yield (int(high, 16) << 32) + int(low, 16), snapshot


def _copy(tables: list[Table], lsn: int, snapshot: str, progress: Progress) -> dict[str, int]:
    """Copy the tables, piece by piece, side by side; each is committed whole."""
    taken = Taken(lsn, snapshot, datetime.now(UTC))
    rows: dict[str, int] = {}
    stop = Event()
    with ThreadPoolExecutor(max_workers=settings().bulk_workers) as pool:
        for table in tables:
            location, copied = bronze.location(table.declared.bronze, table.columns), 0

            def copied_file(one: Piece, table: Table = table, location: str = location) -> File:
                if stop.is_set():
                    raise InterruptedError
                return piece.copy(table.columns, one, taken, location)

            futures = [pool.submit(copied_file, one) for one in _pieces(table)]
            try:
                for future in _as_they_end(futures):
                    future.result()
                    copied += PAGES_PER_RANGE
                    progress(table.declared.qualified, min(copied, table.pages), table.pages)
            except BaseException:
                stop.set()
                raise
            files = [file for file in (future.result() for future in futures) if file.rows]
            rows[table.declared.qualified] = sum(file.rows for file in files)
            files = files or [piece.mark_empty(table.columns, taken, location)]
            paths = [file.path for file in files]
            bronze.commit_snapshot(table.declared.bronze, table.columns, paths, lsn)
    return rows


def _pieces(table: Table) -> list[Piece]:
    firsts = range(0, max(table.pages, 1), PAGES_PER_RANGE)
    ends = [*firsts[1:], None]
    return [Piece(table.identifier, *pages) for pages in zip(firsts, ends, strict=True)]


def _as_they_end(futures: Iterable[Future[File]]) -> Iterator[Future[File]]:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, return_when=FIRST_EXCEPTION, timeout=0.2)
        yield from done
