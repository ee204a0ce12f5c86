"""The main job, step by step, while the source is at work; each step is a verb of its own too."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from rich.console import Console

from lake import lag
from lake.credentials import credentials
from lake.demo import memory, proof, report, workload
from lake.demo.fill import fill
from lake.errors import GateError, LakeError
from lake.manifest import dbt, source_tables
from lake.stack import lifecycle, postgres


@dataclass(frozen=True)
class Options:
    """What the source is filled with, and how it works on: `rate` is operations in a second."""

    rows: int | None
    csv: Path | None
    seed: int
    rate: float
    mix: dict[str, float]


@dataclass
class Done:
    """What the report tells of the run."""

    seconds: dict[str, float] = field(default_factory=dict)
    bronze_seconds: float = 0.0
    gold_seconds: float = 0.0
    memory_bytes: int = 0


def source() -> psycopg.Connection:
    """A connection of the source's own team, not of the lake."""
    return postgres.connect("source", "source", credentials().source_password)


def run(options: Options, console: Console) -> None:
    """Do the main job and report.

    Raises LakeError where a step can't be done, GateError where the data is not as declared.
    """
    # Heavy imports, which a mistyped option need not wait for.
    from feature_repo import features
    from ingestion.snapshot import ingest
    from quality.gate import validate

    done = Done()

    @contextmanager
    def step(name: str) -> Iterator[list[str]]:
        said: list[str] = []
        began = time.monotonic()
        with console.status(name):
            yield said
        done.seconds[name] = time.monotonic() - began
        detail = ", ".join(said)
        console.print(f"[green]✓[/] {name:<38}{done.seconds[name]:>6.1f} s  {detail}")

    began = time.monotonic()
    lifecycle.up()
    done.seconds["stack"] = time.monotonic() - began
    with memory.watched() as peak, source() as connection:
        with step("fill the source") as said:
            filled = fill(connection, rows=options.rows, csv=options.csv, seed=options.seed)
            said.append(f"{filled.loans:,} loans, {filled.payments:,} payments")
        with at_work(options) as summary:
            with step("copy it into bronze, while it is at work") as said:
                load = ingest(source_tables(), postgres.source_owner(), lambda *_: None)
                said.append(f"{sum(load.rows.values()):,} rows" if load else "done before")
            lifecycle.start_capture()
            with step("build silver and gold, meanwhile"):
                dbt("build", "--quiet")
        (worked,) = summary
        console.print(f"  the source did {worked.total:,} transactions in {worked.seconds:.0f} s")
        stopped = time.monotonic()
        with step("wait for the last change in bronze") as said:
            lag.catch_up()
            done.bronze_seconds = time.monotonic() - stopped
        with step("build what changed"):
            dbt("build", "--quiet")
            done.gold_seconds = time.monotonic() - stopped
        with step("compare silver with the source") as said:
            compared = proof.differences(connection)
            if wrong := {table: n for table, (_, n) in compared.items() if n}:
                raise LakeError(f"silver is not the source: {wrong} rows differ")
            said.append(f"{sum(rows for rows, _ in compared.values()):,} rows, all equal")
        with step("judge bronze, silver and gold") as said:
            judged = validate()
            said.append(f"{len(judged.findings)} expectations")
        with step("bring the features online") as said:
            features.apply()
            brought = features.materialize()
            said.append(f"{brought.written:,} written, {brought.removed:,} removed")
        with step("make a training frame") as said:
            frame = features.training_frame()
            said.append(f"{len(frame):,} rows of {len(frame.columns)} columns")
    done.memory_bytes = peak.bytes
    done.seconds["in all"] = time.monotonic() - began
    report.show(done.seconds, done.bronze_seconds, done.gold_seconds, peak.bytes, judged, console)
    if judged.failures:
        raise GateError("\n".join(map(str, judged.failures)))


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
