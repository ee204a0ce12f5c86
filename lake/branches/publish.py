"""Publishing a branch, what was published, and going back to it."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from lake import catalog, lag
from lake.branches import branch, keys
from lake.errors import LakeError
from lake.settings import ROOT, settings


@dataclass(frozen=True)
class Publish:
    """One publish or rollback.

    `tables` are those that it moved, built of a bronze that was complete up to `lsn`, which the
    source committed at `complete_at`; `is_whole` says that all of `lake` was. `restored` is the
    publish that a rollback went back to; `is_kept` says whether it can still be rolled back to.
    `exceptions` are tables that had not passed, each with the reason why it was published.
    """

    id: int
    kind: str
    at: datetime
    author: str
    code_version: str | None
    run_id: str | None
    lsn: int | None
    complete_at: datetime | None
    is_whole: bool
    restored: int | None
    is_kept: bool
    tables: Sequence[str]
    exceptions: Sequence[str]


def publish(
    name: str,
    built_by: str | None = None,
    project: Sequence[Mapping[str, Any]] = (),
    *,
    is_whole: bool = False,
    reason: str | None = None,
) -> int | None:
    """Move all that a branch changed to `lake`, at once; the branch ends. Returns the publish's id.

    None where the branch changed nothing. `built_by` is dbt's manifest of the project that built
    it, `project` what it says of each model's table (`provenance.described`), and the suite that
    the table must have passed, if any. `is_whole` says that all of the project was built; `reason`,
    why what did not pass is published all the same.

    Raises LakeError where a changed table moved on `lake` meanwhile, or a model's table is not what
    that project makes of the branch, or has not passed; then nothing is moved.
    """
    built_of = lag.captured(name)
    with keys.closed(name):
        made = branch.call(
            "publisher",
            "select lake.publish(%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            name,
            settings().author,
            code_version(),
            built_of.lsn if built_of else None,
            built_by,
            built_of.at if built_of else None,
            is_whole,
            Jsonb(list(project)),
            reason,
        )
    branch.end(name)
    return None if made is None else int(made)


def check(name: str, project: Sequence[Mapping[str, Any]]) -> None:
    """Raise LakeError where a publish of a branch would, for what its tables were made of."""
    branch.call("publisher", "select lake.must_be_accounted(%s, %s)", name, Jsonb(list(project)))


def unaccounted(name: str, project: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tables of a branch that a publish of it would refuse, and why; none of what is none."""
    with catalog.connect("reader") as connection:
        found = connection.execute(
            "select table_name || ' ' || why from lake.unaccounted(%s, %s)",
            [name, Jsonb(list(project))],
        ).fetchall()
    return [one for (one,) in found]


def extend(to: lag.Position) -> None:
    """Note that what was published last is what all of the project makes of bronze up to there."""
    newest = log(1)
    if newest:
        branch.call(
            "publisher", "select lake.extend_publish(%s, %s, %s)", newest[0].id, to.lsn, to.at
        )


def rollback(to: int) -> int | None:
    """Have `lake` be as it was after publish `to`, as a publish of its own; returns its id.

    None where `lake` is like that already.

    Raises LakeError where that publish is not kept.
    """
    made = branch.call(
        "publisher", "select lake.rollback(%s, %s, %s)", to, settings().author, code_version()
    )
    return None if made is None else int(made)


def log(limit: int | None = None) -> list[Publish]:
    """What was published, the last first."""
    with (
        catalog.connect("reader") as connection,
        connection.cursor(row_factory=class_row(Publish)) as cursor,
    ):
        return cursor.execute(
            """
            select
                id, kind, at, author, code_version, run_id, lsn, complete_at, is_whole,
                restored, is_kept,
                array(
                    select table_namespace || '.' || table_name
                    from lake.moves where publish_id = id
                    order by table_namespace, table_name
                ) as tables,
                array(
                    select table_namespace || '.' || table_name || ': ' || reason
                    from lake.exceptions where publish_id = id
                    order by table_namespace, table_name
                ) as exceptions
            from lake.publishes
            order by id desc
            limit %s
            """,
            [limit],
        ).fetchall()


