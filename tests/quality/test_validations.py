"""What has passed is taken over, and never where judging it would find something else."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from psycopg.types.json import Jsonb

from lake.branches import branch, publish
from lake.errors import LakeError
from lake.settings import LAYERS, TRUNK, on_branch
from quality import bronze, frames, gate, gold, gx, history, silver, validations
from quality.finding import Finding
from quality.suite import Suite, none
from quality.suites import goes_by_the_clock, read_beside, suites
from tests.conftest import end_spark_session
from tests.lake.branches.conftest import published, put, values

ROUNDS = 15


class Expected:
    """A suite of small tables that a test changes as it goes on."""

    def __init__(self) -> None:
        self.limit = 3

    def suite(self) -> Suite:
        return {
            "silver.a": [
                none("a is small", f"select * from {{batch}} where value > {self.limit}"),
                none("a is even", "select * from {batch} where value % 2 = 1", warns=True),
            ],
            "silver.b": [
                none(
                    "b is among a",
                    "select * from {batch} left anti join silver_a using (value)",
                )
            ],
            "silver.c": [
                none("c is of today", "select * from {batch} where current_date() < '2026-01-01'")
            ],
        }


@pytest.fixture
def expected(own_lake: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Expected]:
    made = Expected()
    monkeypatch.setattr(silver, "suite", made.suite)
    monkeypatch.setattr(history, "judge", lambda _: [])

    monkeypatch.setattr(frames, "judged_on", lambda _: [*made.suite()])
    end_spark_session()  # that of another lake
    yield made
    end_spark_session()


def naive(on: str, limit: int) -> list[tuple[str, str, int]]:
    """What there is to be found, by hand: table, status, rows."""
    held = values(on)
    a, b = held["a"], held["b"]
    large, odd, strange = (
        sum(one > limit for one in a),
        sum(one % 2 for one in a),
        sum(one not in a for one in b),
    )
    return [
        ("silver.a", "fail" if large else "pass", large),
        ("silver.a", "warn" if odd else "pass", odd),
        ("silver.b", "fail" if strange else "pass", strange),
        ("silver.c", "pass", 0),
    ]


def test_what_is_taken_over_is_what_would_be_found(
    expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random values, suites, branches, publishes and rollbacks, against a count by hand."""
    seed = random.randrange(2**32)
    chosen = random.Random(seed)
    published(a=[0, 1, 2], b=[1], c=[5])
    names = iter(f"mine_{number}" for number in range(ROUNDS))
    on, taken, anew = TRUNK, 0, 0
    judged: list[str] = []
    real = gx.judge

    def judge(table: str, *told: Any) -> tuple[Finding, ...]:
        judged.append(table)
        return real(table, *told)

    monkeypatch.setattr(gx, "judge", judge)

    def change_table() -> None:
        if on != TRUNK:
            put(on, **{chosen.choice("ab"): chosen.sample(range(5), chosen.randint(0, 3))})

    def change_suite() -> None:
        expected.limit = chosen.choice((2, 3, 4))

    def begin() -> None:
        nonlocal on
        on = next(names)
        branch.create(on, in_trino=False)

    def end() -> None:
        nonlocal on
        if on != TRUNK:
            publish.publish(on)
        on = TRUNK

    def roll_back() -> None:
        if on == TRUNK:  # or the branch could not be published any more
            publish.rollback(chosen.choice(publish.log()).id)

    steps: list[Callable[[], None]] = [change_table, change_table, change_suite, end, begin]
    for number in range(ROUNDS):
        # so that each kind of step is there, whatever is chosen
        (steps[-1 - number % 5] if number < 5 else chosen.choice([*steps, roll_back]))()
        with on_branch(on):
            judged.clear()
            report = gate.validate(["silver"], only_what_moved=True)
        assert [(one.table, one.status, one.value) for one in report.findings] == naive(
            on, expected.limit
        ), f"seed {seed}"
        assert "silver.c" in judged, "which goes by the clock"
        taken += 3 - len(judged)
        anew += len(judged) - 1
    assert taken, "nothing is taken over"
    assert anew, "nothing is judged"


def test_what_is_taken_over_says_who_has_found_it(expected: Expected) -> None:
    published(a=[1, 2], b=[1], c=[5])
    branch.create("mine")
    with on_branch("mine"):
        gate.validate(["silver"])
    end_spark_session()
    branch.create("other")
    with on_branch("other"):
        report = gate.validate(["silver"], only_what_moved=True)
    by = {(one.table, one.result.judged_by) for one in report.findings}
    assert by == {("silver.a", "mine"), ("silver.b", "mine"), ("silver.c", None)}
    assert [one.expectation for one in report.warnings] == ["a is even"], "told again"


def test_what_did_not_pass_is_published_for_a_reason_only(expected: Expected) -> None:
    published(a=[1], b=[1], c=[1])
    branch.create("mine")
    put("mine", a=[1, 9], b=[1])
    code = {"lineage": "x", "fingerprint": "x", "models": {}, "landed": []}
    of = [
        {"table": table, "suite": one["suite"], **code}
        for table, one in validations.judged_of(["silver"]).items()
    ]
    branch.call("builder", "select lake.record_provenance(%s, %s, 0, null)", "mine", Jsonb(of))
    assert validations.missing("mine", of) == ["silver.a", "silver.b"]
    with on_branch("mine"):
        report = gate.validate(["silver"])
    assert [str(one) for one in report.failures] == [
        "silver.a: expected that a is small; found 1 rows, as value 9"
    ]
    with pytest.raises(LakeError, match=r"^silver\.a did not pass: nothing was published"):
        publish.publish("mine", None, of)
    made = publish.publish("mine", None, of, reason="the limit is to be 10")
    told = f"silver.a in publish {made}: the limit is to be 10"
    assert publish.exceptions() == [told]
    assert publish.log(1)[0].exceptions == ["silver.a: the limit is to be 10"]
    publish.rollback(1)
    assert publish.exceptions() == [], "it is not in force"
    publish.rollback(made or 0)
    assert publish.exceptions() == [told]
    expected.limit = 10
    end_spark_session()
    assert gate.validate(["silver"]).failures == ()
    assert publish.exceptions() == [], "it has passed since"


def test_every_table_that_a_query_reads_is_known(lake_stack: Path) -> None:
    """Of the suites of the project, as an SQL parser reads their queries."""
    of_layers = [suites(layer) for layer in LAYERS]
    tables = {table for of_layer in of_layers for table in of_layer}
    seen = 0
    for of_layer in of_layers:
        for expectations in of_layer.values():
            queries = [one.query.format(batch="at_hand") for one in expectations if one.query]
            read = {
                table.name
                for query in queries
                for table in sqlglot.parse_one(query, dialect="spark").find_all(sqlglot.exp.Table)
            }
            beside = {one for one in tables if one.replace(".", "_") in read}
            assert read_beside(expectations, [*tables]) == beside
            seen += len(beside)
    assert seen


def test_only_the_freshness_of_bronze_goes_by_the_clock(lake_stack: Path) -> None:
    found = {
        table
        for suite in (bronze.suite(), silver.suite(), gold.suite())
        for table, expectations in suite.items()
        if goes_by_the_clock(expectations)
    }
    assert found == {"bronze.changes"}
