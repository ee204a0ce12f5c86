"""A capture of each test's own, over its own database, slot and lake; and the source's audit."""

import json
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from ingestion.snapshot import Load, ingest
from lake import lag
from lake.branches import branch
from lake.catalog import catalog
from lake.manifest import SourceTable
from lake.settings import TRUNK, on_branch, settings
from lake.stack import capture, postgres
from lake.verify.report import TableReport
from lake.verify.run import Options, compare, snapshot
from lake.verify.tables import Target, at_source, bronze
from lake.verify.values import quoted
from tests.conftest import SHARED_TRINO, forget_settings, free_ports
from tests.ingestion.conftest import declared, owner  # noqa: F401 - a fixture

READY_SECONDS = 120
AUDIT = """
create table audit (
    id bigserial primary key, xid xid8, tab text, op text, was jsonb, becomes jsonb
);
create function as_texts(value jsonb) returns jsonb language sql as $$
    select jsonb_object_agg(one.key, one.value) from jsonb_each_text(value) as one
$$;
create function audit() returns trigger language plpgsql as $$
begin
    insert into audit (xid, tab, op, was, becomes) values (
        pg_current_xact_id(), tg_table_name, tg_op,
        case when tg_op <> 'INSERT' then as_texts(to_jsonb(old)) end,
        case when tg_op <> 'DELETE' then as_texts(to_jsonb(new)) end
    );
    return null;
end $$;
"""
"""What triggers write down of each change, in the transaction's own order."""

Change = dict[str, Any]


class Capture:
    """The capture job as a process of the test's, which can be killed at any moment."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "capture.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = capture.program()
        variables = {
            **program.environment,
            "LAKE_CAPTURE_HEARTBEAT_SECONDS": "1",
            "LAKE_CAPTURE_DIRECTORY": str(self.log.with_name("tmp")),
            "LAKE_CAPTURE_PORT": free_ports()["LAKE_PORTS__CAPTURE"],
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1",  # it starts in half the time
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                program.command, env=os.environ | variables, stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> list[psutil.Process]:
        """Send a signal to all of it, at once; returns what it had started."""
        assert self.process
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        for pid in [*(child.pid for child in children), self.process.pid]:
            os.kill(pid, number)
        return children

    def kill(self) -> None:
        self.put_down()
        assert_acknowledged_what_is_held()

    def put_down(self) -> None:
        """As `kill`, where there may be no slot any more."""
        children = self.send(signal.SIGKILL)
        assert self.process
        self.process.wait()
        psutil.wait_procs(children)

    def end(self) -> int:
        """As `lake down` does; returns the exit code."""
        assert self.process
        self.process.terminate()
        return self.process.wait(timeout=30)

    def says(self, words: str) -> str:
        """The line of the log that has these words, once it is there."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            for line in self.log.read_text().splitlines():
                if words in line:
                    return line
            time.sleep(0.2)
        raise AssertionError(f"capture did not say `{words}`: {self.log.read_text()[-3000:]}")


@contextmanager
def capture_in(directory: Path) -> Iterator[Capture]:
    """Capture, not started yet; whatever runs of it is ended with the block."""
    directory.mkdir(exist_ok=True)
    job = Capture(directory)
    try:
        yield job
    finally:
        if job.process and job.process.poll() is None:
            job.put_down()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Capture]:
    """Capture, not started yet."""
    with capture_in(tmp_path) as job:
        yield job


def hand_over(*tables: SourceTable) -> Load | None:
    """Bulk, and a slot for capture to go on from."""
    return ingest(list(tables), postgres.source_owner(), lambda *_: None)


def catch_up() -> None:
    lag.catch_up(READY_SECONDS)


