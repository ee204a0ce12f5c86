"""How far the changes have come: what the source wrote, what bronze holds, what is built of it.

LSNs are positions in the source's WAL, in bytes: their differences are bytes, their order is time.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lake import source
from lake.catalog import connect, metadata
from lake.errors import LakeError
from lake.settings import TRUNK, settings

CHANGES = "bronze.changes"
HEARTBEAT = "lake.heartbeat"
"""The prefix of the logical messages that move the slot on while the captured tables are idle."""
COMPLETE_LSN, COMPLETE_AT = "lake.complete-lsn", "lake.complete-at"
"""Properties of `bronze.changes`: every transaction committed up to there is held whole."""
CHANGED_LSN = "lake.changed-lsn"
"""The property of `bronze.changes` that has the commit LSN of its last change of a table's rows."""
SLOT_LSN = "lake.slot-lsn"
"""The property of `bronze.changes` that has the LSN of the bulk load from which changes go on."""

SNAPSHOT_LSN = "lake.snapshot-lsn"
"""The property of a table of bulk snapshots that says, by its LSN, that the newest is whole."""


@dataclass(frozen=True)
class Position:
    """A commit of the source: its LSN, and when it was."""

    lsn: int
    at: datetime

    @property
    def age_seconds(self) -> float:
        return max(0.0, (datetime.now(UTC) - self.at).total_seconds())

    def __str__(self) -> str:
        """`10:42:07, 69 s ago`, in local time; with the date where that is another day."""
        at, today = self.at.astimezone(), datetime.now().astimezone().date()
        clock = f"{at:%H:%M:%S}" if at.date() == today else f"{at:%Y-%m-%d %H:%M:%S}"
        return f"{clock}, {self.age_seconds:,.0f} s ago"


@dataclass(frozen=True)
class Lag:
    """How far each step has come; None where it has not begun or can't be asked.

    `source_lsn` is where the source writes now. Bronze is complete up to `captured`. Silver and
    gold are the source as of `built`.
    """

    source_lsn: int | None
    captured: Position | None
    built: Position | None


def lag() -> Lag:
    """How far each step has come by now."""
    try:
        with source.connect() as connection:
            row = connection.execute("select pg_current_wal_lsn() - '0/0'").fetchone()
            source_lsn = int(row[0]) if row else None
    except LakeError:
        source_lsn = None
    return Lag(source_lsn, captured(), built())


def captured(branch: str = TRUNK) -> Position | None:
    """Up to where a branch's `bronze.changes` holds every captured transaction whole.

    A branch keeps the bronze that it began with, so that is also what the branch is built of.
    Before the first change, it is what the bulk load holds.
    """
    changes = metadata(branch, CHANGES)
    return position(changes) if changes else None


def position(changes: Mapping[str, Any]) -> Position | None:
    """The same of the metadata file of `bronze.changes`."""
    properties = changes["properties"]
    if COMPLETE_LSN in properties:
        at = datetime.fromisoformat(properties[COMPLETE_AT])
        return Position(int(properties[COMPLETE_LSN]), at)
    if SLOT_LSN in properties:
        loaded_at = datetime.fromtimestamp(changes["last-updated-ms"] / 1000, UTC)
        return Position(int(properties[SLOT_LSN]) - 1, loaded_at)
    return None


def missed(slot: source.Slot | None) -> str:
    """Why changes were missed for good after those that bronze holds, given the slot as it is now.

    Empty where none were, or nothing is captured yet.
    """
    changes = metadata(TRUNK, CHANGES)
    properties = changes["properties"] if changes else {}
    if SLOT_LSN not in properties:
        return ""
    complete = int(properties.get(COMPLETE_LSN, properties[SLOT_LSN]))
    if slot is None:
        state = "is gone"
    elif slot.wal_status == "lost":
        state = "was invalidated: its WAL is gone"
    elif slot.confirmed_lsn > complete:
        state = "was acknowledged beyond what bronze holds"
    else:
        return ""
    return (
        f"the slot `{settings().source.slot}` {state}, so changes were missed: "
        "take all tables anew with `lake ingest --from-scratch`"
    )


def snapshot_lsn(table: str) -> int | None:
    """The LSN of a table's newest bulk snapshot; None without one that changes go on from."""
    loads = metadata(TRUNK, table)
    found = loads["properties"].get(SNAPSHOT_LSN) if loads else None
    return int(found) if found else None


def built() -> Position | None:
    """What silver and gold, as this process's branch began with them, hold the source as of.

    It is that of the last run that built the whole project.
    """
    with connect("reader") as connection:
        found = connection.execute(
            "select lsn, complete_at from lake.reached("
            "(select publish_id from lake.refs where name = %s))",
            [settings().branch],
        ).fetchone()
    return Position(*found) if found and None not in found else None


def catch_up(timeout: float = 120) -> int:
    """Wait until all that the source had committed by now is in `bronze.changes`; returns its LSN.

    It has the source log a message, which is captured after everything that was committed before.

    Raises LakeError where that takes longer than `timeout` seconds, or can't be.
    """
    with source.connect() as connection:
        row = connection.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert row is not None
        lsn = int(row[0])
        connection.execute("select pg_logical_emit_message(true, %s, '')", [HEARTBEAT])
        slot = source.slot(connection)
    if why := missed(slot):
        raise LakeError(why)
    if metadata(TRUNK, CHANGES) is None:
        raise LakeError("nothing is captured yet: run `lake ingest`")
    began = time.monotonic()
    while time.monotonic() - began < timeout:
        reached = captured()
        if reached and reached.lsn >= lsn:
            return lsn
        time.sleep(0.2)
    raise LakeError(f"capture did not reach LSN {lsn} in {timeout:.0f} s: see `lake logs capture`")
