"""The source is restarted under capture: what it had committed or prepared is landed, once."""

import os
import signal
from contextlib import suppress

import psycopg

from lake.settings import settings
from lake.stack import postgres, supervisor
from lake.stack.program import log_of
from tests.conftest import wait_for_another
from tests.streaming.conftest import (
    THING,
    Capture,
    another,
    assert_verified,
    audited,
    captured,
    catch_up,
    changes,
)
from tests.streaming.life import lives


def test_a_source_that_is_shut_down_and_one_that_crashes_lose_nothing_of_what_is_landed(
    thing: psycopg.Connection, running: Capture
) -> None:
    thing.execute("begin; update thing set name = 'prepared' where id = 1")
    thing.execute("prepare transaction 'over both'")
    running.start()
    with lives(3):
        for restart in (shut_down_and_start, crash):
            catch_up()
            with suppress(psycopg.OperationalError), another(thing) as open_one:
                open_one.execute("insert into thing values (-1, 'lost')")
                restart()
        with postgres.SOURCE.admin(settings().source.database) as again:
            again.execute("commit prepared 'over both'")
    catch_up()
    with postgres.SOURCE.admin(settings().source.database) as again:
        expected = audited(again)
    assert captured("public.thing") == expected
    names = [row["after"]["name"] for row in changes("public.thing") if row["after"]]
    assert "prepared" in names
    assert "lost" not in names
    assert_verified(THING)


def shut_down_and_start() -> None:
    """As its owner does it: the source waits until its streams have ended."""
    process = supervisor.processes()["source"]
    supervisor.stop_program("source")
    last = log_of("source").read_text().splitlines()[-1]
    supervisor.start_program("source")
    wait_for_another("source", process.pid or 0, 60)
    assert "database system is shut down" in last, "it waited for a stream until it was killed"


def crash() -> None:
    pid = supervisor.processes()["source"].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for_another("source", pid, 60)
