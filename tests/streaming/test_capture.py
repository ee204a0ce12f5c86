"""Capture loses no change and lands none twice, wherever it is killed.

Each test compares what bronze holds with what triggers at the source wrote down.
"""

import json
import random
import signal
import threading
import time

import psycopg

from lake import source
from lake.catalog import catalog
from lake.manifest import Column, SourceTable
from lake.settings import settings
from lake.stack import postgres
from tests.conftest import SOAK, free_ports
from tests.streaming.conftest import (
    Capture,
    audited,
    captured,
    catch_up,
    changes,
    hand_over,
    slot_confirmed,
)


def another(of: psycopg.Connection) -> psycopg.Connection:
    """A second connection to the same database, in a transaction."""
    return psycopg.connect(of.info.dsn, password=of.info.password)


def test_a_transaction_that_is_open_over_two_kills_is_landed_whole(
    thing: psycopg.Connection, running: Capture
) -> None:
    running.start()
    catch_up()
    with another(thing) as open_one:
        open_one.execute("update thing set name = 'open' where id in (1, 2)")
        for round_ in (1, 2):
            with another(thing) as short:
                short.execute("update thing set name = %s where id = 3", [f"short {round_}"])
            catch_up()
            running.kill()
            running.start()
        open_one.execute("update thing set name = 'last' where id = 4")
    catch_up()
    assert captured("public.thing") == audited(thing)


def test_a_transaction_larger_than_a_commit_to_the_lake_survives_kills_in_its_middle(
    thing: psycopg.Connection, running: Capture
) -> None:
    rows = 1_000_000 if SOAK else 200_000
    with another(thing) as large:
        large.execute("alter table thing disable trigger audited")
        large.execute(
            "insert into thing select i, 'large' from generate_series(1001, %s) as i", [1000 + rows]
        )
        large.execute("alter table thing enable trigger audited")
    running.start()
    kills = 0
    while kills < 3 and held() < rows:
        if held() > kills * rows // 4:
            running.kill()
            kills += 1
            assert complete_lsn() < newest_commit() or held() >= rows, "half was told to be whole"
            running.start()
        time.sleep(0.1)
    catch_up()
    assert kills
    landed = changes("public.thing")
    assert [row["ordinal"] for row in landed] == list(range(1, rows + 1))
    assert [row["after"]["id"] for row in landed] == [str(1000 + i) for i in range(1, rows + 1)]


def held() -> int:
    """How many changes of the table bronze holds now."""
    table = catalog().load_table("bronze.changes")
    return table.scan("source_table = 'public.thing'").count()


def newest_commit() -> int:
    landed = catalog().load_table("bronze.changes").scan("source_table = 'public.thing'")
    return max(landed.to_arrow()["commit_lsn"].to_pylist(), default=0)


def complete_lsn() -> int:
    properties = catalog().load_table("bronze.changes").properties
    return int(properties.get("lake.complete-lsn", "-1"))


