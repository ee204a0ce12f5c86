"""The project built and asked on Spark, on Trino, and by hand in DuckDB, at a size of one's choice.

    uv run python -m benchmarks.engines 45000
    uv run python -m benchmarks.engines 1000000
    uv run python -m benchmarks.engines 10000000   # 25 GB of disk

Each size has an installation of its own in `.lake-bench/`, which is kept: the second time nothing
is filled. An engine builds all of it on a branch, which is published; then the source makes 1,000
changes, and a branch is built incrementally, three times; then people's questions of the README are
asked, ten times each. Builds are `lake build`: models, contracts and tests, dbt's start included.
Costs are the engine's and its client's. Bytes read are what MinIO has sent, and what DuckDB has
read of its own file.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from urllib.request import Request, urlopen

import jwt
import psutil
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lake.settings import ROOT

CHANGES, ROUNDS = 1_000, 3
ASKED = 10
HEAP = "8g"
METRICS_SECONDS = 11  # MinIO keeps what it told of itself for ten
console = Console(width=120)


@dataclass
class Cost:
    """What something took. `models` and `tests` are dbt's seconds of all of each, which overlap."""

    seconds: float = 0
    cpu_seconds: float = 0
    peak_bytes: int = 0
    read_bytes: int = 0
    models: float = 0
    tests: float = 0

    def row(self) -> list[str]:
        return [
            f"{self.seconds:,.2f}",
            f"{self.cpu_seconds:,.1f}",
            f"{self.peak_bytes / 1024**3:.1f}",
            f"{self.read_bytes / 1024**2:,.0f}",
            *(f"{seconds:,.1f}" if seconds else "" for seconds in (self.models, self.tests)),
        ]


