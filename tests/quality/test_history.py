"""A figure is judged by what it was in the runs that are published."""

from dataclasses import replace

import pytest

from lake import manifest, results
from lake.branches import branch, publish
from lake.contract import Limits
from lake.errors import LakeError
from lake.settings import on_branch
from quality import history
from quality.finding import Finding
from tests.conftest import end_spark_session
from tests.lake.branches.conftest import put

LIMITS = Limits(of_last=4, at_least=3, within=0.3, slack=5)


def status(value: float, *former: float, kind: history.Kind = "volume") -> str:
    return history.compare("silver", "silver.a", kind, value, former, LIMITS).status


@pytest.mark.parametrize(
    ("value", "former", "judged"),
    [
        (1, (), "pass"),
        (1, (100, 100), "pass"),  # too few to judge by
        (50, (100, 100, 100), "fail"),
        (71, (100, 100, 100), "pass"),
        (131, (100, 100, 100), "fail"),
        (100, (100, 100, 1), "pass"),  # one that stands out moves nothing
        (50, (100, 100, 1), "fail"),
        (50, (90, 70, 50, 30), "pass"),  # a table that always grows
        (150, (120, 100, 80, 60), "pass"),
        (50, (100, 100, 100, 100, 50, 50, 50), "fail"),  # what is older is no measure
        (4, (1, 1, 1), "pass"),  # a few rows are always allowed
        (0, (100, 100, 100), "fail"),
    ],
)
def test_rows_are_judged_by_the_median_of_the_last_runs(
    value: float, former: tuple[float, ...], judged: str
) -> None:
    assert status(value, *former) == judged


def test_changes_can_be_too_old_and_never_too_young() -> None:
    assert status(0, 100, 100, 100, kind="freshness") == "pass"
    assert status(131, 100, 100, 100, kind="freshness") == "fail"


def judged(name: str, rows: int) -> list[Finding]:
    """What is found of a table that has so many rows on a branch of that name."""
    branch.create(name)
    put(name, loans=[*range(rows)])
    try:
        with on_branch(name):
            return history.judge(["silver"])
    finally:
        end_spark_session()  # it knows one branch


def test_a_table_that_has_lost_half_of_its_rows_is_told_by_its_own_history(own_lake: str) -> None:
    end_spark_session()
    (first,) = judged("run_0", 1000)
    assert (first.status, first.value) == ("pass", 1000)
    assert first.expected == "no judgement before 5 published runs; there are 0"
    publish.publish("run_0")
    results.record("run_0", [first.result])
    for number in range(1, 5):
        branch.create(f"run_{number}")
        put(f"run_{number}", loans=[*range(1000 + number)])
        results.record(f"run_{number}", [replace(first, value=1000 + number).result])
        publish.publish(f"run_{number}")
    (last,) = judged("run_5", 500)
    assert last.status == "fail"
    assert str(last) == (
        "silver.loans: expected that its rows are 701 to 1,303; found 500, where the last 5 "
        "published runs had a median of 1,002; if that is right, publish the branch, or widen "
        "meta.volume in its YAML"
    )
    results.record("run_5", [last.result])
    publish.publish("run_5")
    (after,) = judged("run_6", 400)
    assert after.expected == "no judgement before 5 published runs; there are 1", "500 are right"
    branch.drop("run_6")


def test_what_other_rules_were_applied_to_may_have_any_number_of_rows() -> None:
    assert (
        history.compare(
            "silver", "silver.a", "volume", 50, (100, 100, 100), LIMITS, has_other_rules=True
        ).status
        == "warn"
    )


def test_limits_that_are_none_are_named_with_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {
        "resource_type": "model",
        "schema": "silver",
        "name": "loans",
        "alias": "loans",
        "original_file_path": "models/silver/loans.sql",
        "config": {"meta": {"volume": {"withing": 0.1}}},
    }
    project = {"nodes": {"model.lake.loans": node}, "sources": {}}
    monkeypatch.setattr(manifest, "manifest", lambda: project)
    monkeypatch.setattr(history, "manifest", lambda: project)
    with pytest.raises(LakeError, match=r"models/silver/loans\.sql: loans: config\.meta\.volume"):
        history._limits("volume", "silver.loans")
