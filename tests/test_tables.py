"""A table is brought into a lake that is at work: by one entry, under load, through kills."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from lake import lag
from lake.branches import branch, publish
from lake.catalog import catalog, open_catalog
from lake.demo.run import source
from lake.manifest import copy_project
from lake.settings import on_branch
from lake.stack import trino
from tests.conftest import lake, soak
from tests.test_run import pointers

BRANCH = "with_customers"
TABLE = """
    create table customer (
        customer_id bigint,
        region text,
        name text not null,
        balance numeric(12, 2),
        "order" integer,
        "on" boolean,
        "Loyalty Card" text,
        tags text[],
        updated_at timestamptz not null default now(),
        primary key (region, customer_id)
    );
    alter table customer replica identity full;
    comment on table customer is 'Who has an account.';
    comment on column customer.name is 'As it is "printed" on letters, {{ braces }} and all.';
    insert into customer (customer_id, region, name, balance)
        select i, chr(65 + i % 2), 'no. ' || i, i from generate_series(1, 2000) as i;
    create table office (office_id int primary key, town text);
    insert into office values (1, 'Aachen'), (2, 'Bonn');
"""
RULES = """
    config:
      meta:
        rules:
          named: regexp_like(name, '^no. [0-9]{1,4}$')
          rich: {condition: balance <= 1990, on_break: warn}
          region_known: {condition: "region in ('A', 'B')", on_break: stop}