def test_a_random_life_is_landed_change_by_change_whatever_is_killed(
    thing: psycopg.Connection, running: Capture
) -> None:
    stop, chance = threading.Event(), random.Random(20261127)
    writers = [threading.Thread(target=live, args=(thing, seed, stop)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for _ in range(10 if SOAK else 4):
        running.start()
        running.says("reading from")
        time.sleep(chance.uniform(0, 6))
        chance.choice([running.kill, running.end, kill_walsender])()
        if running.process and running.process.poll() is None:
            running.kill()
        running.log.write_text("")
    running.start()
    stop.set()
    for writer in writers:
        writer.join()
    catch_up()
    assert audited(thing)
    assert captured("public.thing") == audited(thing)


def live(of: psycopg.Connection, seed: int, stop: threading.Event) -> None:
    """Random transactions until told to stop: savepoints, rollbacks, two phases, key changes."""
    chance = random.Random(seed)
    with psycopg.connect(of.info.dsn, password=of.info.password, autocommit=True) as connection:
        while not stop.is_set():
            connection.execute("begin")
            for _ in range(chance.choice([1, 1, 2, 20])):
                with connection.transaction(force_rollback=chance.random() < 0.2):
                    change(connection, chance)
            end = chance.choice(["commit"] * 8 + ["rollback", f"prepare transaction 'of {seed}'"])
            connection.execute(end.encode())
            if end.startswith("prepare"):
                time.sleep(chance.random())
                connection.execute(f"commit prepared 'of {seed}'".encode())
            time.sleep(chance.choice([0, 0, 0.05, 0.2]))


def change(connection: psycopg.Connection, chance: random.Random) -> None:
    name = chance.choice([None, "", "é 🙂", '"\\\n\t\x01{}', "x" * 9000])
    statement = chance.choice(
        [
            "insert into thing (id, name) values ((random() * 1e9)::int, %(name)s)"
            " on conflict do nothing",
            "update thing set name = %(name)s where id in"
            " (select id from thing order by random() limit 3 for update skip locked)",
            "update thing set big = repeat(%(name)s, 20) where id in"
            " (select id from thing order by random() limit 1 for update skip locked)",
            "update thing set id = (random() * 1e9)::int where id in"
            " (select id from thing order by random() limit 1 for update skip locked)",
            "delete from thing where id in"
            " (select id from thing order by random() limit 1 for update skip locked)",
        ]
    )
    connection.execute(statement.encode(), {"name": name})


def kill_walsender() -> None:
    """Have the source end the stream, as its own restart does."""
    with postgres.SOURCE.admin() as admin:
        admin.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots"
            " where slot_name = %s and active_pid is not null",
            [settings().source.slot],
        )


# -- the lake's position and the slot's, compared at the start ------------------------------------


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
    thing: psycopg.Connection, running: Capture
) -> None:
    running.start()
    catch_up()
    thing.execute("update thing set name = 'one' where id = 1")
    second = Capture(running.log.parent / "second")
    second.log.parent.mkdir()
    second.start(LAKE_CAPTURE_PORT=free_ports()["LAKE_PORTS__CAPTURE"])
    try:
        second.says("is active")
        thing.execute("update thing set name = 'two' where id = 1")
        running.kill()
        thing.execute("update thing set name = 'three' where id = 1")
        catch_up()
    finally:
        second.kill()
    assert captured("public.thing") == audited(thing)


def test_a_capture_that_was_frozen_lands_nothing_when_it_wakes_beside_its_successor(
    thing: psycopg.Connection, running: Capture
) -> None:
    stop = threading.Event()
    writer = threading.Thread(target=live, args=(thing, 1, stop))
    writer.start()
    running.start()
    running.says("reading from")
    time.sleep(2)
    running.send(signal.SIGSTOP)
    kill_walsender()
    successor = Capture(running.log.parent / "successor")
    successor.log.parent.mkdir()
    successor.start(LAKE_CAPTURE_PORT=free_ports()["LAKE_PORTS__CAPTURE"])
    try:
        successor.says("reading from")
        catch_up()
        running.send(signal.SIGCONT)
        time.sleep(5)
        stop.set()
        writer.join()
        catch_up()
    finally:
        stop.set()
        successor.kill()
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
    deadline = time.monotonic() + 30
    while slot_confirmed() < lsn:
        assert time.monotonic() < deadline, f"the slot stays at {slot_confirmed()}, before {lsn}"
        time.sleep(0.2)


def drop_slot(name: str) -> None:
    with postgres.SOURCE.admin() as admin:
        deadline = time.monotonic() + 30
        while admin.execute(
            "select from pg_replication_slots where slot_name = %s and active", [name]
        ).fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.1)
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


# -- what is landed of a change -------------------------------------------------------------------


