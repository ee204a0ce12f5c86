"""How far the changes have come, on a lake of the test's own and a source that is written to."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
import pytest
from psycopg.types.json import Jsonb

from lake import catalog, lag, source
from lake.branches import branch, publish
from lake.catalog import open_catalog
from lake.credentials import credentials
from lake.errors import LakeError
from lake.lag import Lag, Position
from lake.settings import TRUNK, on_branch
from lake.stack.status import positions
from tests.lake.branches.conftest import put, values

OF_BEFORE = """
    create function lake.publish(
        branch text, author text, code_version text, lsn bigint, built_by text default null
    ) returns bigint language sql as 'select 0::bigint'
"""
NOON = datetime(2026, 11, 27, 12, 0, 0, 123456, UTC)


@pytest.fixture
def changes(own_lake: str) -> None:
    """A `bronze.changes` that is complete up to nowhere."""
    open_catalog(TRUNK, "ingest").create_table(lag.CHANGES, pa.schema([("op", pa.string())]))


def complete(lsn: int, at: datetime = NOON) -> None:
    """Have bronze be complete up to a position, as capture says it."""
    with open_catalog(TRUNK, "ingest").load_table(lag.CHANGES).transaction() as transaction:
        transaction.set_properties(
            {lag.COMPLETE_LSN: str(lsn), lag.COMPLETE_AT: at.isoformat(timespec="microseconds")}
        )


def built(*, is_whole: bool = True, **tables: list[int]) -> int | None:
    """Build and publish tables of silver from bronze as it is now."""
    branch.create("mine", in_trino=False)
    put("mine", **tables)
    return publish.publish("mine", is_whole=is_whole)


def test_nothing_is_complete_before_capture_says_so(own_lake: str) -> None:
    assert lag.captured() is None
    open_catalog(TRUNK, "ingest").create_table(lag.CHANGES, pa.schema([("op", pa.string())]))
    assert lag.captured() is None
    assert positions(Lag(1, None, None)) == ["nothing is captured yet: `lake ingest`"]
    complete(7)
    assert lag.captured() == Position(7, NOON)


def test_a_branch_stays_at_the_position_that_it_began_with(changes: None) -> None:
    complete(7)
    branch.create("mine", in_trino=False)
    complete(9)
    assert lag.captured("mine") == Position(7, NOON)
    assert lag.captured() == Position(9, NOON)


def test_gold_is_the_source_as_of_what_its_last_whole_run_was_built_of(changes: None) -> None:
    assert lag.built() is None
    complete(7)
    built(a=[1], b=[2])
    assert lag.built() == Position(7, NOON)
    complete(9)
    assert lag.built() == Position(7, NOON), "what has landed is not built"
    built(is_whole=False, a=[10])
    assert lag.built() == Position(7, NOON), "b is as it was"
    assert (publish.log()[0].lsn, publish.log()[0].complete_at) == (9, NOON)
    branch.create("mine", in_trino=False)
    complete(11)
    publish.publish("mine", is_whole=True)
    assert len(publish.log()) == 2
    assert lag.built() == Position(9, NOON), "a run that changed nothing has built as far"


def test_a_run_without_a_change_says_nothing_of_what_was_published_meanwhile(
    changes: None,
) -> None:
    complete(7)
    built(a=[1])
    complete(9)
    branch.create("idle", in_trino=False)
    built(is_whole=False, a=[10])
    publish.publish("idle", is_whole=True)
    assert lag.built() == Position(7, NOON)


def test_a_table_was_built_of_the_bronze_that_its_build_or_else_its_publish_tells(
    changes: None,
) -> None:
    complete(7)
    built(a=[1], b=[2])
    complete(9)
    built(a=[10])
    complete(11)
    branch.create("mine", in_trino=False)
    put("mine", b=[20])
    complete(13)
    with on_branch("mine"):
        by_hand = [publish.built_of(f"silver.{name}") for name in "abc"]
        assert by_hand == [9, 7, None], "by hand it gets no change that was landed since"
        made = {
            "table": "silver.b",
            "lineage": "x",
            "fingerprint": "x",
            "models": {},
            "inputs": [],
            "landed": [],
        }
        query = "select lake.record_provenance('mine', %s, 11, null)"
        branch.call("builder", query, Jsonb([made]))
        assert [publish.built_of(f"silver.{name}") for name in "abc"] == [9, 11, None]
    assert [publish.built_of(f"silver.{name}") for name in "ab"] == [9, 7]
    publish.rollback(1)
    assert [publish.built_of(f"silver.{name}") for name in "ab"] == [7, 7]
    publish.rollback(2)
    with on_branch(branch.pin(in_trino=False)):
        assert [publish.built_of(f"silver.{name}") for name in "ab"] == [9, 7]


def test_a_rollback_goes_back_to_the_position_too(changes: None) -> None:
    complete(7)
    built(a=[1])
    complete(9)
    built(a=[2])
    branch.tag("before", 1)
    publish.rollback(1)
    assert values() == {"a": [1]}
    assert lag.built() == Position(7, NOON)
    publish.rollback(2)
    assert lag.built() == Position(9, NOON)
    with on_branch("before"):
        assert lag.built() == Position(7, NOON)


def test_a_rollback_to_what_no_whole_run_has_built_says_nothing(changes: None) -> None:
    complete(7)
    built(is_whole=False, a=[1])
    built(a=[2])
    publish.rollback(1)
    assert lag.built() is None


def test_a_position_is_told_as_a_time_and_its_age() -> None:
    now = datetime.now(UTC)
    assert str(Position(1, now - timedelta(seconds=69))).endswith(", 69 s ago")
    assert str(Position(1, now + timedelta(seconds=9))).endswith(", 0 s ago"), "clocks differ"
    assert str(Position(1, NOON - timedelta(days=400))).startswith("2025-10-23 ")


def test_catching_up_waits_until_bronze_is_complete_beyond_what_was_committed(
    changes: None,
) -> None:
    with source.connect() as connection, ThreadPoolExecutor() as pool:
        before = wal_lsn(connection)
        complete(before - 1)
        waiting = pool.submit(lag.catch_up, 30)
        time.sleep(1)
        assert not waiting.done()
        message = wal_lsn(connection)
        assert message > before, "the source has logged one"
        complete(message)
        assert before <= waiting.result() <= message


def test_changes_that_do_not_arrive_in_time_are_an_error(changes: None) -> None:
    complete(1)
    with pytest.raises(LakeError, match=r"capture did not reach LSN \d+ in .* `lake logs capture`"):
        lag.catch_up(0.5)


def wal_lsn(connection: psycopg.Connection) -> int:
    row = connection.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()
    assert row
    return int(row[0])


def test_a_lake_that_was_made_before_positions_had_a_time_goes_on(changes: None) -> None:
    built(a=[1])
    with catalog._connect(catalog.OWNER, credentials().catalog_password) as owner:
        owner.execute("drop function lake.reached, lake.begin_publish, lake.publish")
        owner.execute("alter table lake.publishes drop complete_at, drop is_whole")
        owner.execute(OF_BEFORE)
    catalog.create()
    assert lag.built() is None
    complete(7)
    built(a=[2])
    assert lag.built() == Position(7, NOON)
    assert [one.complete_at for one in publish.log()] == [NOON, None]
