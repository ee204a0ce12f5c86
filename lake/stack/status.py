"""What `lake status` shows: the parts, how far the changes have come, and the tables."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from lake import lag
from lake.branches import publish
from lake.catalog import catalog, row_count, total
from lake.errors import LakeError
from lake.lag import Lag
from lake.settings import LAYERS, settings
from lake.source import inspection
from lake.stack import capture, lifecycle, supervisor
from lake.stack.program import Program
from lake.stack.supervisor import Process

NEVER_BUILT = "no run has built all of it yet, `lake run` does"


@dataclass(frozen=True)
class PartStatus:
    """`state` is ready, starting, waiting (capture, until `lake ingest`), failing or stopped."""

    name: str
    state: str
    pid: int | None
    memory_bytes: int
    address: str
    uptime_seconds: float | None


@dataclass(frozen=True)
class TableStatus:
    """Rows as a reader sees them, data files and delete files; or why the table can't be read."""

    name: str
    rows: int = 0
    data_files: int = 0
    delete_files: int = 0
    trouble: str = ""


@dataclass(frozen=True)
class Status:
    """`suspended` says of tables of the source why they are not captured, `unvalidated` of tables
    of the lake why they were published without having passed."""

    parts: list[PartStatus]
    lag: Lag | None
    suspended: list[str]
    unvalidated: list[str]
    tables: list[TableStatus]

    @property
    def ready(self) -> bool:
        return all(part.state in ("ready", "waiting") for part in self.parts)


def status() -> Status:
    """How the stack is now. Raises LakeError where there is no installation."""
    known = supervisor.processes()
    with ThreadPoolExecutor() as pool:
        everything = lifecycle.programs()
        parts = list(pool.map(lambda p: _part(p, known.get(p.name)), everything.values()))
    state = {part.name: part.state for part in parts}
    if state["postgres"] != "ready" or state["minio"] != "ready":
        return Status(parts, None, [], [], [])
    reached = lag.lag()
    waiting = suspended() if reached.captured else []
    return Status(parts, reached, waiting, publish.exceptions(), tables())


def suspended() -> list[str]:
    """The tables of the source that are not captured, and why; nothing where it can't be asked."""
    try:
        found = inspection.suspended()
        troubles = [f"{one.table} {one.what}: {one.next_step}" for one in found]
    except LakeError:
        return []
    missed = capture.missed()
    return [f"every table: {missed}", *troubles] if missed else troubles


def _part(program: Program, process: Process | None) -> PartStatus:
    address = f"{settings().host}:{next(iter(program.ports.values()))}"
    state = _state(program, process)
    if process is None or process.pid is None:
        return PartStatus(program.name, state, None, 0, address, None)
    uptime = time.time() - process.since
    return PartStatus(program.name, state, process.pid, memory(process.pid), address, uptime)


def _state(program: Program, process: Process | None) -> str:
    if process is None:
        return "stopped"
    if process.pid:
        return "ready" if program.ready() else "starting"
    if process.state != "STOPPED":
        return "failing"
    return "waiting" if program.name == "capture" else "stopped"


def memory(pid: int) -> int:
    """The memory of a process and its children, shared pages divided among their users (PSS)."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_pss(member) for member in family)


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0
    except psutil.AccessDenied:  # it changed its user; without leave, what it maps counts whole
        return int(process.memory_info().rss)


def tables() -> list[TableStatus]:
    """Every table of the lake, from its metadata alone."""
    names = [".".join(name) for layer in LAYERS for name in catalog().list_tables(layer)]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_table, sorted(names, key=_order)))


def _order(name: str) -> tuple[int, str]:
    return LAYERS.index(name.partition(".")[0]), name


def _table(name: str) -> TableStatus:
    try:
        table = catalog().load_table(name)
    except (OSError, ValueError) as error:  # of its metadata file, which is gone or is none
        return TableStatus(name, trouble=str(error).strip().splitlines()[0])
    snapshot = table.current_snapshot()
    files = total(snapshot, "data-files"), total(snapshot, "delete-files")
    return TableStatus(name, row_count(table), *files)


_COLOUR = {"ready": "green", "waiting": "cyan", "starting": "yellow", "failing": "red"}


def render(status: Status) -> Group:
    """The status as people read it."""
    parts = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("PART", "left"),
        ("STATE", "left"),
        ("PID", "right"),
        ("MEMORY", "right"),
        ("UP", "right"),
    ):
        parts.add_column(heading, justify=justify)  # type: ignore[arg-type]
    parts.add_column("ADDRESS")
    for part in status.parts:
        state = f"[{_COLOUR.get(part.state, 'dim')}]{part.state}[/]"
        uptime = f"{part.uptime_seconds:,.0f} s" if part.uptime_seconds is not None else ""
        memory = _mebibytes(part.memory_bytes)
        parts.add_row(part.name, state, str(part.pid or ""), memory, uptime, part.address)
    parts.add_section()
    parts.add_row("", "", "", _mebibytes(sum(part.memory_bytes for part in status.parts)))
    if status.lag is None:
        return Group(parts)
    tables = Table(box=None, pad_edge=False)
    tables.add_column("TABLE")
    for heading in ("ROWS", "DATA FILES", "DELETE FILES"):
        tables.add_column(heading, justify="right")
    broken = [table for table in status.tables if table.trouble]
    for table in status.tables:
        if table.trouble:
            continue
        tables.add_row(
            table.name, f"{table.rows:,}", f"{table.data_files}", f"{table.delete_files}"
        )
    troubles = [f"[red]suspended:[/] {escape(trouble)}" for trouble in status.suspended]
    troubles += [f"[red]can't be read:[/] {escape(f'{t.name}: {t.trouble}')}" for t in broken]
    troubles += [f"[yellow]unvalidated:[/] {escape(one)}" for one in status.unvalidated]
    return Group(parts, "", *positions(status.lag), *troubles, "", tables)


def positions(lag: Lag) -> list[str]:
    """How far bronze and gold have come, a line for each."""
    if lag.captured is None:
        return ["nothing is captured yet: `lake ingest`"]
    source, captured = lag.source_lsn, lag.captured
    behind = f", {source - captured.lsn:,} bytes behind" if source else ", the source is not there"
    return [
        f"bronze is complete up to {captured}{behind}",
        f"gold is the source as of {lag.built}" if lag.built else f"gold: {NEVER_BUILT}",
    ]


def _mebibytes(count: int) -> str:
    return f"{count / 1024**2:,.0f} MiB" if count else ""
