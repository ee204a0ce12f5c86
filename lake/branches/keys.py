"""Branches' keys to the object store: made before a branch, and gone before it is published.

Who makes keys can do what any of them can. So who makes branches need not: keys wait in the catalog
(`lake.ready_keys` in `schema.sql`), each for a location that no other branch has.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from psycopg.rows import class_row

from lake import catalog, object_store
from lake.settings import settings

WAITS_DAYS = 30
"""How long a key may wait for its branch."""
MAKING = timedelta(hours=1)
"""A key that is nobody's is left alone for that long: it may be in the making."""


@dataclass(frozen=True)
class Key:
    """A branch's key, and below where it writes and deletes."""

    access_key: str
    secret_key: str = field(repr=False)
    location: str
    expires_at: datetime


def of(name: str) -> Key | None:
    """The key of a branch; None where there is no such branch."""
    with (
        catalog.connect("builder") as connection,
        connection.cursor(row_factory=class_row(Key)) as cursor,
    ):
        return cursor.execute(
            "select access_key, secret_key, location, expires_at"
            " from lake.keys inner join lake.refs on ref = name where name = %s",
            [name],
        ).fetchone()


def keep_ready() -> None:
    """Have keys wait for as many branches as the settings say, of who may not make keys."""
    with catalog.connect("maintenance") as connection:
        found = connection.execute(
            "select count(*) from lake.ready_keys where expires_at > now() + %s", [_branch_life()]
        ).fetchone()
    assert found
    make(settings().retention.ready_keys - found[0])


def make(count: int) -> None:
    """Make keys for branches to come; none where `count` is not positive."""
    expires_at = datetime.now(UTC) + life()
    with catalog.connect("maintenance") as connection:
        for _ in range(count):
            location = f"branches/{secrets.token_hex(8)}"
            key = object_store.create_key(location, expires_at)
            connection.execute(
                "insert into lake.ready_keys values (%s, %s, %s, %s)", [location, *key, expires_at]
            )


def life() -> timedelta:
    """How long a key lives that is made now."""
    return _branch_life() + timedelta(days=WAITS_DAYS)


def _branch_life() -> timedelta:
    return timedelta(days=settings().retention.branch_days)


@contextmanager
def closed(name: str) -> Iterator[None]:
    """Take a branch's key for its publish, so that nobody writes to what is published.

    Where the block fails and the branch is still there, it has its key again.

    Raises LakeError where another publish of it is at work.
    """
    with catalog.alone("lake publish", "builder", name):
        key = of(name)
        if key:
            object_store.remove_key(key.access_key)
        try:
            yield
        except BaseException:
            if key and of(name):
                like = key.access_key, key.secret_key
                object_store.create_key(key.location, key.expires_at, like)
            raise


def remove_stray(now: datetime, *, apply: bool) -> int:
    """Remove keys whose branch is gone, or that no branch will take; returns how many.

    With `apply`; else they are counted only.
    """
    found = object_store.branch_keys()
    needed = now + _branch_life()
    # First those that are, last those of branches: a key may be made, or taken, meanwhile.
    with catalog.connect("maintenance") as connection:
        if apply:
            connection.execute("delete from lake.ready_keys where expires_at <= %s", [needed])
        waiting = connection.execute(
            "select access_key from lake.ready_keys where expires_at > %s", [needed]
        ).fetchall()
    with catalog.connect("builder") as connection:
        taken = connection.execute("select access_key from lake.keys").fetchall()
    known = {key for (key,) in waiting + taken}
    made_before = now + life() - MAKING
    stray = [key for key, dies in found.items() if key not in known and dies < made_before]
    if apply:
        for key in stray:
            object_store.remove_key(key)
        keep_ready()
    return len(stray)
