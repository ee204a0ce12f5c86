"""Capture, beside Flink CDC and the floor: a backlog drained, and freshness at a steady rate.

    uv run python -m benchmarks.capture                # some 30 minutes
    uv run python -m benchmarks.capture --part 0.1 --seconds 10

It has a stack of its own in `.lake-bench/capture`. Every contender drains the same changes of the
loan table (17 columns, both images) from a slot of its own: ours; Flink CDC 3.5 into Iceberg
(`flink_cdc.py`); and the floor, which is Postgres decoding them to nowhere. The jobs are started
and idle before the backlog is written, stopped (SIGSTOP) while it is and while another one drains
it, and measured from the moment that they go on until their table holds all of it. Then each
follows a source that writes at rising rates.

At the end `lake verify --bronze` compares what ours has landed, of all that was written, with the
source; and what the peer's tables hold is compared with ours: every change by its row's key, and of
one loan in sixteen both images, value by value.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import typer
from rich.console import Console
from rich.table import Table

from lake.settings import ROOT

LOANS = 45_000
BACKLOGS = {"1 row": (300_000, 1), "1,000 rows": (600_000, 1_000), "all rows": (1_000_000, 0)}
"""How many changes, in transactions of how many; 0 is all of them in one."""
RATES = (500, 2_000, 10_000)
TRANSACTIONS = 50
"""A second, at a steady rate."""
CDC_JARS = {
    "org.apache.flink:flink-sql-connector-postgres-cdc:3.5.0": (
        "8c5b78d279a51676ad27e9730db37477c1cbf6691dd2382c6fa653b3fe293262"
    ),
}
PATIENCE_SECONDS = 900
DRAIN = ("SECONDS", "CHANGES/s", "CPU s/M", "SOURCE CPU s/M", "PEAK MiB")
FRESHNESS = ("RATE", "WRITTEN/s", "P50 s", "P99 s", "MAX s", "BEHIND s", "CORES", "PEAK MiB")
console = Console(width=110)


@dataclass
class Drain:
    """What it took to drain a backlog; `cpu_seconds` of the job, `source_seconds` of Postgres."""

    changes: int
    seconds: float = 0
    cpu_seconds: float = 0
    source_seconds: float = 0
    peak_bytes: int = 0

    def row(self) -> list[str]:
        million = self.changes / 1e6
        return [
            f"{self.seconds:,.1f}",
            f"{self.changes / self.seconds:,.0f}",
            f"{self.cpu_seconds / million:,.1f}" if self.cpu_seconds else "—",
            f"{self.source_seconds / million:,.1f}" if self.source_seconds else "—",
            f"{self.peak_bytes / 1024**2:,.0f}" if self.peak_bytes else "—",
        ]


@dataclass
class Job:
    """A job of Flink as a process, and how many changes its table holds."""

    process: "subprocess.Popen[bytes]"
    log: Path
    peak_bytes: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def family(self) -> list[psutil.Process]:
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self.family()]
        return sum(one.user + one.system for one in times)

    def send(self, number: signal.Signals) -> None:
        for process in self.family():
            process.send_signal(number)

    def end(self) -> None:
        self._done.set()
        self.send(signal.SIGCONT)
        family = self.family()
        self.process.terminate()
        psutil.wait_procs(family, timeout=15)
        for process in family:
            if process.is_running():
                process.kill()
        self.process.wait()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            try:
                resident = sum(process.memory_info().rss for process in self.family())
            except psutil.Error:
                continue
            self.peak_bytes = max(self.peak_bytes, resident)


def use_installation() -> Path:
    where = ROOT / ".lake-bench" / "capture"
    os.environ["LAKE_STATE_DIR"] = str(where)
    return where


def prepare() -> None:
    """Have a running stack, a source of loans, and capture's hand-over of them."""
    from ingestion.snapshot import ingest
    from lake.demo.fill import fill
    from lake.demo.run import source
    from lake.manifest import source_tables
    from lake.settings import settings
    from lake.stack import lifecycle, postgres

    lifecycle.up()
    with source() as connection:
        fill(connection, rows=LOANS)
        connection.execute("alter table loan replica identity full")
    ingest(source_tables(), postgres.source_owner(), lambda *_: None)
    lifecycle.stop_capture()  # each job is started for itself
    with postgres.SOURCE.admin(settings().source.database) as admin:
        admin.execute("alter system set wal_sender_timeout = 0")  # of jobs that stand still
        admin.execute("select pg_reload_conf()")


# -- jobs ------------------------------------------------------------------------------------------


