"""`lake sql` as people type it: what it prints, how it ends, and what it leaves in Trino."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lake.branches import branch, publish
from lake.catalog import open_catalog
from lake.query import statements
from lake.stack import trino
from tests.conftest import lake

LAKE = str(Path(sys.executable).with_name("lake"))
ENDLESS = (
    "select x.n, y.n from unnest(sequence(1, 10000)) as x (n)"
    " cross join unnest(sequence(1, 10000)) as y (n) cross join unnest(sequence(1, 10000))"
)
VALUES = (
    "select * from (values (1, 'a;b', decimal '12.50', true), (2, '', null, false),"
    " (3, 'say \"hi\",' || chr(10) || 'twice', decimal '-0.10', null)) as t (id, said, paid, ok)"
)


def asked(*arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    """Run `lake sql` with something on its standard input."""
    return subprocess.run(
        [LAKE, "sql", *arguments], input=given, capture_output=True, text=True, check=False
    )


def state_of(marked: str) -> list[str]:
    """The state and the error of the queries that end in a mark, as Trino tells them."""
    query = "select state || coalesce(' ' || error_code, '') from system.runtime.queries"
    return [row[0] for row in trino.ask(f"{query} where query like '%-- {marked}'")]


def wait_for_state(marked: str, state: str) -> None:
    """Wait until a query is in a state, for at most half a minute."""
    deadline = time.monotonic() + 30
    while state_of(marked) != [state]:
        assert time.monotonic() < deadline, state_of(marked)
        time.sleep(0.2)


def test_a_table_aligns_numbers_right_and_shows_what_can_not_be_seen(lake_stack: Path) -> None:
    done = asked(VALUES)
    assert done.stdout.splitlines() == [
        "id  said               paid  ok",
        "--  ----------------  -----  -----",
        " 1  a;b               12.50  true",
        " 2                     NULL  false",
        ' 3  say "hi",\\ntwice  -0.10  NULL',
    ]
    assert (done.returncode, done.stderr) == (0, "")


def test_csv_gives_every_value_back_and_tells_null_from_nothing(lake_stack: Path) -> None:
    done = asked("--format", "csv", VALUES)
    assert list(csv.reader(io.StringIO(done.stdout))) == [
        ["id", "said", "paid", "ok"],
        ["1", "a;b", "12.50", "true"],
        ["2", "", "", "false"],
        ["3", 'say "hi",\ntwice', "-0.10", ""],
    ]
    assert '2,"",,false\n' in done.stdout


def test_json_is_an_object_a_line(lake_stack: Path) -> None:
    done = asked("--format", "json", VALUES)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"id": 1, "said": "a;b", "paid": "12.50", "ok": True},
        {"id": 2, "said": "", "paid": None, "ok": False},
        {"id": 3, "said": 'say "hi",\ntwice', "paid": "-0.10", "ok": None},
    ]


def test_json_refuses_two_columns_of_one_name(lake_stack: Path) -> None:
    done = asked("--format", "json", "select 1 as a, 2 as a")
    assert (done.returncode, done.stdout) == (2, "")
    assert "two columns are named `a`" in done.stderr


def test_a_query_is_read_from_standard_input(lake_stack: Path) -> None:
    done = asked("--format", "csv", given="-- two of them\nselect 1 as a;\nselect 2 as b -- ;\n")
    assert done.stdout == "a\n1\nb\n2\n"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("selec 1", "line 1:1: mismatched input 'selec'"),
        ("select 1 as a,\n nope", "line 2:2: Column 'nope' cannot be resolved"),
        ("select * from nowhere", "line 1:15: Table 'lake.gold.nowhere' does not exist"),
        ("select 1 / 0", "Division by zero"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(lake_stack: Path, query: str, said: str) -> None:
    done = asked(query)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_after_a_mistake_nothing_more_is_tried(lake_stack: Path) -> None:
    done = asked("--format", "csv", "select 1 as a; select 1 / 0 as b; select 3 as c")
    assert (done.returncode, done.stdout) == (2, "a\n1\n")


def test_a_branch_that_is_none_is_named(lake_stack: Path) -> None:
    done = lake("--branch", "query_none", "sql", "select 1")
    assert done.returncode == 2
    assert "there is no branch `query_none`" in done.stderr


@pytest.fixture
def on_mine(lake_stack: Path) -> Iterator[str]:
    branch.create("query_mine")
    yield "query_mine"
    branch.drop("query_mine")


def test_a_branch_is_asked_in_gold_even_if_trino_has_forgotten_it(on_mine: str) -> None:
    made = "create schema if not exists gold; create table mark as select 42 as answer"
    assert lake("--branch", on_mine, "sql", made).returncode == 0
    trino.drop_catalog(on_mine)
    done = lake("--branch", on_mine, "sql", "--format", "csv", "select * from mark")
    assert done.stdout == "answer\n42\n", done.stderr


def test_the_lake_is_asked_as_readers_saw_it_then(lake_stack: Path) -> None:
    branch.create("query_first")
    made = "create schema if not exists gold; create table query_at as select 42 as answer"
    assert lake("--branch", "query_first", "sql", made).returncode == 0
    publish.publish("query_first")
    branch.create("query_second")
    open_catalog("query_second").drop_table("gold.query_at")
    publish.publish("query_second")
    second, first = publish.log(2)
    asking = ("--format", "csv", "select answer from query_at")
    for moment in (str(first.id), first.at.isoformat()):
        assert asked("--at", moment, *asking).stdout == "answer\n42\n"
    for moment in (str(second.id), second.at.isoformat()):
        assert "query_at' does not exist" in asked("--at", moment, *asking).stderr
    assert lake("pin", first.at.isoformat()).stdout == f"publish_{first.id}\n"


def test_a_branch_has_no_moments(on_mine: str) -> None:
    done = lake("--branch", on_mine, "sql", "--at", "1", "select 1")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "a branch or a tag has no publishes" in done.stderr


def test_rows_come_while_the_query_runs_and_a_reader_that_leaves_ends_it(lake_stack: Path) -> None:
    query = f"{ENDLESS} -- query_streams"
    command = [LAKE, "sql", "--format", "csv", query]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        lines = [asking.stdout.readline() for _ in range(3)]
        assert lines[0] == "n,n\n"
        assert all(re.fullmatch(r"\d+,\d+\n", line) for line in lines[1:])
        assert state_of("query_streams") == ["RUNNING"]
        asking.stdout.close()
        assert asking.wait(timeout=30) != 0
    wait_for_state("query_streams", "FAILED USER_CANCELED")


def test_an_interrupt_cancels_the_query_and_exits_130(lake_stack: Path) -> None:
    query = f"select count(*) from ({ENDLESS}) as t (a, b) -- query_interrupted"
    with subprocess.Popen([LAKE, "sql", query], stdout=subprocess.PIPE) as asking:
        wait_for_state("query_interrupted", "RUNNING")
        asking.send_signal(signal.SIGINT)
        assert asking.wait(timeout=30) == 130
    wait_for_state("query_interrupted", "FAILED USER_CANCELED")


def test_without_a_stack_it_says_at_once_what_to_do(tmp_path: Path) -> None:
    done = lake("sql", "select 1", LAKE_STATE_DIR=str(tmp_path), LAKE_PORTS__TRINO="1")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "lake up" in done.stderr


# Where a statement ends

PIECES = [
    "select 1",
    "'a;b'",
    "'it''s;'",
    '"odd;name"',
    "-- no; end\n",
    "/* nor; here */",
    "/",
    "-",
    "\n",
    " x ",
]


@given(st.lists(st.lists(st.sampled_from(PIECES), min_size=1), min_size=1))
def test_only_a_semicolon_of_its_own_ends_a_statement(made: list[list[str]]) -> None:
    parts = [" ".join(pieces) for pieces in made]
    wanted = [part.strip() for part in parts if part.strip()]
    assert statements("".join(f"{part};" for part in parts)) == (wanted, "")


@pytest.mark.parametrize("begun", ["select 'a;", 'select "a;', "select 1 /* a;", "select 1 -- a;"])
def test_what_has_not_ended_goes_on(begun: str) -> None:
    assert statements(f"select 0; {begun}") == (["select 0"], begun)


def test_a_comment_after_the_last_semicolon_is_no_statement() -> None:
    assert statements("select 0; -- done\n/* really */") == (["select 0"], "")
