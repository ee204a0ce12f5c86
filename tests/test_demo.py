"""The whole way of a row: what the demo leaves behind, against the source and through faults."""

import time
from typing import Any

import psutil
import pyarrow as pa

from feature_repo import features
from lake import lag
from lake.catalog import catalog
from lake.demo import proof, workload
from lake.demo.run import Options, at_work, source
from lake.stack import supervisor
from tests.conftest import lake, soak, wait_for_another


def differences() -> dict[str, tuple[int, int]]:
    with source() as connection:
        return proof.differences(connection)


def contents(table: str) -> pa.Table:
    rows = catalog().load_table(table).scan().to_arrow()
    return rows.sort_by([(name, "ascending") for name in rows.column_names])


def tables() -> list[str]:
    return [".".join(n) for layer in ("silver", "gold") for n in catalog().list_tables(layer)]


def test_silver_is_the_source_row_for_row_after_the_workload(demo: str) -> None:
    found = differences()
    assert set(found) == {"public.loan", "public.loan_payment"}
    for table, (rows, differing) in found.items():
        assert rows > 1000, table
        assert differing == 0, table


def test_a_second_run_changes_nothing_and_publishes_nothing(demo: str) -> None:
    before = {table: contents(table) for table in tables()}
    assert len(before) >= 7
    done = lake("run")
    assert done.returncode == 0, done.stderr
    assert "nothing changed" in done.stderr
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
    assert all(differing == 0 for _, differing in differences().values())
    changes = catalog().load_table("bronze.changes").scan().to_arrow()
    named = changes.group_by(["source_table", "lsn", "envelope"]).aggregate([])
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