@contextmanager
def ours(where: Path) -> Iterator[Job]:
    from lake.stack import capture

    program = capture.program()
    with (where / "ours.log").open("wb") as log:
        process = subprocess.Popen(
            program.command, env=os.environ | program.environment, stdout=log, stderr=log
        )
    job = Job(process, where / "ours.log")
    try:
        wait_for(program.ready)
        yield job
    finally:
        job.end()


@dataclass(frozen=True)
class Peer:
    """A table of Flink CDC's, and between which LSNs of the source its changes were committed."""

    table: str
    after_lsn: int
    upto_lsn: int


@contextmanager
def flink_cdc(where: Path, slot: str, table: str) -> Iterator[Job]:
    from lake import catalog, parts, source
    from lake.settings import settings
    from lake.stack.program import answer

    directory = where / "flink_cdc"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    jars = [
        *cdc_jars(where),
        *(jar for jar in parts.jars("capture") if "postgresql" not in jar.name),
    ]
    lake = catalog.access(role="capture")
    captured = settings().source
    port = settings().ports.capture + 1
    told = {
        "directory": str(directory),
        "java": str(parts.java("spark")),
        "heap": "512m",
        "log4j": str(ROOT / "streaming" / "log4j2.properties"),
        "classes": os.pathsep.join(map(str, jars)),
        "table": table,
        "source": {
            "host": settings().source_host,
            "port": settings().source_port,
            "database": captured.database,
            "user": captured.user,
            "password": source.password(),
            "slot": slot,
            "publication": captured.publication,
            "table": "public.loan",
        },
        "catalog": {
            "type": "iceberg",
            "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
            "uri": catalog.jdbc_url(),
            "jdbc.user": lake.role,
            "jdbc.password": lake.password,
            "jdbc.schema-version": "V1",
            "warehouse": lake.warehouse,
            "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
            "client.region": "us-east-1",
            "s3.endpoint": settings().s3_endpoint,
            "s3.path-style-access": "true",
            "s3.access-key-id": lake.access_key,
            "s3.secret-access-key": lake.secret_key,
        },
        "flink": {
            "parallelism.default": "1",
            "rest.bind-address": "127.0.0.1",
            "rest.bind-port": str(port),
            "rest.address": "127.0.0.1",
            "jobmanager.bind-host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.memory.managed.size": "1m",
            "taskmanager.memory.network.min": "8m",
            "taskmanager.memory.network.max": "8m",
            "security.delegation.tokens.enabled": "false",
            "io.tmp.dirs": str(directory),
            "execution.checkpointing.dir": (directory / "checkpoints").as_uri(),
            "execution.checkpointing.storage": "filesystem",
            "execution.checkpointing.interval": "1 s",
        },
    }
    with (where / "flink_cdc.log").open("wb") as log:
        process = subprocess.Popen(
            [str(parts.flink_python()), str(Path(__file__).with_name("flink_cdc.py"))],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    assert process.stdin
    process.stdin.write(json.dumps(told).encode())
    process.stdin.close()
    job = Job(process, where / "flink_cdc.log")
    try:
        wait_for(lambda: b'"RUNNING"' in (answer(port, "/jobs") or b""))
        time.sleep(5)  # it says nothing of when it begins to stream
        yield job
    finally:
        job.end()


def cdc_jars(where: Path) -> list[Path]:
    """The peer's connector, fetched once."""
    from lake.parts import _maven

    target = where / "cdc-jars"
    if not target.exists():
        staged = where / "cdc-jars.part"
        staged.mkdir(parents=True, exist_ok=True)
        _maven(CDC_JARS)(staged, lambda *_: None)
        staged.rename(target)
    return sorted(target.glob("*.jar"))


def wait_for(ready) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            console.print("[red]not ready in time: see .lake-bench/capture/*.log[/]")
            raise typer.Exit(1)
        time.sleep(0.1)


# -- a backlog -------------------------------------------------------------------------------------


def write(changes: int, size: int) -> int:
    """Update loans so many times, in transactions of `size`; returns the LSN after the last."""
    from lake.demo.run import source

    with source() as connection:
        connection.execute("set synchronous_commit = off")
        size = size or changes
        connection.execute(
            f"""
            do $$
            declare
                begun int := 1;
                done int := 0;
                remaining int;
            begin
                while done < {changes} loop
                    remaining := {size};
                    while remaining > 0 loop
                        update loan set credit_score = 300 + (credit_score + 1) % 500
                        where loan_id >= begun and loan_id < begun + least(remaining, {LOANS});
                        remaining := remaining - least(remaining, {LOANS});
                    end loop;
                    begun := case when begun + 2 * {size} > {LOANS} then 1 else begun + {size} end;
                    done := done + {size};
                    commit;
                end loop;
            end $$
            """.encode()
        )
        row = connection.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()
    assert row is not None
    return int(row[0])


def source_cpu() -> float:
    """Seconds of CPU that the source's walsenders have taken."""
    found = 0.0
    for process in psutil.process_iter(["cmdline"]):
        if "walsender" in " ".join(process.info["cmdline"] or []):
            times = process.cpu_times()
            found += times.user + times.system
    return found


def drain(where: Path, changes: int, size: int) -> tuple[dict[str, Drain], Peer]:
    """What each contender takes for the same backlog, one after the other."""
    from lake import lag

    table = f"bronze.changes_cdc_{size}"
    with ours(where) as mine, peer_at_work(where, table) as (theirs, after_lsn):
        lag.catch_up(PATIENCE_SECONDS)
        for job in (mine, theirs):
            job.send(signal.SIGSTOP)
        make_slot("bench_floor")
        lsn = write(changes, size)
        emit()
        found = {"floor": drain_floor(changes)}
        found["ours"] = drain_by(
            mine, changes, lambda: (at := lag.captured()) is not None and at.lsn >= lsn
        )
        found["Flink CDC 3.5"] = drain_by(theirs, changes, lambda: landed(table) >= changes + 1)
        mine.send(signal.SIGCONT)
        return found, Peer(table, after_lsn, lsn)


def drain_by(job: Job, changes: int, is_done: Callable[[], bool]) -> Drain:
    """What a job takes from when it goes on until it is done; then it stands still again."""
    before = job.cpu_seconds(), source_cpu()
    began = time.perf_counter()
    job.send(signal.SIGCONT)
    wait_for(is_done)
    seconds = time.perf_counter() - began
    used, served = job.cpu_seconds() - before[0], source_cpu() - before[1]
    job.send(signal.SIGSTOP)
    return Drain(changes, seconds, used, served, job.peak_bytes)


def emit() -> None:
    """Have the source flush all that it wrote: its commits here do not wait for that."""
    from lake import source

    with source.connect() as connection:
        connection.execute("select pg_logical_emit_message(true, 'bench', '')")


@contextmanager
def peer_at_work(where: Path, table: str) -> Iterator[tuple[Job, int]]:
    """Flink CDC at work, and the LSN that it began after: it has landed one change since."""
    slot = "bench_cdc"
    make_slot(slot)
    make_cdc_table(table)
    try:
        after_lsn = write(0, 1)
        with flink_cdc(where, slot, table) as job:
            write(1, 1)
            wait_for(lambda: landed(table) >= 1)
            yield job, after_lsn
    finally:
        drop_slot(slot)


def landed(table: str) -> int:
    """How many changes a table of the peer's holds."""
    from lake.catalog import catalog

    snapshot = catalog("ingest").load_table(table).current_snapshot()
    return int((snapshot and snapshot.summary and snapshot.summary["total-records"]) or 0)


def drain_floor(changes: int) -> Drain:
    """Postgres decodes the changes and discards them."""
    from lake.settings import settings
    from lake.stack import postgres

    try:
        with postgres.SOURCE.admin(settings().source.database) as admin:
            began = time.perf_counter()
            row = admin.execute(
                "select count(*) from pg_logical_slot_peek_binary_changes("
                "'bench_floor', null, null, 'proto_version', '1', 'publication_names', %s)",
                [settings().source.publication],
            ).fetchone()
            assert row
            assert row[0] > changes, "all of it was flushed"
            return Drain(changes, time.perf_counter() - began)
    finally:
        drop_slot("bench_floor")


def make_slot(name: str) -> None:
    from lake import source

    with source.connect() as connection:
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])


