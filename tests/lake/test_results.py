"""Results are kept of every run, whatever becomes of it; each run is judged by the others'."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.schema import Schema

from lake import manifest, results, rules
from lake.branches import branch, maintain, publish
from lake.catalog import open_catalog
from lake.contract import Rule
from lake.errors import LakeError
from lake.results import Result
from lake.settings import TRUNK, settings
from lake.stack import postgres
from tests.lake.branches.conftest import put


def volume(rows: float, table: str = "silver.a") -> Result:
    return Result("volume", "silver", table, "its rows are as usual", "pass", value=rows)


def ran(name: str, rows: int) -> int:
    """A run that is recorded and published; returns the publish's id."""
    branch.create(name)
    put(name, a=[*range(rows)])
    results.record(name, [volume(rows)])
    made = publish.publish(name)
    assert made is not None
    return made


def kept() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        open_catalog(TRUNK).load_table(results.TABLE).scan().to_arrow().to_pylist()
    )
    return sorted(found, key=lambda row: (row["recorded_at"], row["name"]))


def test_what_a_run_found_is_kept_whole_in_one_commit(own_lake: str) -> None:
    found = [
        volume(3),
        Result("test", "gold", "gold.b", "is_key", "fail", "id", "x", "2 rows", 2, 0.5),
    ]
    results.record("run_one", found)
    rows = kept()
    assert [row.pop("run_id") for row in rows] == ["run_one", "run_one"]
    assert len({row.pop("recorded_at") for row in rows}) == 1
    assert sorted((Result(**row) for row in rows), key=lambda one: one.kind) == found[::-1]
    assert len(open_catalog(TRUNK).load_table(results.TABLE).metadata.snapshots) == 1


def test_a_rollback_takes_no_result_away_and_what_it_took_back_is_no_measure(own_lake: str) -> None:
    first = ran("run_one", 10)
    ran("run_two", 5)
    branch.create("run_failed")
    results.record("run_failed", [volume(1)])
    assert results.published(("volume",), 9) == {("volume", "silver.a"): [5, 10]}
    assert results.published(("volume",), 1) == {("volume", "silver.a"): [5]}
    publish.rollback(first)
    assert [row["run_id"] for row in kept()] == ["run_one", "run_two", "run_failed"]
    assert results.published(("volume",), 9) == {("volume", "silver.a"): [10]}
    ran("run_three", 12)
    assert results.published(("volume",), 9) == {("volume", "silver.a"): [12, 10]}
    assert results.published(("freshness",), 9) == {}


def test_results_that_come_while_a_branch_is_built_are_no_conflict_with_it(own_lake: str) -> None:
    ran("run_one", 10)
    branch.create("mine")
    put("mine", a=[1])
    results.record("run_else", [volume(1)])
    publish.publish("mine")
    assert [row["run_id"] for row in kept()] == ["run_one", "run_else"]


def test_a_table_of_quality_that_a_branch_changed_is_not_published(own_lake: str) -> None:
    ran("run_one", 10)
    for change in (
        "delete from iceberg_tables",
        "update iceberg_tables set metadata_location = 'x'",
    ):
        branch.create("mine")
        put("mine", a=[1])
        with postgres.LAKE.admin(own_lake) as admin:  # no role that builds may
            admin.execute(f"{change} where catalog_name = 'mine' and table_namespace = 'quality'")
        with pytest.raises(
            LakeError, match=r"quality\.results: .* append-only and not published to"
        ):
            publish.publish("mine")
        branch.drop("mine")
    assert len(kept()) == 1


def test_maintenance_merges_the_files_that_runs_have_left(
    own_lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings().compaction, "files", 2)
    for number in range(2):
        results.record(f"run_{number}", [volume(number)])
    before, after = maintain.maintain(apply=True).tended.compacted[results.TABLE]
    assert after
    assert (before.data_files, after.data_files) == (2, 1)
    results.record("run_2", [volume(2)])
    assert [row["run_id"] for row in kept()] == ["run_0", "run_1", "run_2"]


def test_results_that_can_not_be_kept_are_a_line(own_lake: str) -> None:
    with postgres.LAKE.admin(own_lake) as admin:
        admin.execute("revoke insert on iceberg_tables from recorder")
        try:
            with pytest.raises(LakeError, match=r"can't be recorded in quality\.") as failed:
                results.record("run_one", [volume(1)])
        finally:
            admin.execute("grant insert on iceberg_tables to recorder")
    assert "\n" not in str(failed.value)


