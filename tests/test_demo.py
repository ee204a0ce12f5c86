"""The whole way of a row: what the demo leaves behind, against the source and through faults."""

import pyarrow as pa

from lake.catalog import catalog
from lake.credentials import credentials
from lake.demo import proof
from lake.stack import postgres
from tests.conftest import lake


def differences() -> dict[str, tuple[int, int]]:
    with postgres.connect("source", "source", credentials().source_password) as connection:
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


def test_a_second_build_changes_nothing(demo: str) -> None:
    before = {table: contents(table) for table in tables()}
    assert len(before) >= 7
    done = lake("build")
    assert done.returncode == 0, done.stdout
    for table, rows in before.items():
        assert contents(table).equals(rows), table


def test_a_full_refresh_gives_what_the_increments_gave(demo: str) -> None:
    of_the_run = ["run_id", "first_seen_at"]  # of the quarantine: when a run first saw a row
    before = {table: contents(table) for table in tables()}
    done = lake("build", "--full-refresh")
    assert done.returncode == 0, done.stdout
    for table, rows in before.items():
        kept = [name for name in rows.column_names if name not in of_the_run]
        assert contents(table).select(kept).equals(rows.select(kept)), table


def test_capture_killed_under_a_live_workload_loses_nothing_and_doubles_nothing(
    demo: str,
) -> None: ...