def drop_slot(name: str) -> None:
    from lake import source

    with source.connect() as connection:
        wait_for(
            lambda: (
                not connection.execute(
                    "select from pg_replication_slots where slot_name = %s and active", [name]
                ).fetchone()
            )
        )
        connection.execute("select pg_drop_replication_slot(%s)", [name])


def make_cdc_table(name: str) -> None:
    """The peer's table, empty, and capture's role allowed to write it."""
    from pyiceberg.schema import Schema
    from pyiceberg.types import LongType, NestedField, StringType, TimestamptzType

    from lake.catalog import OWNER, _connect, catalog
    from lake.credentials import credentials

    kinds = {
        "source_table": StringType(),
        "lsn": LongType(),
        "prior_commit_lsn": LongType(),
        "committed_at": TimestamptzType(),
        "ingested_at": TimestamptzType(),
        "envelope": StringType(),
    }
    schema = Schema(*(NestedField(i, n, kind) for i, (n, kind) in enumerate(kinds.items(), 1)))
    namespace, _, table = name.partition(".")
    with _connect(OWNER, credentials().catalog_password) as owner:
        owner.execute(
            "delete from iceberg_tables where (table_namespace, table_name) = (%s, %s)",
            [namespace, table],
        )
        owner.execute("drop policy if exists capturing on iceberg_tables")
        owner.execute(
            "create policy capturing on iceberg_tables for update to capture"
            " using (catalog_name = 'lake' and table_namespace = 'bronze')"
        )
    location = f"s3://lake/warehouse/bronze/changes/cdc_{time.time_ns()}"
    catalog("ingest").create_table(
        name, schema, location=location, properties={"write.parquet.compression-codec": "zstd"}
    )


