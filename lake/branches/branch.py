"""Branches, tags and pins: what a name other than `lake` stands for, and its life."""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row

from lake import catalog, object_store
from lake.credentials import Role
from lake.errors import LakeError
from lake.settings import TRUNK, on_branch, settings
from lake.stack import trino
from lake.stack.program import listens

PIN_HOURS = 24
_NAME = re.compile(r"(?!lake$|publish_\d+$)[a-z][a-z0-9_]{0,62}")
"""As `schema.sql` has it; asked here too, so that no key is made for a name that is none."""


@dataclass(frozen=True)
class Ref:
    """A branch, a tag, or a pin (a publish by its id). `publish_id` is the last publish it holds.

    `changed` counts a branch's tables that differ from what it began with; `state` is of a run's
    branch: running, or why it failed.
    """

    name: str
    kind: str
    owner: str
    created_at: datetime
    expires_at: datetime | None
    publish_id: int
    state: str
    changed: int


def create(name: str, *, in_trino: bool = True) -> None:
    """Make a branch of `lake` as it is now: a copy of its pointers, in one statement.

    It is a catalog of Trino's too, unless that isn't wanted, or Trino is down.

    Raises LakeError where the name is taken or is none.
    """
    if not _NAME.fullmatch(name):
        raise LakeError(
            f"`{name}` is no name for a branch: use lower-case letters, digits and _, "
            "a letter first, and leave `publish_…` to pins"
        )
    location = f"branches/{name}_{secrets.token_hex(4)}"
    lifetime = timedelta(days=settings().retention.branch_days)
    expires_at = datetime.now(UTC) + lifetime
    key = object_store.create_key(location, expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"))
    try:
        call(
            "builder",
            "select lake.create_branch(%s, %s, %s, %s, %s, %s)",
            name,
            settings().author,
            lifetime,
            location,
            *key,
        )
    except BaseException:
        object_store.remove_key(key[0])
        raise
    if in_trino:
        show_in_trino(name)


def drop(name: str) -> None:
    """Drop a branch; its files go with the next `lake maintain`.

    Raises LakeError where there is no such branch.
    """
    with catalog.connect("builder") as connection:
        found = connection.execute(
            "select access_key from lake.keys where ref = %s", [name]
        ).fetchone()
    call("builder", "select lake.drop_branch(%s)", name)
    end(name, found[0] if found else None)


def tag(name: str, publish: int | None = None) -> None:
    """Freeze the lake under a name, as it is now or was after a publish.

    Raises LakeError where the name is taken, or the publish is not kept.
    """
    call("publisher", "select lake.create_tag(%s, %s, %s)", name, settings().author, publish)
    show_in_trino(name)


def drop_tag(name: str) -> None:
    """Give up a tag."""
    call("publisher", "select lake.drop_tag(%s)", name)
    end(name, None)


def pin(publish: int | None = None, *, in_trino: bool = True) -> str:
    """The name under which a publish, the last one unless told, can be read and stays as it is.

    Raises LakeError where the publish is not kept.
    """
    lifetime = timedelta(hours=PIN_HOURS)
    name = str(call("reader", "select lake.pin(%s, %s, %s)", publish, settings().author, lifetime))
    if in_trino:
        show_in_trino(name)
    return name


@contextmanager
def pinned(*, in_trino: bool = False) -> Iterator[str]:
    """Read one publish for as long as the block lasts, whatever is published meanwhile.

    Only `lake` moves under its readers: on a branch or a tag this does nothing.
    """
    if settings().branch != TRUNK:
        yield settings().branch
        return
    with on_branch(pin(in_trino=in_trino)):
        yield settings().branch


def refs() -> list[Ref]:
    """Every branch, tag and pin, the oldest first."""
    with (
        catalog.connect("reader") as connection,
        connection.cursor(row_factory=class_row(Ref)) as cursor,
    ):
        return cursor.execute(
            """
            select
                name, kind, owner, created_at, expires_at, publish_id, state,
                (
                    select count(*)
                    from (select * from iceberg_tables where catalog_name = name) as mine
                    full join (select * from lake.bases where ref = name) as base
                        using (table_namespace, table_name)
                    where kind = 'branch'
                    and mine.metadata_location is distinct from base.metadata_location
                ) as changed
            from lake.refs
            order by created_at
            """
        ).fetchall()


def end(name: str, access_key: str | None) -> None:
    """After a ref has left the catalog: take its key, and have Trino forget it."""
    catalog.open_catalog.cache_clear()
    if access_key:
        from minio.error import MinioAdminException  # slow to import

        with suppress(MinioAdminException):  # it may have expired
            object_store.remove_key(access_key)
    if listens("trino"):
        trino.drop_catalog(name)


def call(role: Role, query: str, *arguments: Any) -> Any:
    """The one value that a function of `schema.sql` returns. Raises LakeError, with its words."""
    with catalog.connect(role) as connection:
        try:
            row = connection.execute(query.encode(), arguments).fetchone()
        except psycopg.Error as error:
            if (error.sqlstate or "").startswith("LK"):
                raise LakeError(error.diag.message_primary) from None
            raise
    return row[0] if row else None


def tell_trino() -> None:
    """Have Trino know `lake` and every ref, and no other."""
    known = set(trino.catalogs())  # first, or a branch that is made now would be forgotten
    wanted = {TRUNK, *(ref.name for ref in refs())}
    for name in known - wanted:
        trino.drop_catalog(name)
    for name in wanted - known:
        trino.add_catalog(catalog.access(name))


def show_in_trino(name: str) -> None:
    """Have Trino know a ref, as a catalog of its name; if it is down, it will when it is up."""
    if listens("trino"):
        trino.add_catalog(catalog.access(name))