@contextmanager
def measured(server: str | None) -> Iterator[Cost]:
    """Measure a block: a part of the stack that serves it, this process, and all that it starts."""
    from lake.stack import supervisor

    pids = [os.getpid(), *([supervisor.processes()[server].pid] if server else [])]
    cost, done = Cost(), threading.Event()

    def family() -> Iterator[psutil.Process]:
        for pid in pids:
            process = psutil.Process(pid)
            yield process
            yield from process.children(recursive=True)

    def watch() -> None:
        own = psutil.Process().memory_info().rss
        read: dict[int, int] = {}
        while not done.wait(0.25):
            resident = -own
            for process in family():
                try:
                    resident += process.memory_info().rss
                    if server is None and process.pid != os.getpid():
                        read[process.pid] = process.io_counters().read_chars
                except psutil.Error:  # it ended while it was looked at
                    continue
            cost.peak_bytes = max(cost.peak_bytes, resident)
        cost.read_bytes += sum(read.values())

    def cpu() -> float:
        used = [getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
        served = [psutil.Process(pid).cpu_times() for pid in pids[1:]]
        return sum(one.ru_utime + one.ru_stime for one in used) + sum(
            one.user + one.system for one in served
        )

    watcher = threading.Thread(target=watch)
    watcher.start()
    sent, used, began = sent_bytes(), cpu(), time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - began
        cost.cpu_seconds = cpu() - used
        done.set()
        watcher.join()
        time.sleep(METRICS_SECONDS)
        cost.read_bytes += sent_bytes() - sent


def sent_bytes() -> int:
    """How much MinIO has sent to whoever reads, since it was started; it counts anew at times."""
    from lake.credentials import credentials
    from lake.object_store import ROOT_USER
    from lake.settings import settings

    claims = {"sub": ROOT_USER, "iss": "prometheus", "exp": time.time() + 60}
    token = jwt.encode(claims, credentials().minio_root_password, "HS256")
    url = f"{settings().s3_endpoint}/minio/v2/metrics/cluster"
    with urlopen(Request(url, headers={"Authorization": f"Bearer {token}"})) as answer:  # noqa: S310
        text = answer.read().decode()
    found = re.findall(r"^minio_s3_traffic_sent_bytes\S* (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, found)))


def questions() -> list[str]:
    """People's questions, as the README asks them."""
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```sql\n(-- 1\..*?)```", text, re.DOTALL)
    return [one.strip() for one in block.split(";") if one.strip()]


class Engine:
    """One that the project builds on."""

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, *options: str) -> Cost:
        """Build on a fresh branch, and publish it."""
        from lake import results
        from lake.branches import branch, publish

        name = f"bench_{self.name}_{time.time_ns() % 10**9}"
        branch.create(name)
        began = time.time()
        with measured(self.name) as cost:
            run("lake", "--branch", name, "build", "--quiet", "--target", self.name, *options)
        found = results.of_dbt([], began)
        cost.models = sum(one.seconds or 0 for one in found if one.kind == "model")
        cost.tests = sum(one.seconds or 0 for one in found if one.kind == "test")
        publish.publish(name)
        return cost

    def full(self) -> Cost:
        return self.build("--full-refresh")

    def incremental(self) -> Cost:
        return self.build()

    def asked(self, queries: list[str]) -> Iterator[Cost]:
        """The cost of each query: the median seconds of all times, the rest their mean."""
        with self.client() as ask:
            for query in queries:
                with measured(self.name) as cost:
                    took = [timed(partial(ask, query)) for _ in range(ASKED)]
                yield of_one(cost, took)

    @contextmanager
    def client(self) -> Iterator[Callable[[str], object]]:
        """What asks the engine, and fetches all rows."""
        from lake.stack import spark, trino

        if self.name == "trino":
            yield trino.ask
            return
        session = spark.session({})
        try:
            yield lambda query: session.sql(query).collect()
        finally:
            session.stop()


class Floor(Engine):
    """DuckDB, by hand."""

    def __init__(self, file: Path) -> None:
        super().__init__("duckdb")
        self.file = file

    def build(self, *options: str) -> Cost:
        del options
        with measured(None) as cost:
            run("python", "-m", "benchmarks.floor", str(self.file))
        return cost

    def full(self) -> Cost:
        self.file.unlink(missing_ok=True)
        return self.build()

    def asked(self, queries: list[str]) -> Iterator[Cost]:
        for query in queries:
            with measured(None) as cost:
                out = run("python", "-m", "benchmarks.floor", str(self.file), *[query] * ASKED)
            yield of_one(cost, json.loads(out))


def timed(act: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def of_one(cost: Cost, took: list[float]) -> Cost:
    """The cost of one time, of that of all and the seconds of each."""
    cost.seconds = statistics.median(took)
    cost.cpu_seconds /= len(took)
    cost.read_bytes //= len(took)
    return cost


def run(program: str, *arguments: str) -> str:
    """Run a program of this environment; what it printed. Ends all of it where that fails."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        console.print(f"{' '.join(arguments)[:200]} failed:\n{done.stdout}{done.stderr}"[-6000:])
        raise typer.Exit(1)
    return done.stdout


def use_installation(rows: int) -> Path:
    """Have the settings be those of the installation for so many loans; where its state is."""
    where = ROOT / ".lake-bench" / str(rows)
    os.environ |= {
        "LAKE_STATE_DIR": str(where),
        "LAKE_HEAP__SPARK": HEAP,
        "LAKE_HEAP__TRINO": HEAP,
        "LAKE_RETENTION__PUBLISHES": "1",
    }
    return where


def land(rows: int) -> None:
    """Have a running stack, a source of so many loans, and bronze of it."""
    from ingestion.snapshot import ingest
    from lake.demo.fill import fill
    from lake.demo.run import source
    from lake.manifest import source_tables
    from lake.stack import lifecycle, postgres

    lifecycle.up()
    with Progress(console=console) as progress, source() as connection:
        task = progress.add_task("fill the source", total=rows)
        fill(connection, rows=rows, progress=lambda done, _: progress.update(task, completed=done))
    began = time.perf_counter()
    with console.status("copy it into bronze"):
        load = ingest(source_tables(), postgres.source_owner(), lambda *_: None)
    if load.rows:
        total, seconds = sum(load.rows.values()), time.perf_counter() - began
        console.print(f"bulk load: {total:,} rows in {seconds:.1f} s")
    lifecycle.start_capture()


def change(seed: int) -> None:
    """Have the source make changes, and bronze hold them."""
    from lake import lag
    from lake.demo import workload
    from lake.demo.run import source

    with source() as connection:
        workload.run(connection, rate=10_000, count=CHANGES, seed=seed)
    lag.catch_up()


def compare(floor: Floor) -> None:
    """Bring the floor up to where `lake` is. Ends all of it where its answer is another."""
    import duckdb

    from lake.stack import trino

    floor.incremental()
    query = (
        "select count(*), sum(paid_amount), sum(installments_paid_late), count(decided_at)"
        " from gold.fct_loans"
    )
    with duckdb.connect(str(floor.file), read_only=True) as database:
        answers = database.execute(query).fetchall()[0], tuple(trino.ask(query)[0])
    if answers[0] != answers[1]:
        console.print(f"the tables differ: {answers}")
        raise typer.Exit(1)


def main(
    rows: int, engines: str = "duckdb,trino,spark", rounds: int = ROUNDS, full: bool = True
) -> None:
    """Measure, and print each engine's costs as soon as they are known.

    Without a full build the tables are those of the last time; the first build is a cold server's.
    """
    where = use_installation(rows)
    from lake.stack import lifecycle

    chosen = {
        name: Floor(where / "floor.duckdb") if name == "duckdb" else Engine(name)
        for name in engines.split(",")
    }
    try:
        land(rows)
        for name, engine in chosen.items():
            console.print(
                f"[bold]{rows:,} loans: {name}[/]", measure(engine, rows, rounds, full=full)
            )
        if isinstance(floor := chosen.get("duckdb"), Floor) and len(chosen) > 1:
            compare(floor)
    finally:
        lifecycle.down()


def measure(engine: Engine, rows: int, rounds: int, *, full: bool) -> Table:
    """The costs of a full build (at less than a million loans, of a third), and so on."""
    headings = ("SECONDS", "CPU, s", "PEAK, GiB", "READ, MiB", "MODELS, s", "TESTS, s")
    table = Table("", *headings)
    if full:
        *_, cost = (engine.full() for _ in range(rounds if rows < 1_000_000 else 1))
        table.add_row("full build", *cost.row())
    builds = []
    for _ in range(rounds):
        change(seed=time.time_ns() % 10**6)
        builds.append(engine.incremental())
    median = sorted(builds, key=lambda cost: cost.seconds)[rounds // 2]
    table.add_row(f"incremental, after {CHANGES:,} changes", *median.row())
    for number, cost in enumerate(engine.asked(questions()), 1):
        table.add_row(f"question {number}", *cost.row())
    return table


if __name__ == "__main__":
    typer.run(main)