# -- a steady rate ---------------------------------------------------------------------------------


def freshness(job: Job, newest: str, rate: int, seconds: int) -> list[str]:
    """Commit to visible in Trino, at so many changes a second; and whether the job keeps up.

    `newest` is the query for the time of the newest commit that the job's table holds.
    """
    from trino.dbapi import connect

    from lake.demo.run import source
    from lake.settings import settings

    commits: list[float] = []
    seen: list[tuple[float, float]] = []
    stop = threading.Event()
    rows = rate // TRANSACTIONS

    def write_on() -> None:
        with source() as connection:
            connection.execute("set synchronous_commit = off")
            began, number = time.time(), 0
            while not stop.is_set():
                first = 1 + number % (LOANS - rows)
                connection.execute(
                    "update loan set credit_score = 300 + (credit_score + 1) %% 500"
                    " where loan_id >= %s and loan_id < %s",
                    [first, first + rows],
                )
                commits.append(time.time())
                number += rows
                time.sleep(max(0.0, began + number / rate - time.time()))

    def look_on() -> None:
        with connect(
            host=settings().host, port=settings().ports.trino, user="bench", catalog="lake"
        ) as trino:
            while not (stop.is_set() and seen and seen[-1][1] >= commits[-1]):
                (value,) = trino.cursor().execute(newest).fetchone() or (None,)
                if value:
                    at = datetime.fromisoformat(value).astimezone(UTC).timestamp()
                    seen.append((time.time(), at))

    threads = [threading.Thread(target=run, daemon=True) for run in (write_on, look_on)]
    for thread in threads:
        thread.start()
    time.sleep(5)
    used, first = job.cpu_seconds(), len(commits)
    time.sleep(seconds)
    used, last = job.cpu_seconds() - used, len(commits)
    behind = time.time() - seen[-1][1]
    stop.set()
    threads[0].join()
    write(1, 1)  # as of which the last one before has been seen
    threads[1].join(PATIENCE_SECONDS)
    waits, looks = [], iter(seen)
    moment, complete = next(looks)
    for commit in commits[first:last]:
        while complete < commit:
            moment, complete = next(looks)
        waits.append(moment - commit)
    percentiles = statistics.quantiles(waits, n=100)
    return [
        f"{rate:,}",
        f"{rows * (last - first) / seconds:,.0f}",
        f"{percentiles[49]:.2f}",
        f"{percentiles[98]:.2f}",
        f"{max(waits):.2f}",
        f"{behind:.1f}",
        f"{used / seconds:.2f}",
        f"{job.peak_bytes / 1024**2:,.0f}",
    ]


OURS_NEWEST = "select value from bronze.\"changes$properties\" where key = 'lake.complete-at'"


def cdc_newest(table: str) -> str:
    name = table.removeprefix("bronze.")
    return f'select to_iso8601(data.committed_at.max) from bronze."{name}$partitions"'


def follow_ours(where: Path, seconds: int) -> list[list[str]]:
    from lake import lag

    with ours(where) as job:
        lag.catch_up(PATIENCE_SECONDS)
        return [freshness(job, OURS_NEWEST, rate, seconds) for rate in RATES]


def follow_cdc(where: Path, seconds: int) -> tuple[list[list[str]], Peer]:
    table = "bronze.changes_cdc_steady"
    with peer_at_work(where, table) as (job, after_lsn):
        rows = [freshness(job, cdc_newest(table), rate, seconds) for rate in RATES]
        lsn = write(0, 1)
        time.sleep(5)  # the last one's checkpoint
        return rows, Peer(table, after_lsn, lsn)


# -- what was landed -------------------------------------------------------------------------------


