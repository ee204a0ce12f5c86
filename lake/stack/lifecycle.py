"""Up and down: start every part at once, wait until each is ready, and stop them all again."""

import errno
import fcntl
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from rich.console import Console
from rich.live import Live
from rich.table import Table

from lake import catalog, credentials, object_store, parts
from lake.branches import branch, keys
from lake.errors import LakeError
from lake.settings import settings
from lake.stack import capture, minio, postgres, spark, supervisor, trino, valkey
from lake.stack.program import PARTS, Program

READY_SECONDS = 180
_UP = ("RUNNING", "STARTING", "BACKOFF")


def programs() -> dict[str, Program]:
    """Every part's program, by name, in the order of `PARTS`; the source if it is the stack's."""
    servers = postgres.LAKE.program, postgres.SOURCE.program
    others = (part.program for part in (minio, valkey, trino, spark, capture))
    return {
        name: program()
        for name, program in zip(PARTS, (*servers, *others), strict=True)
        if name != "source" or not settings().source.host
    }


def up() -> None:
    """Start the stack and wait until all of it is ready; what runs already is left running.

    Raises LakeError where a port is taken, the disk is full or a part dies. Then, and when it is
    interrupted, everything is stopped that was not running before; but not where changes of the
    source were missed, which is an error too.
    """
    parts.fetch()
    check_disk()
    with _alone():
        was_running = supervisor.running()
        credentials.generate()
        everything = programs()
        check_ports(everything)
        try:
            for part in (postgres.LAKE, postgres.SOURCE, valkey, trino, spark):
                part.configure()
            supervisor.start(list(everything.values()))
            wanted = [name for name in everything if name != "capture"]
            with _progress(wanted) as show:
                for name in wanted:
                    supervisor.start_program(name)
                _wait(everything["postgres"], show)
                postgres.create_databases()
                if "source" in everything:
                    _wait(everything["source"], show)
                    postgres.create_source()
                _wait(everything["minio"], show)
                object_store.create()
                catalog.create()
                keys.keep_ready()
                for name in ("valkey", "trino", "spark"):
                    _wait(everything[name], show)
                branch.tell_trino()
            if capture.has_begun():
                start_capture()
        except BaseException:
            if not was_running:
                down()
            raise
    if why := capture.missed():
        raise LakeError(f"the stack is up, but capture can't go on: {why}")


def start_capture() -> None:
    """Start the capture job and wait until it streams."""
    with _progress(["capture"]) as show:
        supervisor.start_program("capture")
        _wait(programs()["capture"], show)


def stop_capture() -> None:
    """Stop the capture job, if it runs."""
    supervisor.stop_program("capture")


def down(*, wipe: bool = False) -> None:
    """Stop everything; with `wipe`, remove the state directory too."""
    supervisor.shutdown()
    if wipe:
        shutil.rmtree(settings().state_dir, ignore_errors=True)
        credentials.credentials.cache_clear()


@contextmanager
def _alone() -> Iterator[None]:
    """Keep two starts of one installation apart."""
    with (settings().state_dir / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LakeError("another `lake up` is at work here: wait for it") from None
        yield


def check_disk() -> None:
    """Refuse to start on a disk that is about to be full."""
    settings().state_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings().state_dir).free
    if free < settings().free_disk_bytes:
        raise LakeError(
            f"{settings().state_dir} has {free / 1024**3:.1f} GiB free, the lake needs "
            f"{settings().free_disk_bytes / 1024**3:.0f}: make room, or move it with LAKE_STATE_DIR"
        )


def check_ports(everything: dict[str, Program]) -> None:
    """Refuse to start while somebody else has a part's port."""
    known = supervisor.processes()
    for program in everything.values():
        if program.name in known and known[program.name].state in _UP:
            continue
        for setting, port in program.ports.items():
            if _taken(port):
                raise LakeError(
                    f"port {port} is taken{_by(port)}: stop that, or give {program.name} another "
                    f"with LAKE_PORTS__{setting.upper()}"
                )


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings().host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise LakeError(f"port {port} can't be had: {error.strerror}") from None
    return False


def _by(port: int) -> str:
    """` by <program> (pid …)`, where the system tells."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""


Show = Callable[[str, str], None]


@contextmanager
def _ended(console: Console) -> Iterator[None]:
    """End the line of a live table, which it does by itself on a terminal only."""
    try:
        yield
    finally:
        if not console.is_terminal:
            console.print()


@contextmanager
def _progress(names: list[str]) -> Iterator[Show]:
    """A live table of parts and how long each took to be ready."""
    began = time.monotonic()
    state = dict.fromkeys(names, "starting")

    def table() -> Table:
        grid = Table.grid(padding=(0, 2))
        for name, text in state.items():
            grid.add_row("[green]●[/]" if text.startswith("ready") else "[yellow]○[/]", name, text)
        return grid

    console = Console(file=sys.stderr)
    with _ended(console), Live(get_renderable=table, console=console) as live:

        def show(name: str, text: str) -> None:
            state[name] = f"{text} ({time.monotonic() - began:.1f} s)"
            live.refresh()

        yield show


def _wait(program: Program, show: Show) -> None:
    """Wait until `program` is ready. Raises LakeError when it dies instead."""
    began = time.monotonic()
    pid = None
    while not program.ready():
        process = supervisor.processes()[program.name]
        pid = pid or process.pid
        if process.state not in ("STARTING", "RUNNING") or process.pid != pid:
            raise LakeError(f"{program.name} died while starting: {_last_words(program)}")
        if time.monotonic() - began > READY_SECONDS:
            raise LakeError(f"{program.name} is not ready after {READY_SECONDS} s: see its log")
        time.sleep(0.1)
    show(program.name, "ready")


_TELLING = re.compile(r"\b(?:\w*(?:Error|Exception)|FATAL|ERROR|error|fatal)\b\W*:?\s+\w")


def _last_words(program: Program) -> str:
    """The line of a part's log that tells most about its end."""
    lines = program.log.read_text(errors="replace").splitlines() if program.log.exists() else []
    last = [line.strip() for line in lines[-50:]] or ["it left no log"]
    causes = [line for line in last if line.startswith("Caused by:")]
    telling = [line for line in last if _TELLING.search(line)]
    return f"{(causes or telling or last)[-1][:300]} (more with `lake logs {program.name}`)"
