"""A random life of the table `thing`: transactions of all kinds, which overlap."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psycopg

from lake.settings import settings
from lake.stack import postgres


@contextmanager
def lives(count: int) -> Iterator[None]:
    """Have as many writers at work until the block ends; what one of them raises is raised then."""
    stop, database = threading.Event(), settings().source.database
    with ThreadPoolExecutor(count) as pool:
        writers = [pool.submit(live, database, seed, stop) for seed in range(count)]
        try:
            yield
        finally:
            stop.set()
        for writer in writers:
            writer.result()


def live(database: str, seed: int, stop: threading.Event) -> None:
    """Random transactions until told to stop; a connection that is lost is replaced."""
    chance = random.Random(seed)
    while not stop.is_set():
        with suppress(psycopg.OperationalError), postgres.SOURCE.admin(database) as connection:
            commit_prepared(connection, seed)
            while not stop.is_set():
                transact(connection, seed, chance)
        time.sleep(0.1)
    with postgres.SOURCE.admin(database) as connection:
        commit_prepared(connection, seed)


def transact(connection: psycopg.Connection, seed: int, chance: random.Random) -> None:
    """One transaction: savepoints, rollbacks, two phases."""
    connection.execute("begin")
    for _ in range(chance.choice([1, 1, 2, 20])):
        with connection.transaction(force_rollback=chance.random() < 0.2):
            change(connection, chance)
    end = chance.choice(["commit"] * 8 + ["rollback", f"prepare transaction 'of {seed}'"])
    connection.execute(end.encode())
    if end.startswith("prepare"):
        time.sleep(chance.random())
        commit_prepared(connection, seed)
    time.sleep(chance.choice([0, 0, 0.05, 0.2]))


def commit_prepared(connection: psycopg.Connection, seed: int) -> None:
    """Commit what was prepared, be it by a connection that was lost."""
    name = f"of {seed}"
    if connection.execute("select 1 from pg_prepared_xacts where gid = %s", [name]).fetchone():
        connection.execute(f"commit prepared '{name}'".encode())


def change(connection: psycopg.Connection, chance: random.Random) -> None:
    """One statement: an insert, an update, one of the key or of a large value, or a delete."""
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
