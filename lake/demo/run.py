"""The main job, step by step, while the source is at work; each step is a verb of its own too."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rich.console import Console

from lake import lag
from lake.credentials import credentials
from lake.demo import memory, proof, report, workload
from lake.demo.fill import fill
from lake.errors import LakeError
from lake.manifest import dbt, source_tables
from lake.stack import lifecycle, postgres, supervisor


@dataclass(frozen=True)
class Options:
    """What the source is filled with, and how it works on: `rate` is transactions in a second."""

    rows: int | None
    csv: Path | None
    seed: int
    rate: float
    mix: dict[str, float]


@dataclass(frozen=True)
class Steps:
    """Where the steps are told: each is a line on the console once it ends, with its seconds."""

    console: Console

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step; what is appended to the yielded list is told beside it."""
        said: list[str] = []
        began = time.monotonic()
        with self.console.status(name):
            yield said
        seconds = time.monotonic() - began
        line = f"[green]✓[/] {name:<38}{seconds:>6.1f} s  {', '.join(said)}"
        self.console.print(line.rstrip())


def source() -> psycopg.Connection:
    """A connection of the source's own team, not of the lake."""
    return postgres.connect("source", "source", credentials().source_password)


def run(options: Options, console: Console) -> None:
    """Do the main job and report; the stack stays up, unless it was interrupted.

    Raises LakeError where a step can't be done, GateError where the data is not as declared.
    """
    from quality.gate import validate  # heavy: a mistyped option need not wait for it

    began = time.monotonic()
    was_running = supervisor.running()
    try:
        lifecycle.up()
        ready_seconds = time.monotonic() - began
        steps = Steps(console)
        with memory.watched() as peak, source() as connection:
            land(steps, connection, options)
            freshness = catch_up(steps)
            compare(steps, connection)
            with steps.step("judge bronze, silver and gold") as said:
                judged = validate()
                said.append(f"{len(judged.findings)} expectations")
            serve(steps)
        cost = report.Cost(ready_seconds, time.monotonic() - began, peak.bytes)
        report.show(cost, freshness, judged, console)
    except KeyboardInterrupt:
        if not was_running:
            lifecycle.down()
        raise
    judged.enforce()


def land(steps: Steps, connection: psycopg.Connection, options: Options) -> None:
    """Fill the source, and bring it into the lake while it is at work."""
    from ingestion.snapshot import ingest

    with steps.step("fill the source") as said:
        filled = fill(connection, rows=options.rows, csv=options.csv, seed=options.seed)
        said.append(f"{filled.loans:,} loans, {filled.payments:,} payments")
    with at_work(options) as summary:
        with steps.step("copy it into bronze, while it works on") as said:
            load = ingest(source_tables(), postgres.source_owner(), lambda *_: None)
            said.append(f"{sum(load.rows.values()):,} rows" if load else "done before")
        lifecycle.start_capture()
        with steps.step("build silver and gold, meanwhile"):
            dbt("build", "--quiet")
    (worked,) = summary
    steps.console.print(f"  the source did {worked.total:,} transactions meanwhile")


def catch_up(steps: Steps) -> report.Freshness:
    """Build what was committed since; returns how long after the last commit it was there."""
    stopped = time.monotonic()
    with steps.step("wait for the last change in bronze"):
        lag.catch_up()
    in_bronze = time.monotonic() - stopped
    with steps.step("build what changed"):
        dbt("build", "--quiet")
    return report.Freshness(in_bronze, time.monotonic() - stopped)


def compare(steps: Steps, connection: psycopg.Connection) -> None:
    """Compare silver with the source. Raises LakeError where a row differs."""
    with steps.step("compare silver with the source") as said:
        compared = proof.differences(connection)
        if wrong := {table: differing for table, (_, differing) in compared.items() if differing}:
            raise LakeError(f"silver is not the source: {wrong} rows differ")
        said.append(f"{sum(rows for rows, _ in compared.values()):,} rows, all equal")


def serve(steps: Steps) -> None:
    """Bring features online, and make a training frame of them."""
    from feature_repo import features

    with steps.step("bring the features online") as said:
        features.apply()
        brought = features.materialize()
        said.append(f"{brought.written:,} written, {brought.removed:,} removed")
    with steps.step("make a training frame") as said:
        frame = features.training_frame()
        said.append(f"{len(frame):,} rows of {len(frame.columns)} columns")


@contextmanager
def at_work(options: Options) -> Iterator[list[workload.Summary]]:
    """Have the source work, on its own connection, until the block ends; yields its summary."""
    stop, summary, failures = threading.Event(), list[workload.Summary](), list[LakeError]()

    def work() -> None:
        try:
            with source() as connection:
                summary.append(
                    workload.run(
                        connection, rate=options.rate, mix=options.mix, stop=stop, seed=options.seed
                    )
                )
        except LakeError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield summary
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]
