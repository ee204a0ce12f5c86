"""Capture loses no change and lands none twice, wherever it is killed.

What bronze holds is compared with what triggers at the source wrote down, and by `lake verify`.
"""

import random
import time

import psycopg

from lake.catalog import catalog
from tests.conftest import SOAK
from tests.streaming.conftest import (
    THING,
    Capture,
    another,
    assert_acknowledged_what_is_held,
    assert_verified,
    audited,
    captured,
    catch_up,
    changes,
    complete_lsn,
    kill_walsender,
)
from tests.streaming.life import lives


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
    assert_verified(THING)


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
        assert_acknowledged_what_is_held()
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
    assert_verified(THING)


def held() -> int:
    """How many changes of the table bronze holds now."""
    table = catalog().load_table("bronze.changes")
    return table.scan("source_table = 'public.thing'").count()


def newest_commit() -> int:
    landed = catalog().load_table("bronze.changes").scan("source_table = 'public.thing'")
    return max(landed.to_arrow()["commit_lsn"].to_pylist(), default=0)


def test_a_random_life_is_landed_change_by_change_whatever_is_killed(
    thing: psycopg.Connection, running: Capture
) -> None:
    chance = random.Random(20261127)
    with lives(3):
        for _ in range(10 if SOAK else 4):
            running.start()
            running.says("reading from")
            time.sleep(chance.uniform(0, 6 if SOAK else 3))
            chance.choice([running.kill, running.end, kill_walsender])()
            if running.process and running.process.poll() is None:
                running.kill()
            running.log.write_text("")
        running.start()
    catch_up()
    assert audited(thing)
    assert captured("public.thing") == audited(thing)
    assert_verified(THING)
