"""The captured Postgres, as the role that captures it sees it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from threading import Event, Thread, Timer

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from lake.credentials import credentials
from lake.errors import LakeError
from lake.settings import settings

PINNED = {
    "TimeZone": "UTC",
    "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "search_path": "pg_catalog",
    "client_encoding": "UTF8",
}
"""The settings that a value's text depends on, as bulk and capture both have them."""


LOOKS_SECONDS = 3.0
"""The interval at which blocking transactions are looked up."""


@dataclass(frozen=True)
class Slot:
    """The replication slot. LSNs are positions in the WAL, in bytes."""

    active: bool
    confirmed_lsn: int  # all changes up to here are in the lake
    current_lsn: int  # where the source writes now
    wal_status: str  # reserved, extended, unreserved or lost


def password() -> str:
    """The password of the role that captures."""
    brought = settings().source.password
    return brought.get_secret_value() if brought else credentials().roles["capture"].password


def conninfo() -> str:
    """Where the source is, as libpq takes it; holds the password."""
    source = settings().source
    return make_conninfo(
        host=settings().source_host,
        port=settings().source_port,
        dbname=source.database,
        user=source.user,
        password=password(),
        connect_timeout=5,
        options=pinned_options(),
    )


def pinned_options() -> str:
    """`PINNED` as options of a connection's start, which the source's own settings can't outdo."""
    return " ".join(f"-c {name}={value}" for name, value in PINNED.items())


def connect() -> psycopg.Connection:
    """A connection to the source that commits each statement.

    Raises LakeError where the source can't be reached or refuses the role.
    """
    try:
        return psycopg.connect(conninfo(), autocommit=True)
    except psycopg.OperationalError as error:
        where = f"{settings().source_host}:{settings().source_port}/{settings().source.database}"
        said = str(error).strip().splitlines()[0]
        raise LakeError(
            f"the source {where} refuses `{settings().source.user}`: {said}; check LAKE_SOURCE__…"
        ) from None


def slot(connection: psycopg.Connection) -> Slot | None:
    """The state of the replication slot, or None where there is none."""
    found = connection.execute(
        """
        select
            active,
            confirmed_flush_lsn - '0/0',
            pg_current_wal_lsn() - '0/0',
            wal_status
        from pg_replication_slots
        where slot_name = %s and database = current_database()
        """,
        [settings().source.slot],
    ).fetchone()
    if found is None:
        return None
    active, confirmed, current, status = found
    return Slot(active, int(confirmed or 0), int(current), status)


@contextmanager
def _watched(pid: int, say: Callable[[str], None]) -> Iterator[None]:
    """Report the transactions that block a backend of the source, until the block ends."""
    is_done, told = Event(), set[str]()

    def watch() -> None:
        with suppress(LakeError, psycopg.Error), connect() as beside:  # the backend's own say more
            while not is_done.wait(LOOKS_SECONDS):
                blocker = _blocker(beside, pid)
                if blocker and blocker not in told:
                    told.add(blocker)
                    say(f"waiting for a transaction that is open at the source: {blocker}")

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_done.set()
        watcher.join()


def _blocker(connection: psycopg.Connection, pid: int) -> str:
    """The transaction that blocks a backend; empty where none does.

    The capturing role sees pid, user and application of other sessions, not their queries.
    """
    found = connection.execute(
        """
        select coalesce(
            'pid ' || activity.pid || concat(
                ' of ' || usename, ', ' || nullif(application_name, ''),
                ', begun at ' || to_char(xact_start, 'HH24:MI:SS "UTC"')
            ),
            'prepared, ' || (
                select string_agg(quote_literal(gid) || ' of ' || owner, ', ' order by prepared)
                from pg_prepared_xacts
            )
        )
        from unnest(pg_blocking_pids(%s)) as blocker
        left join pg_stat_activity as activity on activity.pid = blocker
        limit 1
        """,
        [pid],
    ).fetchone()
    return str(found[0]) if found and found[0] else ""


@dataclass(frozen=True)
class Snapshot:
    """What a slot exports: exactly the transactions that were committed before an LSN.

    `at` is when that was, by the source's own clock; `name` is for `set transaction snapshot`.
    """

    lsn: int
    name: str
    at: datetime


@contextmanager
def exported_snapshot(
    name: str,
    *,
    is_temporary: bool,
    say: Callable[[str], None] = lambda _: None,
    seconds: float | None = None,
) -> Iterator[Snapshot]:
    """Make a slot; yields a snapshot as of its LSN, which is there until the block ends.

    Slot creation waits for every open transaction of the source. `say` receives a message for each
    transaction that blocks it.

    Raises LakeError where the source refuses it, or where it waits for more than `seconds`.
    """
    with psycopg.connect(conninfo(), autocommit=True, replication="database") as walsender:
        create = "CREATE_REPLICATION_SLOT {} {} LOGICAL pgoutput (SNAPSHOT 'export')"  # in capitals
        kind = sql.SQL("TEMPORARY" if is_temporary else "")
        given_up = Timer(seconds or 0, walsender.cancel)
        if seconds is not None:
            given_up.start()
        try:
            with _watched(walsender.info.backend_pid, say):
                statement = sql.SQL(create).format(sql.Identifier(name), kind)
                row = walsender.execute(statement).fetchone()
        except psycopg.errors.QueryCanceled:
            raise LakeError(
                f"transactions were open at the source for {seconds:.0f} s, and a snapshot waits: "
                "`select * from pg_stat_activity where state <> 'idle' order by xact_start`"
            ) from None
        except psycopg.Error as error:
            raise LakeError(f"the source makes no slot: {str(error).splitlines()[0]}") from None
        finally:
            given_up.cancel()
        assert row is not None
        _, consistent_point, snapshot, _ = row
        high, low = consistent_point.split("/")
        with connect() as beside:  # another command of the walsender would end the snapshot
            (at,) = beside.execute("select clock_timestamp()").fetchone() or (None,)
        assert isinstance(at, datetime)
        yield Snapshot((int(high, 16) << 32) + int(low, 16), snapshot, at)
