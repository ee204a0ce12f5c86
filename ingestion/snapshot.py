"""The hand-over: a replication slot, tables copied as of its LSN, and no change missed.

The slot exports a snapshot of the source; the copies read that snapshot, side by side; capture
streams what comes after it. Nothing at the source is locked.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pyiceberg.table import Table as Iceberg

from ingestion import bronze
from ingestion.copy import Copied, Progress, copy
from ingestion.source import Owner, prepare
from lake import lag, source
from lake.catalog import alone
from lake.errors import LakeError
from lake.manifest import SourceTable, named_tables
from lake.settings import settings
from lake.shapes import waits
from lake.source.inspection import Table, Trouble, inspect

SOURCE = "lake.source"
"""The property of `bronze.changes` that says which slot its changes are of."""


@dataclass(frozen=True)
class Load:
    """What one bulk load did: rows by source table, and the tables that it left out, and why.

    `rows` is empty where bronze lacked nothing that could be copied. `seconds` is wall time.
    """

    rows: dict[str, int]
    suspended: tuple[Trouble, ...]
    seconds: float


def ingest(
    declared: list[SourceTable],
    owner: Owner | None,
    progress: Progress,
    again: Sequence[str] = (),
    *,
    say: Callable[[str], None] = lambda _: None,
    from_scratch: bool = False,
) -> Load:
    """Copy what bronze lacks of the declared tables, so that their changes go on from there.

    The first load leaves the slot for capture to stream from. A later one takes the tables that
    were declared since, those that the source or the project has changed, and those named in
    `again`, while capture and the source go on. What was interrupted is finished by the next. A
    table that can't be captured is left out, and does not keep the others.

    From scratch, everything is a first load: what was landed before is kept under other names. Then
    capture must not be running.

    `owner` opens a connection that may set up the source, where the lake has one. `say`
    receives a message for each source transaction that blocks the snapshot.

    Raises LakeError where nothing can be captured, the slot was lost, or `again` names a table that
    is not declared or can't be captured.
    """
    began = time.monotonic()
    with alone("lake ingest", "ingest"), source.connect() as connection:
        found = inspect(connection, declared)
        if from_scratch:
            _check_unread(source.slot(connection))
            bronze.set_changes_aside()
        changes = bronze.create_changes()
        bronze.create_schema_changes()
        begun = changes.properties.get(lag.SLOT_LSN)
        named = named_tables(again, declared)
        if begun:
            if why := lag.missed(source.slot(connection)):
                raise LakeError(why)
            missed = {trouble.table for trouble in found.troubles if trouble.misses_changes}
            for table in declared:
                if table in named or table.qualified in missed:
                    bronze.forget_snapshot(table.bronze)  # remembered, should this be killed
        found = prepare(connection, declared, found, owner)
        for trouble in found.troubles:
            if trouble.table in [table.qualified for table in named]:
                raise LakeError(str(trouble))
        if begun:
            waiting = waits(declared)
            lacking = [
                table
                for table in found.tables
                if table.declared.qualified in waiting or not _is_loaded(table, int(begun))
            ]
            copied = _load_beside_capture(lacking, progress, say) if lacking else Copied({}, ())
        else:
            if source.slot(connection):  # of a load that did not finish
                connection.execute("select pg_drop_replication_slot(%s)", [settings().source.slot])
            copied = _load_first(found.tables, changes, progress, say)
        suspended = (*found.troubles, *copied.troubles)
        for table in declared:
            if table.qualified in [trouble.table for trouble in suspended]:
                bronze.create_empty(table.bronze, table.columns)
    return Load(copied.rows, suspended, time.monotonic() - began)


def _check_unread(slot: source.Slot | None) -> None:
    if slot and slot.active:
        raise LakeError(f"the slot `{settings().source.slot}` is being read: stop capture first")


def _is_loaded(table: Table, slot_lsn: int) -> bool:
    """Whether the table's newest snapshot is one that changes go on from, of what is declared."""
    lsn = lag.snapshot_lsn(table.declared.bronze)
    return lsn is not None and lsn >= slot_lsn and bronze.is_of(table.declared)


def _load_first(
    tables: Sequence[Table], changes: Iceberg, progress: Progress, say: Callable[[str], None]
) -> Copied:
    """Load all tables under the slot that capture will stream from.

    If that fails, the slot is dropped, so that it holds back no WAL.
    """
    name = settings().source.slot
    with source.exported_snapshot(name, is_temporary=False, say=say) as snapshot:
        try:
            copied = copy(tables, snapshot, progress)
        except BaseException:
            with source.connect() as connection:
                connection.execute("select pg_drop_replication_slot(%s)", [name])
            raise
    with changes.transaction() as transaction:
        transaction.set_properties({lag.SLOT_LSN: str(snapshot.lsn), SOURCE: _identity()})
    return copied


def _identity() -> str:
    """Whose the slot is: the source's system identifier, its database, and the slot's name."""
    with source.connect() as connection:
        row = connection.execute("select system_identifier from pg_control_system()").fetchone()
    assert row is not None
    return f"{row[0]}/{settings().source.database}/{settings().source.slot}"


def _load_beside_capture(
    tables: Sequence[Table], progress: Progress, say: Callable[[str], None]
) -> Copied:
    """Load tables that are published by now, under a slot that goes with its connection.

    Making that slot waits for the transactions that are under way, so whatever its snapshot does
    not hold began when the tables were published, and reaches capture.
    """
    with ExitStack() as held:
        if any(bronze.exists(table.declared.bronze) for table in tables):
            # A run would read past the new snapshot before it is there, and not go back to it.
            held.enter_context(alone("lake run", "ingest"))
        temporary = f"{settings().source.slot}_{uuid.uuid4().hex[:12]}"
        exported = source.exported_snapshot(temporary, is_temporary=True, say=say)
        snapshot = held.enter_context(exported)
        lag.catch_up()  # so that who reads the snapshot finds other tables to be as late
        return copy(tables, snapshot, progress)