def test_a_change_has_its_images_as_the_wal_has_them(
    thing: psycopg.Connection, running: Capture
) -> None:
    thing.execute("alter table thing replica identity default")
    thing.execute("insert into thing values (200, 'é \"\\ 🙂', repeat('b', 10000))")
    thing.execute("update thing set name = null where id = 200")  # `big` is unchanged TOAST
    thing.execute("update thing set id = 201 where id = 200")
    thing.execute("delete from thing where id = 201")
    thing.execute("alter table thing replica identity full")
    thing.execute("update thing set name = 'whole' where id = 1")
    thing.execute("truncate thing")
    thing.execute("select pg_logical_emit_message(true, 'a \"prefix\"', 'content')")
    thing.execute("select pg_logical_emit_message(false, 'at once', '')")
    running.start()
    catch_up()
    big = "b" * 10_000
    whole = {"id": "1", "name": "first", "big": None}
    expected = [
        ("c", {"id": "200"}, None, {"id": "200", "name": 'é "\\ 🙂', "big": big}, None),
        ("u", {"id": "200"}, None, {"id": "200", "name": None}, ["big"]),
        ("u", {"id": "201"}, {"id": "200"}, {"id": "201", "name": None}, ["big"]),
        ("d", {"id": "201"}, {"id": "201"}, None, None),
        ("u", None, whole, whole | {"name": "whole"}, None),
        ("t", None, None, None, None),
    ]
    columns = ("op", "key", "before", "after", "unchanged")
    assert [tuple(row[c] for c in columns) for row in changes("public.thing")] == expected
    messages = [(row["key"]["prefix"], row["after"]["content"]) for row in changes("message")]
    assert ('a "prefix"', "\\x636f6e74656e74") in messages
    assert ("at once", "\\x") in messages


def test_each_shape_of_a_table_is_landed_with_the_first_change_that_has_it(
    thing: psycopg.Connection, running: Capture
) -> None:
    running.start()
    thing.execute("update thing set name = 'a' where id = 1")
    with another(thing) as one:
        one.execute("update thing set name = 'b' where id = 1")
        one.execute("alter table thing add column extra numeric(12, 2) default 7")
        one.execute("update thing set extra = 8 where id = 1")
    catch_up()
    running.kill()
    thing.execute("alter table thing rename column extra to more")
    thing.execute("alter table thing drop column big")
    thing.execute("update thing set more = 9 where id = 1")
    running.start()
    catch_up()
    shapes = catalog().load_table("bronze.schema_changes").scan().to_arrow().to_pylist()
    shapes.sort(key=lambda row: (row["commit_lsn"], row["ordinal"]))
    landed = changes("public.thing")
    assert [[one["name"] for one in json.loads(row["columns"])] for row in shapes] == [
        ["id", "name", "big"],
        ["id", "name", "big", "extra"],
        ["id", "name", "more"],
    ]
    assert json.loads(shapes[1]["columns"])[3]["type"] == "numeric(12,2)"
    first = [landed[0], landed[2], landed[3]]
    at = ("commit_lsn", "ordinal")
    assert [[row[c] for c in at] for row in shapes] == [[row[c] for c in at] for row in first]
    assert [row["after"].get("extra") for row in landed] == [None, None, "8.00", None]
    assert landed[3]["after"]["more"] == "9.00"


def test_names_of_any_kind_are_landed_as_they_are(
    owner: psycopg.Connection, running: Capture
) -> None:
    owner.execute(
        """
        create schema "My ""Schema";
        create table "My ""Schema"."Täble.x" ("Key""\\" int primary key, "order" text, "é🙂" text);
        grant usage on schema "My ""Schema" to capture;
        grant select on "My ""Schema"."Täble.x" to capture;
        """
    )
    columns = (
        Column("key", "int", 'Key"\\'),
        Column("order", "text", "order"),
        Column("e", "text", "é🙂"),
    )
    hand_over(SourceTable("bronze.odd", 'My "Schema', "Täble.x", ("key",), columns))
    running.start()
    owner.execute("""insert into "My ""Schema"."Täble.x" values (1, 'a', 'b')""")
    catch_up()
    (row,) = changes('"My ""Schema"."Täble.x"')
    assert row["after"] == {'Key"\\': "1", "order": "a", "é🙂": "b"}
    assert row["key"] == {'Key"\\': "1"}