"""


@pytest.fixture
def customer(
    demo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection]:
    """A table in the demo's source that nobody declared yet, and a project of the test's own."""
    project = copy_project(tmp_path / "dbt_project")
    monkeypatch.setenv("LAKE_PROJECT_DIR", str(project))
    before = publish.log(1)[0].id
    with source() as connection:
        connection.execute(TABLE)
        yield connection
        connection.execute("drop table customer, office")
    lake("branch", "drop", BRANCH)
    publish.rollback(before)


@contextmanager
def writers(count: int) -> Iterator[None]:
    """Writers whose transactions overlap; each keeps what it wrote open for a while."""
    stop = threading.Event()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with source() as connection:
            while not stop.is_set():
                with connection.transaction():
                    for _ in range(chance.randint(1, 4)):
                        _change(connection, chance)
                        time.sleep(chance.choice([0, 0.02]))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _change(connection: psycopg.Connection, chance: random.Random) -> None:
    number = chance.randint(1, 2400)
    which = "where customer_id = %s and region = %s"
    key = [number, chr(65 + number % 2)]
    match chance.randint(0, 3):
        case 0:
            connection.execute(f"delete from customer {which}".encode(), key)
        case 1:
            connection.execute(
                "insert into customer (customer_id, region, name) values (%s, %s, 'new')"
                " on conflict do nothing",
                key,
            )
        case _:
            connection.execute(
                "update customer set balance = coalesce(balance, 0) + 1, updated_at = now()"
                f" {which}".encode(),
                key,
            )


def kill_ingest_once(reached: Callable[[], bool]) -> None:
    """Start `lake ingest`, and kill it when it has come so far."""
    command = [str(Path(sys.executable).with_name("lake")), "ingest"]
    with subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE, text=True) as process:
        while not reached():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)
        process.kill()


def interrupt_an_ingest_that_waits() -> None:
    """Have `lake ingest` wait for a transaction of no table, say so, and be interrupted then."""
    command = [str(Path(sys.executable).with_name("lake")), "ingest"]
    with source() as idle, idle.transaction():
        pid = idle.info.backend_pid
        idle.execute("select pg_current_xact_id()")
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            told = next(line for line in process.stderr if "waiting for" in line)
            process.send_signal(signal.SIGINT)
    assert f"open at the source: pid {pid} of " in told
    assert process.returncode != 0


def ask(connection: psycopg.Connection, query: str) -> bool:
    return connection.execute(query.encode()).fetchone() is not None


def assert_each_change_follows_from_the_one_before() -> None:
    """What the snapshot holds and each change since fit together: none is missed, none is twice."""
    lsn = lag.snapshot_lsn("bronze.customer")
    assert lsn is not None
    taken = catalog().load_table("bronze.customer").scan(f"_snapshot_lsn = {lsn}").to_arrow()
    rows = {(row["region"], row["customer_id"]): row["balance"] for row in taken.to_pylist()}
    landed = catalog().load_table("bronze.changes").scan("source_table = 'public.customer'")
    changes = sorted(
        (change["commit_lsn"], change["ordinal"], change["before"], change["after"])
        for change in landed.to_arrow().to_pylist()
        if change["commit_lsn"] >= lsn
    )
    assert changes
    for *_, before, after in changes:
        for image, follows in ((before, True), (after, False)):
            if image:
                row = json.loads(image)
                key = row["region"], int(row["customer_id"])
                balance = None if row["balance"] is None else Decimal(row["balance"])
                if follows:
                    assert rows.pop(key) == balance
                else:
                    assert key not in rows
                    rows[key] = balance


def assert_silver_is_the_source() -> None:
    found = lake("--branch", BRANCH, "verify", "customer", "--json")
    assert found.returncode == 0, found.stdout + found.stderr
    (compared,) = json.loads(found.stdout)["tables"]
    assert compared["target"] == "silver.customers"
    with on_branch(BRANCH):
        history = catalog().load_table("silver.customers_history").scan("is_current = true")
        assert history.to_arrow().num_rows == compared["rows"] > 0


def fresh_branch() -> None:
    """Have the branch be one of `lake` as it is now, bronze included."""
    lake("branch", "drop", BRANCH)
    made = lake("branch", "create", BRANCH)
    assert made.returncode == 0, made.stderr
    open_catalog.cache_clear()  # the key of the one before died with it


def build() -> None:
    """Build what was scaffolded on a fresh branch, and the gates of bronze and silver on it."""
    fresh_branch()
    select = ("--select", "customers_history", "customers")
    built = lake("--branch", BRANCH, "build", "--quiet", *select)
    assert built.returncode == 0, built.stdout + built.stderr
    for layer in ("bronze", "silver"):
        judged = lake("--branch", BRANCH, "validate", layer)
        assert judged.returncode == 0, judged.stderr


def quarantined() -> set[tuple[str, str, int]]:
    rows = catalog().load_table("silver.customers_quarantine").scan().to_arrow().to_pylist()
    return {(row["rule"], row["region"], row["customer_id"]) for row in rows}


def test_tables_of_another_project_obey_their_rules_and_wait_for_their_declaration(
    customer: psycopg.Connection,
) -> None:
    assert lake("scaffold", "public.customer", "public.office").returncode == 0
    interrupt_an_ingest_that_waits()
    said = "is declared, and not in bronze yet: run `lake ingest`"
    for verb in ("status", "doctor"):
        assert "public.customer is declared, and not in bronze yet" in lake(verb).stdout, verb
    assert said in lake("status").stdout
    refused = lake("run")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "bronze.customer, bronze.office: declared, and not there yet" in refused.stderr
    assert lake("ingest").returncode == 0
    models = Path(os.environ["LAKE_PROJECT_DIR"]) / "models"
    for path in [*models.glob("gold/*"), *models.glob("silver/loan*"), models / "exposures.yml"]:
        path.unlink()
    declared = models / "silver" / "customers.yml"
    head, tests, tail = declared.read_text().partition("    data_tests:")
    declared.write_text(head + RULES.lstrip("\n") + tests + tail)

    customer.execute("update customer set name = 'Ann' where customer_id = 5")
    customer.execute("insert into customer (customer_id, region, name) values (9, 'C', 'no. 9')")
    lag.catch_up()
    before = pointers()
    stopped = lake("run")
    assert stopped.returncode == 1, stopped.stderr
    said = "region_known: region in ('A', 'B'); found 1 rows, as region C, customer_id 9\n"
    assert f"silver.customers_quarantine: expected that {said}" in stopped.stderr
    assert pointers() == before
    failed = branch.refs()[-1].name
    ((status, table, name),) = trino.ask(
        "select status, table_name, name from quality.results"
        f" where run_id = '{failed}' and kind = 'expectation' and status not in ('pass', 'warn')"
    )
    assert (status, table) == ("fail", "silver.customers_quarantine")
    assert name == "region_known: region in ('A', 'B')"
    branch.drop(failed)

    customer.execute("delete from customer where region = 'C'")
    with customer.transaction():
        customer.execute("update office set town = 'Berlin' where office_id = 2")
        customer.execute("alter table office rename town to city")
        customer.execute("update office set city = 'Cologne' where office_id = 1")
    lag.catch_up()
    done = lake("run", "--target", "trino")
    assert done.returncode == 0, done.stderr
    suspended = "public.office has no column town, which is declared"
    assert suspended in done.stderr
    assert suspended in lake("status").stdout
    assert offices() == {1: "Aachen", 2: "Bonn"}, "none of that transaction is read"
    unsaid = lake("verify", "office", "customer")
    assert unsaid.returncode == 2, unsaid.stdout
    assert "it came without the column town, which is declared" in unsaid.stdout
    assert "rows, all equal in silver.customers" in unsaid.stdout
    assert "customers_quarantine: expected that rich: balance <= 1990; found 10" in done.stderr
    rich = {("rich", chr(65 + i % 2), i) for i in range(1991, 2001)}
    assert quarantined() == {("named", "B", 5), *rich}
    kept = catalog().load_table("silver.customers").scan().to_arrow()
    assert kept.num_rows == 1999
    assert 5 not in kept["customer_id"].to_pylist()

    customer.execute("update customer set name = 'no. 5', \"order\" = 1 where customer_id = 5")
    listed = models / "bronze" / "bronze.yml"
    text = listed.read_text()
    for old, new in (
        ("{name: town,", "{name: town, config: {meta: {source_column: city}},"),
        ("source_table: public.office,", "source_table: public.office, truncate: ignore,"),
    ):
        assert old in text
        text = text.replace(old, new)
    listed.write_text(text)
    ingested = lake("ingest")
    assert ingested.returncode == 0, ingested.stderr
    assert "2 rows of public.office in" in ingested.stderr
    customer.execute("update office set city = 'Bremen' where office_id = 2")
    customer.execute("truncate office")
    customer.execute("insert into office values (3, 'Essen')")
    lag.catch_up()
    done = lake("run")
    assert done.returncode == 0, done.stderr
    assert quarantined() == rich
    assert offices() == {1: "Cologne", 2: "Bremen", 3: "Essen"}, "a TRUNCATE is ignored"
    found = lake("verify", "customer", "office")
    assert (found.returncode, found.stdout[:27]) == (0, "public.customer: 2,000 rows"), found
    assert "public.office: 1 rows, all equal" in found.stdout


def offices() -> dict[int, str]:
    rows = catalog().load_table("silver.offices").scan().to_arrow().to_pylist()
    return {row["office_id"]: row["town"] for row in rows}


@soak
def test_a_table_is_brought_in_under_load_through_kills_and_taken_anew_after_a_truncate(
    customer: psycopg.Connection,
) -> None:
    made = lake("scaffold", "public.customer")
    assert made.returncode == 0, made.stderr
    assert "region, name" not in made.stderr, "what has a comment is described"
    (unwritten,) = lake("check").stdout.splitlines()
    assert "models/bronze/customer.md:1: not described: " in unwritten
    assert unwritten.count(",") == 7
    again = lake("scaffold", "customer")
    assert again.returncode == 2
    assert "declares public.customer already, as `customer`" in again.stderr

    with writers(4):
        kill_ingest_once(
            lambda: ask(customer, "select from pg_publication_tables where tablename = 'customer'")
        )
        kill_ingest_once(lambda: ask(customer, "select from pg_replication_slots where temporary"))
        done = lake("ingest")
        assert done.returncode == 0, done.stderr
        assert "of public.customer in" in done.stderr
        time.sleep(2)
    lag.catch_up()
    assert not ask(customer, "select from pg_replication_slots where temporary")
    assert "bronze is loaded already" in lake("ingest").stderr
    assert_each_change_follows_from_the_one_before()
    build()
    assert_silver_is_the_source()
    published = lake("publish", BRANCH)
    assert published.returncode == 0, published.stderr

    customer.execute("truncate customer")
    customer.execute("insert into customer (customer_id, region, name) values (1, 'A', 'anew')")
    lag.catch_up()
    build()
    assert_silver_is_the_source()
    with writers(2):
        retaken = lake("ingest", "--again", "customer")
        assert retaken.returncode == 0, retaken.stderr
    lag.catch_up()
    assert_each_change_follows_from_the_one_before()
    build()
    assert_silver_is_the_source()
