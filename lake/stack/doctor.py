"""What `lake doctor` looks at: the machine, the cache, this installation, its parts, its source."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from lake import lag, parts, source
from lake.credentials import credentials
from lake.errors import LakeError
from lake.settings import settings
from lake.source import inspection
from lake.stack import lifecycle, status, supervisor

MEMORY_BYTES = 6 * 1024**3
LATE_SECONDS = 120
"""Bronze is that far behind the source where something is wrong."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` says what to do where it is not well."""

    what: str
    well: bool
    detail: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, one finding at a time; nothing is changed."""
    yield from _machine()
    absent = [part.name for part in parts.missing()]
    yield Finding("cache", True, f"to be fetched: {', '.join(absent)}" if absent else "complete")
    secrets = settings().state_dir / "credentials.json"
    if not secrets.exists():
        yield Finding("installation", True, f"none in {settings().state_dir}: `lake up` makes one")
        return
    yield _raises("credentials", lambda: _private(secrets.stat().st_mode))
    yield from _parts()
    yield from _source()


def _machine() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info[:2] == (3, 11), version, "use Python 3.11")
    for program, package in (("uv", "uv"), ("setpriv", "util-linux")):
        found = shutil.which(program)
        yield Finding(program, bool(found), found or "not on the PATH", f"install {package}")
    memory = psutil.virtual_memory()
    yield Finding(
        "memory",
        memory.total >= MEMORY_BYTES,
        f"{memory.available / 1024**3:.1f} of {memory.total / 1024**3:.1f} GiB available",
        f"the whole stack needs {MEMORY_BYTES / 1024**3:.0f} GiB: smaller heaps by LAKE_HEAP__…",
    )
    yield _raises("disk", lifecycle.check_disk)


def _private(mode: int) -> None:
    if mode & (0o077):
        raise LakeError(f"others can read them: chmod 600 {settings().state_dir}/credentials.json")
    credentials()


def _parts() -> Iterator[Finding]:
    known = supervisor.processes()
    if not known:
        yield Finding("stack", True, "down")
        yield _raises("ports", lambda: lifecycle.check_ports(lifecycle.programs()))
        return
    for program in lifecycle.programs().values():
        process = known.get(program.name)
        if process is None or process.state == "STOPPED":
            yield Finding(program.name, True, "not started")
            continue
        yield Finding(
            program.name,
            process.state in ("RUNNING", "STARTING") and program.ready(),
            process.state.lower(),
            f"read `lake logs {program.name}`",
        )


def _source() -> Iterator[Finding]:
    try:
        with source.connect() as connection:
            row = connection.execute("select current_setting('wal_level')").fetchone()
            slot = source.slot(connection)
    except LakeError as error:
        yield Finding("source", not supervisor.running(), str(error), "see LAKE_SOURCE__…")
        return
    level = row[0] if row else ""
    yield Finding("wal_level", level == "logical", level, "alter system set wal_level = logical")
    yield _slot(slot)
    yield from _tables()
    yield from _completeness()


def _slot(slot: source.Slot | None) -> Finding:
    """Whether the slot still has all changes that bronze lacks."""
    try:
        missed = lag.missed(slot)
    except LakeError as error:
        return Finding("slot", not supervisor.running(), str(error), "run `lake up`")
    if missed:
        return Finding("slot", False, missed)
    if slot is None:
        return Finding("slot", True, "none yet: `lake ingest` makes it")
    held = slot.current_lsn - slot.confirmed_lsn
    return Finding(
        "slot",
        slot.wal_status != "unreserved",
        f"{slot.wal_status}, holds {held:,} bytes of WAL back",
        "the source may remove that WAL at any moment: see why capture lags in `lake logs capture`",
    )


def _tables() -> Iterator[Finding]:
    """Whether each declared table is captured as it is declared."""
    try:
        troubles = inspection.suspended()
    except LakeError as error:
        yield Finding("tables", False, str(error))
        return
    if not troubles:
        yield Finding("tables", True, "all that are declared are captured")
    for trouble in troubles:
        yield Finding("tables", False, f"{trouble.table} {trouble.what}", trouble.next_step)


def _completeness() -> Iterator[Finding]:
    """Whether changes arrive: while the source is idle too, it logs a message every few seconds."""
    try:
        captured, built = lag.captured(), lag.built()
    except LakeError as error:
        yield Finding("bronze", not supervisor.running(), str(error), "run `lake up`")
        return
    if captured is None:
        yield Finding("bronze", True, "nothing is captured yet: `lake ingest`")
        return
    yield Finding(
        "bronze",
        captured.age_seconds < LATE_SECONDS or not supervisor.running(),
        f"complete up to {captured}",
        "changes do not arrive: read `lake logs capture`",
    )
    yield Finding("gold", True, f"the source as of {built}" if built else status.NEVER_BUILT)
    yield from _unreadable()


def _unreadable() -> Iterator[Finding]:
    """The tables of the lake whose metadata file is gone, or is none."""
    for table in status.tables():
        if table.trouble:
            remedy = "`lake rollback` to a publish before it, or drop it on a branch and publish"
            yield Finding(table.name, False, f"can't be read: {table.trouble}", remedy)


def _raises(what: str, look: Callable[[], None]) -> Finding:
    try:
        look()
    except LakeError as error:
        return Finding(what, False, str(error))
    except OSError as error:
        return Finding(what, False, os.strerror(error.errno or 0))
    return Finding(what, True, "well")
