"""The whole way of a row: what the demo leaves behind, against the source and through faults."""

import json
import time
from typing import Any

import psutil
import pyarrow as pa

from feature_repo import features
from lake import lag
from lake.branches import branch
from lake.catalog import catalog
from lake.demo import workload
from lake.demo.run import Options, at_work
from lake.stack import supervisor, trino
from lake.verify.report import TableReport
from lake.verify.run import Options as Comparison
from lake.verify.run import verify
from tests.conftest import lake, soak, wait_for_another


def verified() -> dict[str, TableReport]:
    return {table.table: table for table in verify(Comparison()).tables}


def contents(table: str) -> pa.Table:
    rows = catalog().load_table(table).scan().to_arrow()
    return rows.sort_by([(name, "ascending") for name in rows.column_names])


def tables() -> list[str]:
    return [".".join(n) for layer in ("silver", "gold") for n in catalog().list_tables(layer)]


def test_silver_is_the_source_row_for_row_after_the_workload(demo: str) -> None:
    found = verified()
    assert set(found) == {"public.loan", "public.loan_payment"}
    for table in found.values():
        assert table.rows > 1000, table
        assert (table.verdict, table.changes) == ("equal", 0), table


def test_the_verb_says_so_and_finds_what_is_planted_on_a_branch(demo: str) -> None:
    equal = lake("verify", "loan_payment")
    assert equal.returncode == 0, equal.stderr
    assert "public.loan_payment: " in equal.stdout
    assert "rows, all equal in silver.loan_payments" in equal.stdout
    made = lake("branch", "create", "planted")
    assert made.returncode == 0, made.stderr
    try:
        branch.take("planted", ["silver.loans"])
        (bent,), (dropped,) = trino.ask("select loan_id from silver.loans order by 1 limit 2")
        trino.ask(f"update planted.silver.loans set credit_score = 1 where loan_id = {bent}")
        trino.ask(f"delete from planted.silver.loans where loan_id = {dropped}")
        found = lake("--branch", "planted", "verify", "--json")
        assert found.returncode == 1, found.stderr
        loans, payments = json.loads(found.stdout)["tables"]
        assert (payments["verdict"], loans["verdict"]) == ("equal", "different")
        assert {one["kind"]: one["key"] for one in loans["examples"]} == {
            "differing": {"loan_id": str(bent)},
            "missing": {"loan_id": str(dropped)},
        }
        assert not any(one["source"] or one["lake"] for one in loans["examples"]), "not asked for"
        part = lake("--branch", "planted", "verify", "public.loan", "--bronze", "--sample", "0.5")
        assert part.returncode == 0, part.stdout
        assert "all equal in bronze.loan" in part.stdout
    finally:
        lake("branch", "drop", "planted")
    unknown = lake("verify", "public.nothing")
    assert unknown.returncode == 2
    assert "choose of public.loan, public.loan_payment" in unknown.stderr


def test_a_second_run_changes_nothing_and_publishes_nothing(demo: str) -> None:
    before = {table: contents(table) for table in tables()}
    assert len(before) >= 7
    assert lake("run").returncode == 0, "which brings the demo's last changes"
    done = lake("run")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("nothing to do: gold is the source as of ")
    done = lake("run", "--all")
    assert done.returncode == 0, done.stderr
    assert "nothing changed, nothing to publish" in done.stderr
    for table, rows in before.items():
        assert contents(table).equals(rows), table


def test_a_full_refresh_gives_what_the_increments_gave(demo: str) -> None:
    of_the_run = ["run_id", "first_seen_at"]  # of the quarantine: when a run first saw a row
    before = {table: contents(table) for table in tables()}
    done = lake("run", "--full-refresh")
    assert done.returncode == 0, done.stderr
    for table, rows in before.items():
        kept = [name for name in rows.column_names if name not in of_the_run]
        assert contents(table).select(kept).equals(rows.select(kept)), table


@soak
def test_capture_killed_and_maintained_at_work_loses_nothing_and_doubles_nothing(demo: str) -> None:
    hasty = {"LAKE_RETENTION__READER_HOURS": "0.01", "LAKE_COMPACTION__FILES": "2"}
    options = Options(rows=None, csv=None, seed=11, rate=100, mix=dict(workload.MIX))
    with at_work(options) as summary:
        for _ in range(2):
            time.sleep(4)
            process = supervisor.processes()["capture"]
            assert process.pid
            family = psutil.Process(process.pid)
            for victim in [*family.children(recursive=True), family]:
                victim.kill()
            maintained = lake("maintain", "--apply", **hasty)
            assert maintained.returncode == 0, maintained.stderr
            assert "compacted" in maintained.stdout
            assert "expired" in maintained.stdout
            wait_for_another("capture", process.pid, 60)
    assert summary[0].total > 200
    lag.catch_up()
    done = lake("run")
    assert done.returncode == 0, done.stderr
    assert {table.verdict for table in verified().values()} == {"equal"}
    changes = catalog().load_table("bronze.changes").scan().to_arrow()
    named = changes.group_by(["commit_lsn", "ordinal"]).aggregate([])
    assert named.num_rows == changes.num_rows, "a change was landed twice"


def test_what_is_online_is_what_gold_has_newest(demo: str) -> None:
    done = lake("materialize")
    assert done.returncode == 0, done.stderr
    gold = catalog().load_table("gold.ftr_loans").scan().to_arrow()
    there = catalog().load_table("gold.fct_loans").scan(selected_fields=("loan_id",)).to_arrow()
    newest: dict[int, dict[str, Any]] = {}
    for row in gold.sort_by([("event_timestamp", "ascending")]).to_pylist():
        newest[row["loan_id"]] = row
    kept = set(there["loan_id"].to_pylist())
    asked = sorted(newest)[:300] + sorted(newest)[-300:]
    for loan, online in features.online(asked).items():
        if loan not in kept:
            assert online is None, loan
        else:
            assert online, loan
            assert online == {name: newest[loan][name] for name in online}, loan


def test_the_main_job_can_be_run_again(demo: str) -> None:
    again = lake("demo")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "done before" in again.stdout