def verified(table: SourceTable) -> TableReport:
    """What `lake verify --bronze` finds of a table, on a branch that the shared Trino knows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKE_PORTS__TRINO", os.environ[SHARED_TRINO])
        forget_settings()
        with snapshot() as at:
            catch_up()
            there = at_source(at.connection, table)
            target = bronze(table, there.columns)
            branch.create("judged")  # after it: capture goes on, and a branch has what came before
            try:
                with on_branch("judged"):
                    found = compare(table, there, on_judged(target), at, Options(bronze=True))
            finally:
                branch.drop("judged")
    forget_settings()
    return found


def on_judged(target: Target) -> Target:
    """The same tables by the branch: `lake` is another lake's in the shared Trino."""

    def moved(relation: str) -> str:
        assert relation.startswith(quoted(TRUNK))
        return quoted("judged") + relation.removeprefix(quoted(TRUNK))

    held = [replace(one, relation=moved(one.relation)) for one in target.held]
    return replace(target, held=held, landed=moved(target.landed))


def assert_verified(table: SourceTable) -> None:
    found = verified(table)
    assert found.verdict == "equal", found


def wait_until(reached: Callable[[], object], what: str) -> None:
    """Wait until something is so; fails, and says what, where it does not come about."""
    deadline = time.monotonic() + READY_SECONDS
    while not reached():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.1)


def another(of: psycopg.Connection) -> psycopg.Connection:
    """A second connection to the same database, in a transaction."""
    return psycopg.connect(of.info.dsn, password=of.info.password)


def changes(table: str | None = None) -> list[Change]:
    """What bronze holds of a table, in the order of positions, its images read; or of all."""
    of_table = f"source_table = '{table}'" if table else "true"
    scan = catalog().load_table("bronze.changes").scan(of_table)
    rows: list[Change] = scan.to_arrow().to_pylist()
    rows.sort(key=lambda row: (row["commit_lsn"], row["ordinal"]))
    positions = [(row["commit_lsn"], row["ordinal"]) for row in rows]
    assert len(set(positions)) == len(positions), "a change was landed twice"
    for row in rows:
        for image in ("key", "before", "after", "unchanged"):
            row[image] = row[image] and json.loads(row[image])
    return rows


def audited(connection: psycopg.Connection) -> dict[int, list[tuple[str, Any, Any]]]:
    """By transaction: operation, old and new row as the triggers saw them, in their order."""
    found = defaultdict(list)
    for xid, op, was, becomes in connection.execute(
        "select xid::text::bigint, lower(left(op, 1)), was, becomes from audit order by id"
    ).fetchall():
        found[xid].append(({"i": "c"}.get(op, op), was, becomes))
    return dict(found)


def captured(*tables: str) -> dict[int, list[tuple[str, Any, Any]]]:
    """The same out of bronze, of tables whose rows are logged whole."""
    found = defaultdict(list)
    for row in changes():
        if row["source_table"] in tables:
            found[row["xid"]].append((row["op"], row["before"], row["after"]))
    return dict(found)


def complete_lsn() -> int:
    properties = catalog().load_table("bronze.changes").properties
    return int(properties.get("lake.complete-lsn") or properties["lake.slot-lsn"])


def assert_acknowledged_what_is_held() -> None:
    """The source sends again all that the lake does not hold whole, at any moment."""
    confirmed = slot_confirmed()
    assert confirmed <= complete_lsn(), "acknowledged before it was held"


def slot_confirmed() -> int:
    with postgres.SOURCE.admin() as admin:
        row = admin.execute(
            "select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = %s",
            [settings().source.slot],
        ).fetchone()
    assert row is not None
    return int(row[0])


def kill_walsender() -> None:
    """Have the source end the stream."""
    with postgres.SOURCE.admin() as admin:
        admin.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots"
            " where slot_name = %s and active_pid is not null",
            [settings().source.slot],
        )


THING = declared("thing", ("id",), id="int", big="text")


def create_thing(owner: psycopg.Connection) -> None:  # noqa: F811
    """A table whose every change is audited."""
    owner.execute(AUDIT)
    owner.execute(
        """
        create table thing (id int primary key, name text, big text);
        alter table thing alter column big set storage external;
        alter table thing replica identity full;
        create trigger audited after insert or update or delete on thing
            for each row execute function audit();
        grant select on thing to capture;
        insert into thing select i, 'first' from generate_series(1, 100) as i;
        truncate audit;
        """
    )


@pytest.fixture
def thing(owner: psycopg.Connection) -> psycopg.Connection:  # noqa: F811
    """A source with that table, handed over to capture."""
    create_thing(owner)
    hand_over(THING)
    return owner
