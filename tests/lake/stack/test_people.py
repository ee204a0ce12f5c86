"""What people may not do on Trino, and what they may not take from others."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from trino.dbapi import Cursor, connect
from trino.exceptions import TrinoUserError

from lake.branches import branch
from lake.settings import settings
from lake.stack import people, trino

ENDLESS = "select * from unnest(sequence(1, 10000)), unnest(sequence(1, 10000))"
"""Runs for as long as nobody reads on, and works on nothing meanwhile."""


def asks(user: str, query: str, **options: Any) -> Cursor:
    """A query that a user has begun."""
    host, port = settings().host, settings().ports.trino
    opened = connect(host=host, port=port, user=user, catalog="lake", schema="silver", **options)
    cursor: Cursor = opened.cursor()
    cursor.execute(query)
    return cursor


def http(method: str, path: str, user: str, body: str | None = None) -> int:
    """The status that Trino answers a request of a user with."""
    request = urllib.request.Request(
        f"http://{settings().host}:{settings().ports.trino}{path}",
        method=method,
        data=body.encode() if body else None,
        headers={"X-Trino-User": user, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def query_of_ana(lake_stack: Path) -> Iterator[str]:
    """A query that runs, by its id."""
    cursor = asks("ana", ENDLESS)
    yield cursor.stats["queryId"]
    cursor.cancel()


@pytest.mark.parametrize(
    "act",
    [
        "create catalog people_made using iceberg",
        "drop catalog lake",
        "create schema lake.people_made",
        "drop schema lake.gold cascade",
        "create table lake.silver.people_made (a int)",
        "create table lake.silver.people_made as select 1 as a",
        "create view lake.silver.people_made as select 1 as a",
        "create function lake.silver.people_made(a int) returns int return a",
        "call lake.system.unregister_table('silver', 'people_made')",
        "set session query_max_execution_time = '1d'",
        "set session query_max_run_time = '1d'",
        "set session query_priority = 100",
        "set session authorization lake",
    ],
)
@pytest.mark.parametrize("user", ["ana", "LAKE", "lakes"])
def test_people_may_not(lake_stack: Path, user: str, act: str) -> None:
    with pytest.raises(TrinoUserError) as refused:
        asks(user, act)
    assert refused.value.error_name == "PERMISSION_DENIED"


def test_dbt_may_not_make_or_drop_catalogs_either(lake_stack: Path) -> None:
    for act in ("create catalog people_made using iceberg", "drop catalog lake"):
        with pytest.raises(TrinoUserError, match=r"Cannot (create|drop) catalog"):
            asks("dbt", act)


def test_a_limit_can_not_be_lifted_as_a_client_connects(lake_stack: Path) -> None:
    with pytest.raises(TrinoUserError, match="Cannot set system session property"):
        asks("ana", "select 1", session_properties={"query_max_execution_time": "1d"})


def test_nobody_sees_or_ends_the_query_of_another(query_of_ana: str) -> None:
    listed = f"select state from system.runtime.queries where query_id = '{query_of_ana}'"
    kill = f"call system.runtime.kill_query(query_id => '{query_of_ana}', message => 'mine?')"
    assert asks("ben", listed).fetchall() == []
    with pytest.raises(TrinoUserError, match="Cannot kill query"):
        asks("ben", kill)
    assert http("GET", f"/v1/query/{query_of_ana}", "ben") == 403
    assert http("DELETE", f"/v1/query/{query_of_ana}", "ben") == 403
    assert asks("ana", listed).fetchall() == [["RUNNING"]]
    asks("ana", kill)
    assert asks("ana", listed).fetchall() == [["FAILED"]]


def test_people_can_not_stop_the_server(lake_stack: Path) -> None:
    assert http("PUT", "/v1/info/state", "ana", '"SHUTTING_DOWN"') == 403
    assert trino.ask("select 1") == [[1]]


def test_people_write_on_a_branch_with_all_that_belongs_to_it(lake_stack: Path) -> None:
    branch.create("people_mine")
    try:
        asks("ana", "create schema if not exists people_mine.silver")
        table = "people_mine.silver.people_table"
        asks("ana", f"create table {table} as select 1 as a")
        asks("ana", f"insert into {table} values 2")
        asks("ana", f"alter table {table} execute optimize")
        assert asks("ana", f"select a from {table} order by a").fetchall() == [[1], [2]]
        history = 'people_mine.silver."people_table$snapshots"'
        listed = f"select snapshot_id from {history} order by committed_at"
        (first,), *_, (last,) = asks("ana", listed).fetchall()
        between = f"'silver', 'people_table', {first}, {last}"
        changed = f"select * from table(people_mine.system.table_changes({between}))"
        assert len(asks("ana", changed).fetchall()) > 0
    finally:
        branch.drop("people_mine")


@pytest.fixture
def all_taken(lake_stack: Path) -> Iterator[None]:
    """People run as many queries as they may, and none of them ends."""
    limits = settings().queries
    with ExitStack() as running:
        for number in range(limits.running):
            cursor = asks(f"people_{number // limits.running_each}", ENDLESS)
            running.callback(cursor.cancel)
        yield


def queued(user: str) -> str:
    """Send a query that is not waited for; returns the address where it is asked after."""
    request = urllib.request.Request(
        f"http://{settings().host}:{settings().ports.trino}/v1/statement",
        data=b"select 1",
        headers={"X-Trino-User": user},
    )
    for _ in range(2):  # it is queued when it is first asked after
        with urllib.request.urlopen(request) as answer:
            request = urllib.request.Request(json.load(answer)["nextUri"])
    return request.full_url


def cancel(address: str) -> None:
    urllib.request.urlopen(urllib.request.Request(address, method="DELETE")).close()


def test_a_query_over_the_limit_waits_while_builds_and_the_lake_itself_go_on(
    all_taken: None,
) -> None:
    waiting = queued("cleo")
    try:
        states = "select state from system.runtime.queries where \"user\" = 'cleo'"
        assert trino.ask(states) == [["QUEUED"]]
        assert trino.ask("select 1") == [[1]]
        assert asks("dbt", "select 1").fetchall() == [[1]]
        assert trino.ask(states) == [["QUEUED"]]
    finally:
        cancel(waiting)


def test_one_user_does_not_take_the_share_of_another(lake_stack: Path) -> None:
    with ExitStack() as open_ones:
        for _ in range(settings().queries.running_each):
            open_ones.callback(asks("greedy", ENDLESS).cancel)
        open_ones.callback(cancel, queued("greedy"))
        assert asks("modest", "select 1").fetchall() == [[1]]


def test_a_user_with_too_many_waiting_is_refused_with_a_clear_message(lake_stack: Path) -> None:
    limits = settings().queries
    with ExitStack() as open_ones:
        for _ in range(limits.running_each):
            open_ones.callback(asks("flood", ENDLESS).cancel)
        for _ in range(limits.queued_each):
            open_ones.callback(cancel, queued("flood"))
        with pytest.raises(Exception, match=r"Too many queued queries for .*flood") as refused:
            asks("flood", "select 1")
        assert getattr(refused.value, "error_name", None) == "QUERY_QUEUE_FULL"


def test_a_query_has_the_time_that_the_settings_give_and_is_then_ended(lake_stack: Path) -> None:
    limit = "show session like 'query_max_execution_time'"
    assert asks("ana", limit).fetchall()[0][1] == f"{settings().queries.minutes:.2f}m"
    long = "select count(*) from unnest(sequence(1, 10000)) as x (n), unnest(sequence(1, 10000))"
    with pytest.raises(Exception, match=r"exceeded the maximum execution time limit of 1\.00s"):
        asks(
            people.SERVICE,
            f"{long}, unnest(sequence(1, 10000))",
            session_properties={"query_max_execution_time": "1s"},
        )


def test_a_query_that_takes_too_much_memory_is_ended_and_the_server_goes_on(
    lake_stack: Path,
) -> None:
    numbers = "unnest(sequence(1, 10000)) as x (n), unnest(sequence(1, 10000)) as y (m)"
    with pytest.raises(Exception, match="memory limit"):
        asks("ana", f"select count(distinct n * 10000 + m) from {numbers}").fetchall()
    assert trino.ask("select 1") == [[1]]
