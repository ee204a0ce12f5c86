"""The main job, step by step, while the source is at work; each step is a verb of its own too."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psycopg
from rich.console import Console

from lake import lag
from lake import run as lake_run
from lake.branches import branch
from lake.branches import publish as publishing
from lake.branches.branch import pinned
from lake.catalog import catalog
from lake.credentials import credentials
from lake.demo import memory, report, workload
from lake.demo.fill import fill
from lake.errors import GateError, LakeError
from lake.manifest import copy_project, source_tables
from lake.settings import BUILT
from lake.stack import lifecycle, postgres, supervisor
from lake.verify.report import lines
from lake.verify.run import Options as Comparison
from lake.verify.run import verify

if TYPE_CHECKING:
    from quality.finding import Report


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
    return postgres.SOURCE.connect("source", "source", credentials().source_password)


def run(options: Options, console: Console) -> None:
    """Do the main job and report; the stack stays up, unless it was interrupted.

    Raises LakeError where a step can't be done, GateError where the data is not as declared.
    """
    began = time.monotonic()
    was_running = supervisor.running()
    try:
        lifecycle.up()
        ready_seconds = time.monotonic() - began
        steps = Steps(console)
        with memory.watched() as peak, source() as connection:
            land(steps, connection, options)
            freshness, judged = catch_up(steps)
            compare(steps)
            serve(steps)
            break_a_model(steps)
            go_back(steps)
        cost = report.Cost(ready_seconds, time.monotonic() - began, peak.bytes)
        with pinned(in_trino=True):
            report.show(cost, freshness, judged, console)
    except KeyboardInterrupt:
        if not was_running:
            lifecycle.down()
        raise


def land(steps: Steps, connection: psycopg.Connection, options: Options) -> None:
    """Fill the source, and bring it into the lake while it is at work."""
    from ingestion.snapshot import ingest

    with steps.step("fill the source") as said:
        filled = fill(connection, rows=options.rows, csv=options.csv, seed=options.seed)
        said.append(f"{filled.loans:,} loans, {filled.payments:,} payments")
    with at_work(options) as summary:
        with steps.step("copy it into bronze, while it works on") as said:
            load = ingest(
                source_tables(), postgres.source_owner(), lambda *_: None, say=steps.console.print
            )
            rows = sum(load.rows.values())
            said.append(f"{rows:,} rows" if rows else "done before")
        lifecycle.start_capture()
        publish(steps, "build, judge and publish, meanwhile")
    (worked,) = summary
    steps.console.print(f"  the source did {worked.total:,} transactions meanwhile")


def publish(steps: Steps, name: str) -> "Report":
    """Do a run; returns what its gates found. Raises GateError where one failed."""
    with steps.step(name) as said:
        done = lake_run.run([], lambda _: None)
        said.append(f"{len(done.judged.findings)} expectations")
        said.append(f"publish {done.publish}" if done.publish else "no change")
    return done.judged


def catch_up(steps: Steps) -> "tuple[report.Freshness, Report]":
    """Publish what was committed since; says how long after the last commit it was there."""
    stopped = time.monotonic()
    with steps.step("wait for the last change in bronze"):
        lag.catch_up()
    in_bronze = time.monotonic() - stopped
    judged = publish(steps, "build what changed, judge and publish")
    return report.Freshness(in_bronze, time.monotonic() - stopped), judged


def compare(steps: Steps) -> None:
    """Compare silver with the source. Raises LakeError where a row differs."""
    with steps.step("compare silver with the source") as said:
        found = verify(Comparison())
        if found.exit_code:
            raise LakeError("\n".join(["silver is not the source:", *lines(found)]))
        said.append(f"{sum(table.rows for table in found.tables):,} rows, all equal")


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


_LOANS = "from {{ ref('fct_loans') }}"
MISTAKE = (_LOANS, f"{_LOANS} where coalesce(loan_amnt, 0) < 10000")
"""A mistake that an analyst could make in `agg_loan_approvals`, and unit tests don't see."""


def break_a_model(steps: Steps) -> None:
    """Have a run with a mistake in a model be stopped. Raises LakeError where it is published."""
    with steps.step("a mistake in a model") as said, TemporaryDirectory() as scratch:
        broken = copy_project(Path(scratch) / "dbt_project")
        model = broken / "models" / "gold" / "agg_loan_approvals.sql"
        model.write_text(model.read_text().replace(*MISTAKE))
        before, refs = _pointers(), {ref.name for ref in branch.refs()}
        select = ("--select", model.stem, "--full-refresh", "--project-dir", str(broken))
        try:
            lake_run.run(select, lambda _: None)
        except GateError as error:
            found = str(error).splitlines()[0]
        else:
            raise LakeError("a model with a mistake in it passed the gates")
        if _pointers() != before:
            raise LakeError("a run that was stopped has changed `lake`")
        for ref in branch.refs():  # a user would look into it first
            if ref.name.startswith(lake_run.PREFIX) and ref.name not in refs:
                branch.drop(ref.name)
        said.append("stopped, `lake` as before")
    steps.console.print(f"  {found}", highlight=False)


def go_back(steps: Steps) -> None:
    """Roll back to the publish before the last one, and forward again."""
    kept = [one.id for one in publishing.log(2) if one.is_kept]
    if len(kept) < 2:
        return
    with steps.step("roll back, and forward again") as said:
        now = _pointers()
        back, forth = publishing.rollback(kept[1]), publishing.rollback(kept[0])
        if _pointers() != now:
            raise LakeError("`lake` is not as it was before the rollback")
        said.append(f"publishes {back} and {forth}")


def _pointers() -> dict[tuple[str, ...], str]:
    """Where `lake` points, for each table of silver and gold."""
    lake = catalog()
    names = [name for layer in BUILT for name in lake.list_tables(layer)]
    return {name: lake.load_table(name).metadata_location for name in names}


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
