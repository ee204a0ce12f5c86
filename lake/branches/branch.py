"""Branches, tags and pins: what a name other than `lake` stands for, and its life."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.rows import class_row

from lake import catalog, object_store
from lake.branches import keys
from lake.credentials import Role, credentials
from lake.errors import LakeError
from lake.settings import APPENDED, TRUNK, on_branch, settings
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

    Raises LakeError where the name is taken or is none, or no key is ready for who makes none.
    """
    if not _NAME.fullmatch(name):
        raise LakeError(
            f"`{name}` is no name for a branch: use lower-case letters, digits and _, "
            "a letter first, and leave `publish_…` to pins"
        )
    if credentials().make_keys:
        keys.make(1)  # those that wait are for who can't
    lifetime = timedelta(days=settings().retention.branch_days)
    query = "select lake.create_branch(%s, %s, %s)"
    if not call("builder", query, name, settings().author, lifetime):
        raise LakeError("no key for a branch is ready: `lake up` where the lake is makes more")
    if in_trino:
        show_in_trino(name)


def take(name: str, tables: Sequence[str]) -> None:
    """Have a branch be able to write to tables that it did not make.

    Engines write where a table's metadata says that the table is, and a branch's key writes below
    that branch's own location only. So a table that is taken is said to be there from now on; the
    files that it has stay where they are. dbt takes what it builds.

    Raises LakeError where the branch is none to write on, or there is no such table to be written.
    """
    opened = catalog.access(name)
    if not opened.is_writable:
        raise LakeError(f"`{name}` is not written: make a branch, `lake branch create`")
    for table in tables:
        namespace, _, alone = table.partition(".")
        pointer = catalog.pointer(name, table)
        if pointer is None or namespace in APPENDED:
            raise LakeError(f"{table} is no table that a branch writes: see `show tables`")
        if pointer.startswith(f"{opened.warehouse}/"):
            continue
        location = f"{opened.warehouse}/{namespace}/{alone}-{uuid4().hex}"
        taken = f"{location}/metadata/{_next_version(pointer):05d}-{uuid4()}.metadata.json"
        text = json.dumps(_moved(catalog.metadata_at(pointer), pointer, location)).encode()
        object_store.write(taken, text, opened.access_key, opened.secret_key)
        query = "select lake.take(%s, %s, %s, %s, %s)"  # which somebody else may just have done
        call("builder", query, name, namespace, alone, pointer, taken)


def reset(name: str, table: str) -> None:
    """Set a branch's table back to its state at the branch's creation."""
    with catalog.connect("builder") as connection, connection.transaction():
        connection.execute(
            """
            update iceberg_tables as mine
            set
                metadata_location = coalesce(base.taken, base.metadata_location),
                previous_metadata_location = null
            from lake.bases as base
            where
                mine.catalog_name = %s and base.ref = mine.catalog_name
                and base.table_namespace = mine.table_namespace
                and base.table_name = mine.table_name
                and base.table_namespace || '.' || base.table_name = %s
            """,
            [name, table],
        )


def drop_tables(name: str, tables: Sequence[str]) -> None:
    """Drop tables of a branch; what they hold stays on `lake` until the branch is published."""
    with catalog.connect("builder") as connection, connection.transaction():
        connection.execute(
            "delete from iceberg_tables where catalog_name = %s"
            " and table_namespace || '.' || table_name = any(%s)",
            [name, list(tables)],
        )


def _next_version(pointer: str) -> int:
    """The number that Iceberg's catalogs begin the name of a table's next metadata file with."""
    number = pointer.rpartition("/")[2].partition("-")[0]
    return int(number) + 1 if number.isdecimal() else 0


def _moved(metadata: dict[str, Any], pointer: str, location: str) -> dict[str, Any]:
    """The same table at another location, as the successor of what is at `pointer`."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    before = {"timestamp-ms": metadata["last-updated-ms"], "metadata-file": pointer}
    listed = int(metadata.get("properties", {}).get("write.metadata.previous-versions-max", 100))
    return metadata | {
        "location": location,
        "last-updated-ms": max(now, metadata["last-updated-ms"]),
        "metadata-log": [*metadata.get("metadata-log", ()), before][-listed:],
    }


def drop(name: str) -> None:
    """Drop a branch; its files go with the next `lake maintain`.

    Raises LakeError where there is no such branch.
    """
    key = keys.of(name)
    call("builder", "select lake.drop_branch(%s)", name)
    if key and credentials().make_keys:  # else maintenance does, and it opens nothing of the lake
        object_store.remove_key(key.access_key)
    end(name)


def tag(name: str, publish: int | None = None) -> None:
    """Freeze the lake under a name, as it is now or was after a publish.

    Raises LakeError where the name is taken, or the publish is not kept.
    """
    call("publisher", "select lake.create_tag(%s, %s, %s)", name, settings().author, publish)
    show_in_trino(name)


def drop_tag(name: str) -> None:
    """Give up a tag."""
    call("publisher", "select lake.drop_tag(%s)", name)
    end(name)


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
                (select count(*) from lake.changed(name)) as changed
            from lake.refs
            order by created_at
            """
        ).fetchall()


def end(name: str) -> None:
    """After a ref has left the catalog: have everybody forget it."""
    catalog.open_catalog.cache_clear()
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