NODES = {
    "operation.x.hook": {"resource_type": "operation", "depends_on": {"nodes": []}},
    "model.x.loans": {
        "name": "loans",
        "schema": "silver",
        "resource_type": "model",
        "depends_on": {"nodes": []},
    },
    "test.x.key": {
        "name": "key",
        "schema": "elsewhere",
        "resource_type": "test",
        "attached_node": "model.x.loans",
        "column_name": "loan_id",
        "description": "",
        "depends_on": {"nodes": ["model.x.loans"]},
    },
}
UNIT = {
    "unit_test.x.loans.mends": {
        "name": "mends",
        "schema": "silver",
        "resource_type": "unit_test",
        "depends_on": {"nodes": ["model.x.loans"]},
    },
}


def test_what_dbt_did_is_told_by_what_it_left(tmp_path: Path) -> None:
    def done(unique_id: str, status: str, **more: object) -> dict[str, object]:
        told: dict[str, object] = {"message": None, "failures": None, "adapter_response": {}}
        return told | {"unique_id": unique_id, "status": status, "execution_time": 0.5} | more

    target = tmp_path / "target"
    target.mkdir()
    left = [
        done("model.x.loans", "success", adapter_response={"rows_affected": 7}),
        done("test.x.key", "fail", failures=2, message="Got 2 results"),
        done("unit_test.x.loans.mends", "skipped"),
        done("operation.x.hook", "success"),
    ]
    (target / "manifest.json").write_text(json.dumps({"nodes": NODES, "unit_tests": UNIT}))
    (target / "run_results.json").write_text(json.dumps({"results": left}))
    options = ["--select", "loans", "--project-dir", str(tmp_path)]
    assert results.of_dbt(options, since=0) == [
        Result("model", "silver", "silver.loans", "loans", "pass", value=7, seconds=0.5),
        Result(
            *("test", "silver", "silver.loans", "key", "fail", "loan_id"),
            observed="Got 2 results",
            value=2,
            seconds=0.5,
        ),
        Result("test", "silver", "silver.loans", "mends", "skipped", seconds=0.5),
    ]
    later = (target / "run_results.json").stat().st_mtime + 1
    assert results.of_dbt(options, since=later) == [], "it is of a run before"


def test_a_rule_is_a_condition_or_says_what_is_done_where_it_is_broken() -> None:
    node = {"name": "m", "resource_type": "model", "config": {"meta": {"rules": {
        "short": "a > 1", "long": {"condition": "b > 1", "on_break": "warn"},
    }}}}  # fmt: skip
    found = rules.declared({"nodes": {"model.x.m": node}})
    short, long = Rule(condition="a > 1"), Rule(condition="b > 1", on_break="warn")
    assert found == {"m": {"short": short, "long": long}}


def test_what_a_rule_touches_begins_where_its_rows_are_read_from_bronze() -> None:
    assert rules.touched_by(["loans"]) == ["loans_history+"]
    assert rules.touched_by(["gold.fct_loans"]) == ["loan_payments+", "loans_history+"]
    assert rules.touched_by(["loan"]) == ["source:bronze.loan+"]
    with pytest.raises(LakeError, match="there is no model `nothing`, and `nothing` is no table"):
        rules.touched_by(["nothing"])
    assert rules.tables_touched_by(["loans"]) == {
        *(f"silver.{name}" for name in ("loans_history", "loans", "loans_quarantine")),
        *(f"gold.{name}" for name in ("fct_loans", "ftr_loans", "agg_loan_approvals")),
    }


def test_a_model_that_is_gone_has_no_rules_to_judge_by(monkeypatch: pytest.MonkeyPatch) -> None:
    published = json.loads(manifest.manifest_text())
    gone = {"resource_type": "model", "name": "gone", "config": {"meta": {"rules": {"a": "b > 1"}}}}
    published["nodes"]["model.lakehouse.gone"] = gone
    monkeypatch.setattr(publish, "manifest", lambda: json.dumps(published))
    assert rules.changed() == []


def test_the_seconds_of_the_last_run_are_those_of_what_it_built(own_lake: str) -> None:
    def took(kind: str, table: str, seconds: float) -> Result:
        return Result(kind, "silver", table, "name", "pass", seconds=seconds)

    assert results.seconds_of_last_run() == {}
    results.record("run_one", [took("model", "silver.a", 9.0), took("model", "silver.c", 1.0)])
    built = [took("model", "silver.a", 7.5), took("model", "silver.b", 3.0)]
    results.record("run_two", [*built, took("test", "silver.b", 0.5)])
    assert results.seconds_of_last_run() == {"silver.a": 7.5, "silver.b": 3.0}


def test_results_of_a_lake_from_before_get_the_columns_that_are_new(own_lake: str) -> None:
    """Such as that of who has judged what a run took over."""
    before = Schema(*results._schema().fields[:-1])
    opened = open_catalog(TRUNK, "recorder")
    opened.create_table(results.TABLE, before)
    results.record("run_one", [replace(volume(3), judged_by="run_zero")])
    (row,) = kept()
    assert (row["value"], row["judged_by"]) == (3, "run_zero")
