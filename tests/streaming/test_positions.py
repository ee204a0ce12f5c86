"""At its start capture compares the position of the lake with that of the slot.

What the slot sends again is skipped; a slot that would lose changes is refused.
"""

import signal
from pathlib import Path

import psycopg

from lake import source
from lake.catalog import catalog
from lake.settings import settings
from lake.stack import postgres
from tests.streaming.conftest import (
    THING,
    Capture,
    assert_verified,
    audited,
    capture_in,
    captured,
    catch_up,
    changes,
    complete_lsn,
    kill_walsender,
    slot_confirmed,
    wait_until,
)
from tests.streaming.life import lives


def test_a_slot_that_is_behind_the_lake_sends_again_what_is_skipped(
    thing: psycopg.Connection, running: Capture
) -> None:
    slot = settings().source.slot
    thing.execute("select pg_copy_logical_replication_slot(%s, %s)", [slot, f"{slot}_old"])
    running.start()
    thing.execute("update thing set name = 'one' where id < 50")
    catch_up()
    running.kill()
    drop_slot(slot)
    thing.execute("select pg_copy_logical_replication_slot(%s, %s)", [f"{slot}_old", slot])
    drop_slot(f"{slot}_old")
    thing.execute("update thing set name = 'two' where id < 50")
    running.start()
    catch_up()
    assert captured("public.thing") == audited(thing)
    assert_verified(THING)


def test_a_slot_that_was_acknowledged_beyond_the_lake_is_refused(
    thing: psycopg.Connection, running: Capture
) -> None:
    thing.execute("update thing set name = 'lost'")
    with source.connect() as connection:
        connection.execute(
            "select pg_replication_slot_advance(%s, pg_current_wal_lsn())", [settings().source.slot]
        )
    running.start()
    assert "the changes between are lost" in running.says("the job failed")
    assert changes("public.thing") == []


def test_a_lake_that_was_restored_to_an_older_state_is_refused(
    thing: psycopg.Connection, running: Capture
) -> None:
    running.start()
    catch_up()
    before = catalog("ingest").load_table("bronze.changes")
    thing.execute("update thing set name = 'newer'")
    catch_up()
    wait_until_acknowledged(complete_lsn() - 1)
    running.kill()
    restore(before.metadata_location)
    running.start()
    assert "the changes between are lost" in running.says("the job failed")


def test_a_slot_of_another_source_is_refused(thing: psycopg.Connection, running: Capture) -> None:
    with catalog("ingest").load_table("bronze.changes").transaction() as transaction:
        transaction.set_properties({"lake.source": "1/elsewhere/lake"})
    running.start()
    assert "1/elsewhere/lake" in running.says("the job failed")
    assert changes() == []


def test_without_its_slot_capture_says_so(thing: psycopg.Connection, running: Capture) -> None:
    drop_slot(settings().source.slot)
    running.start()
    assert "no replication slot" in running.says("the job failed")


def test_a_second_capture_waits_for_the_first_and_lands_nothing_twice(
    thing: psycopg.Connection, running: Capture, tmp_path: Path
) -> None:
    running.start()
    catch_up()
    thing.execute("update thing set name = 'one' where id = 1")
    with capture_in(tmp_path / "second") as second:
        second.start()
        second.says("is active")
        thing.execute("update thing set name = 'two' where id = 1")
        running.kill()
        thing.execute("update thing set name = 'three' where id = 1")
        catch_up()
        assert_verified(THING)
    assert captured("public.thing") == audited(thing)


def test_a_capture_that_was_frozen_lands_nothing_when_it_wakes_beside_its_successor(
    thing: psycopg.Connection, running: Capture, tmp_path: Path
) -> None:
    with capture_in(tmp_path / "successor") as successor:
        with lives(1):
            running.start()
            catch_up()
            running.send(signal.SIGSTOP)
            kill_walsender()
            successor.start()
            successor.says("reading from")
            catch_up()
            running.send(signal.SIGCONT)
            running.says("is active")  # what it had read has failed by now, and it tries again
        catch_up()
        assert_verified(THING)
    assert captured("public.thing") == audited(thing)


def test_the_slot_moves_on_while_the_captured_tables_are_idle_and_others_are_busy(
    thing: psycopg.Connection, running: Capture
) -> None:
    running.start()
    catch_up()
    thing.execute("create table busy as select i from generate_series(1, 10000) as i")
    row = thing.execute("select pg_current_wal_lsn() - '0/0'").fetchone()
    assert row is not None
    wait_until_acknowledged(int(row[0]))
    assert slot_confirmed() <= complete_lsn()


def wait_until_acknowledged(lsn: int) -> None:
    wait_until(lambda: slot_confirmed() >= lsn, f"the slot is acknowledged up to {lsn}")


def drop_slot(name: str) -> None:
    active = "select 1 from pg_replication_slots where slot_name = %s and active"
    with postgres.SOURCE.admin() as admin:
        wait_until(lambda: not admin.execute(active, [name]).fetchone(), f"{name} is left")
        admin.execute("select pg_drop_replication_slot(%s)", [name])


def restore(metadata_location: str) -> None:
    """Have `bronze.changes` be what it was, as a restored backup of the catalog does."""
    from lake.catalog import OWNER, _connect
    from lake.credentials import credentials

    with _connect(OWNER, credentials().catalog_password) as connection:
        connection.execute(
            "update iceberg_tables set metadata_location = %s"
            " where (catalog_name, table_namespace, table_name) = ('lake', 'bronze', 'changes')",
            [metadata_location],
        )
