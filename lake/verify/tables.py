"""What a source table is compared with: its current state in silver, or what bronze alone holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table

from lake import lag
from lake.branches import publish
from lake.catalog import open_catalog, total
from lake.errors import LakeError
from lake.manifest import SourceTable, current_models, models
from lake.settings import TRUNK, settings
from lake.verify.rows import Held, Shape
from lake.verify.values import Compared, literal, quoted

NO_ROW = "{}"
"""The `_unheld` of a row that stands for a snapshot of no rows."""


@dataclass(frozen=True)
class Target:
    """Where the lake has the rows of a source table, and which of its columns.

    `name` is the table that people know, `held` what has its rows: about `expected` of them, built
    of all that was committed up to `built_lsn`. `landed` is the relation of the changes since.
    """

    name: str
    held: Sequence[Held]
    built_lsn: int
    landed: str
    expected: int
    shape: Shape
    left_out: Sequence[str] = ()


def silver(table: SourceTable, columns: Sequence[str]) -> list[Target]:
    """The models of the current state of a table, on this process's branch.

    `columns` are those that the source has now.

    Raises LakeError where one is not built, or was built before the table's newest snapshot.
    """
    return [_current(table, name, columns) for name in current_models(table)]


def _current(table: SourceTable, model: str, columns: Sequence[str]) -> Target:
    name = f"silver.{model}"
    current = _load(settings().branch, name)
    if current is None:
        raise LakeError(f"{name} is not built: `lake run`, or compare with bronze by --bronze")
    around = models("silver")
    histories = [f"silver.{one.name}" for one in around if one.history_of == model]
    quarantines = [f"silver.{one.name}" for one in around if one.quarantine_of == model]
    reached = [publish.built_of(one) for one in (name, *histories)]
    built_lsn = min((lsn for lsn in reached if lsn is not None), default=None)
    if built_lsn is None or None in reached:
        raise LakeError(f"no publish says of which bronze {name} was built: `lake run` does")
    taken = lag.snapshot_lsn(table.bronze)
    if taken is not None and taken - 1 > built_lsn:
        raise LakeError(
            f"{name} was built before the newest snapshot of its table: `lake run` builds it, "
            "and --bronze compares that snapshot"
        )
    shape, left_out = _shape(table, current, columns)
    copies = "1" if table.key else "_copies"
    is_there = _is_there(table, built_lsn)
    held = [Held(_relation(settings().branch, current), is_there, copies)]
    for one in quarantines:
        if broken := _load(settings().branch, one):
            relation = _relation(settings().branch, broken)
            is_kept_out = f"on_break <> 'warn' and {is_there}"
            held.append(Held(relation, is_kept_out, copies, is_distinct=True))
    return Target(name, held, built_lsn, _landed(), _rows(current), shape, left_out)


def bronze(table: SourceTable, columns: Sequence[str]) -> Target:
    """The newest bulk snapshot of a table. `columns` are those that the source has now.

    Raises LakeError where there is none that changes go on from.
    """
    loaded, taken = _load(TRUNK, table.bronze), lag.snapshot_lsn(table.bronze)
    if loaded is None or taken is None:
        raise LakeError(f"{table.bronze} has no snapshot of it: `lake ingest`")
    shape, left_out = _shape(table, loaded, columns)
    where = f"_snapshot_lsn = {taken} and coalesce(_unheld, '') <> '{NO_ROW}'"
    held = [Held(_relation(TRUNK, loaded), where)]
    return Target(table.bronze, held, taken - 1, _landed(), _rows(loaded), shape, left_out)


def _is_there(table: SourceTable, built_lsn: int) -> str:
    """Of a model's rows those that no TRUNCATE has deleted at the source, as a condition."""
    if not table.keeps_truncated:
        return "true"
    last = (
        "select coalesce(max(row(commit_lsn, ordinal)), row(bigint '-1', bigint '0'))"
        f" from {_landed()} where source_table = {literal(table.qualified)} and op = 't'"
        f" and commit_lsn <= {built_lsn}"
    )
    return f"row(_commit_lsn, _ordinal) > ({last})"


def _landed() -> str:
    """The changes that `lake` has by now, whatever branch is compared."""
    return _relation(TRUNK, open_catalog(TRUNK).load_table(lag.CHANGES))


def _load(branch: str, name: str) -> Table | None:
    try:
        return open_catalog(branch).load_table(name)
    except NoSuchTableError:
        return None


def _shape(table: SourceTable, of: Table, columns: Sequence[str]) -> tuple[Shape, Sequence[str]]:
    """The declared columns that both sides have, and the others, those that nobody declared too."""
    types = {field.name: field.field_type for field in of.schema().fields}
    compared = [
        Compared(column.name, column.source_name, types[column.name])
        for column in table.columns
        if column.name in types and column.source_name in columns
    ]
    names = {column.name for column in compared}
    if lacking := [name for name in table.key if name not in names]:
        raise LakeError(f"its key can't be compared: {', '.join(lacking)} is on one side only")
    declared = {column.source_name for column in table.columns}
    left_out = [column.name for column in table.columns if column.name not in names]
    return Shape(compared, table.key), [*left_out, *(c for c in columns if c not in declared)]


def _relation(branch: str, table: Table) -> str:
    """A table as it is now, in Trino's SQL; what is committed later is not in it."""
    catalog, *name = branch, *table.name()
    snapshot = table.current_snapshot()
    at = f" for version as of {snapshot.snapshot_id}" if snapshot else ""
    return ".".join(map(quoted, (catalog, *name))) + at


def _rows(table: Table) -> int:
    return total(table.current_snapshot(), "records")


@dataclass(frozen=True)
class AtSource:
    """A table as the source has it now: the relation to select from, and its columns."""

    relation: str
    columns: Sequence[str]


def at_source(connection: psycopg.Connection, table: SourceTable) -> AtSource:
    """Raises LakeError where the source has no such table."""
    found = connection.execute(
        """
        select
            c.relkind = 'p',
            array(
                select attname::text from pg_attribute
                where attrelid = c.oid and attnum > 0 and not attisdropped
                order by attnum
            )
        from pg_class as c
        inner join pg_namespace as n on c.relnamespace = n.oid
        where n.nspname = %s and c.relname = %s and c.relkind in ('r', 'p')
        """,
        [table.schema, table.name],
    ).fetchone()
    if found is None:
        raise LakeError("the source has no such table")
    is_partitioned, columns = found
    name = sql.Identifier(table.schema, table.name).as_string(connection)
    return AtSource(name if is_partitioned else f"only {name}", columns)