def wrong(one: Peer) -> list[str]:
    """How the peer's changes differ from ours of the same commits: how many ours has, those that
    the peer lacks, those that it has twice, and images that are other ones."""
    from trino.dbapi import connect

    from lake.manifest import source_tables
    from lake.settings import settings

    (loan,) = (table for table in source_tables() if table.qualified == "public.loan")

    def image(text: str, path: str, *, is_ours: bool) -> str:
        """A hash of a row, whose values the two write in words of their own."""
        values = []
        for column in loan.columns:
            value = f"json_extract_scalar({text}, '$.{path}{column.name}')"
            if column.type.startswith("timestamp"):
                value = (
                    f"cast(replace({value}, '+00', ' UTC') as timestamp(6) with time zone)"
                    if is_ours
                    else f"from_iso8601_timestamp_nanos({value})"
                )
                value = f"to_unixtime({value})"
            elif column.type == "boolean":
                value = f"substr({value}, 1, 1)"
            elif column.type != "text":
                value = f"cast({value} as double)"
            values.append(f"coalesce(cast({value} as varchar), '')")
        return f"xxhash64(to_utf8(concat_ws('|', {', '.join(values)})))"

    query = f"""
        with ours as (
            select
                json_extract_scalar("after", '$.loan_id') as loan_id,
                {image('"before"', "", is_ours=True)} as old,
                {image('"after"', "", is_ours=True)} as new
            from bronze.changes
            where source_table = 'public.loan'
                and commit_lsn > {one.after_lsn} and commit_lsn <= {one.upto_lsn}
        ),
        theirs as (
            select
                json_extract_scalar(envelope, '$.after.loan_id') as loan_id,
                {image("envelope", "before.", is_ours=False)} as old,
                {image("envelope", "after.", is_ours=False)} as new
            from {one.table}
        ),
        changes as (
            select coalesce(sum(greatest(o - t, 0)), 0) as lost,
                coalesce(sum(greatest(t - o, 0)), 0) as doubled
            from (
                select loan_id, sum(o) as o, sum(t) as t from (
                    select loan_id, 1 as o, 0 as t from ours
                    union all select loan_id, 0, 1 from theirs
                ) group by loan_id
            )
        ),
        images as (
            select coalesce(sum(greatest(t - o, 0)), 0) as other
            from (
                select loan_id, old, new, sum(o) as o, sum(t) as t from (
                    select loan_id, old, new, 1 as o, 0 as t from ours
                    where cast(loan_id as bigint) % 16 = 0
                    union all
                    select loan_id, old, new, 0, 1 from theirs
                    where cast(loan_id as bigint) % 16 = 0
                ) group by loan_id, old, new
            )
        )
        select (select count(*) from ours), lost, doubled, other from changes cross join images
    """
    host, port = settings().host, settings().ports.trino
    with connect(host=host, port=port, user="bench", catalog="lake") as trino:
        found = trino.cursor().execute(query).fetchone()
    return [f"{number:,}" for number in found]


def file_sizes(table: str) -> str:
    from lake.catalog import catalog

    files = catalog().load_table(table).inspect.files().to_pylist()
    sizes = [file["file_size_in_bytes"] for file in files]
    return f"{table}: {len(sizes):,} files, median {statistics.median(sizes) / 1024:,.0f} KiB"


def main(part: float = 1, seconds: int = 30) -> None:
    """Measure, and print each table as soon as it is known; `part` is of each backlog."""
    where = use_installation()
    from lake import lag
    from lake.stack import lifecycle, supervisor

    peers: list[Peer] = []
    try:
        prepare()
        for name, (whole, size) in BACKLOGS.items():
            changes = int(whole * part)
            table = Table("", *DRAIN, title=f"{changes:,} changes, {name} a transaction")
            found, held = drain(where, changes, size)
            peers.append(held)
            for contender, cost in found.items():
                table.add_row(contender, *cost.row())
            console.print(table)
        table = Table("", *FRESHNESS, title="commit to visible in Trino")
        for row in follow_ours(where, seconds):
            table.add_row("ours", *row)
        rows, held = follow_cdc(where, seconds)
        peers.append(held)
        for row in rows:
            table.add_row("Flink CDC 3.5", *row)
        console.print(table)
        for landed_in in ("bronze.changes", *(peer.table for peer in peers)):
            console.print(file_sizes(landed_in))
        supervisor.start_program("capture")
        done = subprocess.run([Path(sys.executable).with_name("lake"), "verify", "--bronze"])
        if done.returncode:
            raise typer.Exit(done.returncode)
        lag.catch_up(PATIENCE_SECONDS)
        table = Table(
            "", "CHANGES", "LOST", "DOUBLED", "OTHER IMAGES", title="the peer against ours"
        )
        for one in peers:
            table.add_row(one.table, *wrong(one))
        console.print(table)
    finally:
        lifecycle.down()


if __name__ == "__main__":
    typer.run(main)