def at(moment: str) -> int:
    """The publish that a moment names: by its id, or the last one at a time.

    The time is ISO 8601, local where it names no zone.

    Raises LakeError where it is neither, or before the first publish.
    """
    if moment.isdecimal():
        return int(moment)
    try:
        time = datetime.fromisoformat(moment).astimezone()
    except ValueError:
        raise LakeError(
            f"`{moment}` is no moment: give a publish's id, or a time such as 2026-11-28T09:30"
        ) from None
    with catalog.connect("reader") as connection:
        found = connection.execute(
            "select max(id) from lake.publishes where at <= %s", [time]
        ).fetchone()
    assert found
    if found[0] is None:
        raise LakeError(f"nothing was published yet at {time:%Y-%m-%d %H:%M:%S %Z}: see `lake log`")
    return int(found[0])


def exceptions() -> list[str]:
    """The tables of `lake` that have not passed as they are now, each with the reason why it was
    published."""
    with catalog.connect("reader") as connection:
        found = connection.execute(
            """
            select
                e.table_namespace || '.' || e.table_name
                || ' in publish ' || publish_id || ': ' || reason
            from lake.exceptions as e
            inner join iceberg_tables as t on (
                t.catalog_name = 'lake'
                and t.table_namespace = e.table_namespace
                and t.table_name = e.table_name
                and lake.origin(t.metadata_location) = e.pointer
            )
            where not exists (
                select from lake.validations as v where v.pointer = e.pointer and v.at > e.at
            )
            order by 1
            """
        ).fetchall()
    return [one for (one,) in found]


def built_of(table: str) -> int | None:
    """Of which bronze a table of this process's branch was built: complete up to that LSN.

    Of one that something else than a build has written, the same of what the branch began with.
    None where neither a build nor a publish tells.
    """
    namespace, _, name = table.partition(".")
    with catalog.connect("reader") as connection:
        found = connection.execute(
            """
            select r.publish_id, coalesce(
                (select max(lsn) from lake.provenance where pointer = lake.origin(now.pointer)),
                (select max(lsn) from lake.provenance where pointer = lake.origin(base.pointer))
            )
            from (select %(ref)s as name) as asked
            left join lake.refs as r on r.name = asked.name
            left join (
                select catalog_name as ref, metadata_location as pointer from iceberg_tables
                where (table_namespace, table_name) = (%(namespace)s, %(name)s)
            ) as now on now.ref = asked.name
            left join (
                select ref, metadata_location as pointer from lake.bases
                where (table_namespace, table_name) = (%(namespace)s, %(name)s)
            ) as base on base.ref = asked.name
            """,
            {"namespace": namespace, "name": name, "ref": settings().branch},
        ).fetchone()
    held, lsn = found or (None, None)
    if lsn is not None:
        return int(lsn)
    for one in log():
        if table not in one.tables or (held is not None and one.id > held):
            continue
        if one.restored is None:
            return one.lsn
        held = one.restored
    return None


def in_force() -> list[str]:
    """The runs whose publishes make up `lake` as it is, the last first; none was rolled back."""
    runs, reached = [], None
    for one in log():
        if reached is not None and one.id > reached:
            continue
        reached = one.restored
        if one.run_id:
            runs.append(one.run_id)
    return runs


def manifest() -> str | None:
    """dbt's manifest of the project that built what this branch began from, if a publish tells."""
    with catalog.connect("reader") as connection:
        found = connection.execute(
            "select lake.manifest_of(coalesce("
            "(select publish_id from lake.refs where name = %s),"
            " (select max(id) from lake.publishes)))",
            [settings().branch],
        ).fetchone()
    return found[0] if found else None


def code_version() -> str | None:
    """The checkout's commit, with `-dirty` where files differ from it; None without git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607 - any git will do
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
