"""What a branch changes: tables, columns and rows, at a cost that goes with the change.

Pointers are compared in SQL and snapshots by their files. A data file that both sides have, with
the same deletes on it, holds no difference and is not read.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any

import duckdb
import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io import FileIO, load_file_io
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.schema import Schema
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import FileScanTask, ManifestGroupPlanner
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, StructType
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lake.catalog import access, connect, open_catalog, total
from lake.errors import LakeError
from lake.manifest import merge_key, snapshot_key, table_nodes, table_of

BOOKKEEPING = "_"
"""What the names of columns begin with that say how a row came, not what it is."""

Row = dict[str, Any]
Pair = tuple[NestedField, NestedField]
"""A column as it was, and as it is."""


@dataclass(frozen=True)
class SchemaChange:
    """`kind`: added, dropped, renamed, type, partitioning or order (the last two of no column)."""

    kind: str
    column: str | None
    before: str | None
    after: str | None


@dataclass(frozen=True)
class ChangedRow:
    """A row's key, and its old and new value in each column where they differ."""

    key: Row
    columns: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Rows:
    """How many rows differ, and some of them, in the order of their keys.

    `only_bookkeeping` differ in columns that begin with `_` alone, and are not among `changed`;
    `by_column` counts both, for each column where any differ. Values are those of JSON: what it has
    no type for is text, bytes are in hex.
    """

    added: int = 0
    removed: int = 0
    changed: int = 0
    only_bookkeeping: int = 0
    by_column: dict[str, int] = field(default_factory=dict)
    added_samples: tuple[Row, ...] = ()
    removed_samples: tuple[Row, ...] = ()
    changed_samples: tuple[ChangedRow, ...] = ()


@dataclass(frozen=True)
class TableDiff:
    """What became of a table. `change`: added, dropped or changed, which its metadata has.

    `is_replaced`: another table has its name now. `key` is what rows were matched by; empty where
    they were compared whole. `rows` is None where they can't be told: PyIceberg doesn't read
    equality deletes. `files_read` counts data files, those of deletes not among them; of a table
    that was added or dropped none are read, and there are no samples.
    """

    name: str
    change: str
    is_replaced: bool = False
    key: tuple[str, ...] = ()
    schema: tuple[SchemaChange, ...] = ()
    rows: Rows | None = None
    files_read: int = 0


@dataclass(frozen=True)
class Diff:
    """The tables whose pointers differ, by name. `other` is None for what the branch began with."""

    name: str
    other: str | None
    tables: tuple[TableDiff, ...]


@dataclass(frozen=True)
class _Side:
    metadata: TableMetadata
    io: FileIO

    def manifests(self) -> set[ManifestFile]:
        snapshot = self.metadata.current_snapshot()
        return set(snapshot.manifests(self.io)) if snapshot else set()

    def plan(self, manifests: Iterable[ManifestFile]) -> list[FileScanTask]:
        return list(ManifestGroupPlanner(self.metadata, self.io).plan_files(manifests))

    def read(self, tasks: list[FileScanTask], columns: list[NestedField]) -> pa.Table:
        scan = ArrowScan(self.metadata, self.io, Schema(*columns), AlwaysTrue())
        ordered = sorted(tasks, key=lambda task: task.file.file_path)
        return scan.to_table(ordered).rename_columns([f"c{i}" for i in range(len(columns))])

    def count(self) -> int | None:
        """Rows as a reader sees them; None where equality deletes leave that open."""
        snapshot = self.metadata.current_snapshot()
        rows, by_position, by_equality = (
            total(snapshot, what) for what in ("records", "position-deletes", "equality-deletes")
        )
        return None if by_equality else rows - by_position


def diff(
    name: str,
    other: str | None = None,
    samples: int = 5,
    keys: Mapping[str, tuple[str, ...]] | None = None,
) -> Diff:
    """What branch `name` changes: of what it began with, or of what `other`, any ref, is now.

    Columns are the same by field id, or by name where ids don't tell. Those that only one side has
    are a change of the schema, and not of rows. Rows are matched by `keys` (of `namespace.table`;
    dbt's where none are given), and whole where a table has none. Equal rows cancel out first. What
    then shares a key is paired one to one in the order of its values: of two old rows and three new
    ones, two are changed and one is added. Values of a column whose type changed are compared in a
    type that holds both, as text at worst. There are up to `samples` rows of each sort.

    Raises LakeError where there is no such ref, or `name` is no branch and `other` is left out.
    """
    if other is None and not access(name).is_writable:
        raise LakeError(
            f"`{name}` is no branch and began with nothing: say what to compare it with"
        )
    theirs, mine = (load_file_io(open_catalog(ref).properties) for ref in (other or name, name))
    found = []
    for table, before, after in _pointers(name, other):
        old = _open(before, theirs) if before else None
        new = _open(after, mine) if after else None
        if old and new:
            found.append(_changed(table, old, new, _key(table, keys), samples))
        else:
            found.append(TableDiff(table, "added" if new else "dropped", rows=_counted(old, new)))
    return Diff(name, other, tuple(found))


def keys() -> dict[str, tuple[str, ...]]:
    """The key columns of each table that dbt builds, by `schema.table`.

    Raises LakeError where the dbt project does not parse.
    """
    return {
        table_of(node): key
        for node in table_nodes().values()
        if (key := snapshot_key(node) or merge_key(node))
    }


def _key(table: str, given: Mapping[str, tuple[str, ...]] | None) -> tuple[str, ...]:
    return (keys() if given is None else given).get(table, ())


def _pointers(name: str, other: str | None) -> list[tuple[str, str | None, str | None]]:
    """Tables whose pointers differ, with the old one and the new one."""
    with connect("reader") as connection:
        found = connection.execute(
            """
            select table_namespace || '.' || table_name, before, after
            from lake.changed(%(name)s) where %(other)s::text is null
            union all
            select
                table_namespace || '.' || table_name,
                before.metadata_location,
                after.metadata_location
            from (select * from iceberg_tables where catalog_name = %(name)s) as after
            full join (select * from iceberg_tables where catalog_name = %(other)s) as before
                using (table_namespace, table_name)
            where
                %(other)s::text is not null
                and lake.origin(before.metadata_location)
                    is distinct from lake.origin(after.metadata_location)
            """,
            {"name": name, "other": other},
        ).fetchall()
    return sorted(found, key=lambda row: str(row[0]))


def _open(location: str, io: FileIO) -> _Side:
    return _Side(FromInputFile.table_metadata(io.new_input(location)), io)


def _counted(old: _Side | None, new: _Side | None) -> Rows | None:
    """All rows of both, which have none in common."""
    removed, added = (side.count() if side else 0 for side in (old, new))
    return None if added is None or removed is None else Rows(added, removed)


def _changed(name: str, old: _Side, new: _Side, key: tuple[str, ...], samples: int) -> TableDiff:
    pairs = _pairs(old.metadata, new.metadata)
    if not set(key) <= {after.name for _, after in pairs}:
        key = ()
    rows, files = _rows(old, new, pairs, key, samples)
    is_replaced = old.metadata.table_uuid != new.metadata.table_uuid
    schema = _schema_changes(old.metadata, new.metadata, pairs)
    return TableDiff(name, "changed", is_replaced, key, schema, rows, len(files))


def _pairs(old: TableMetadata, new: TableMetadata) -> list[Pair]:
    """The columns that both have, in the new order."""
    # After a fork both sides number new columns alike: an id tells only if they share its schema.
    shared = {
        column.field_id
        for schema in old.schemas
        if old.table_uuid == new.table_uuid and schema in new.schemas
        for column in schema.fields
    }
    after = new.schema().fields
    by_id = {c.field_id: c for c in old.schema().fields if c.field_id in shared}
    same = {c.field_id for c in after} & set(by_id)
    by_name = {c.name: c for c in old.schema().fields if c.field_id not in same}
    both = ((by_id.get(c.field_id) or by_name.get(c.name), c) for c in after)
    return [(before, now) for before, now in both if before]


def _rows(
    old: _Side, new: _Side, pairs: list[Pair], key: tuple[str, ...], samples: int
) -> tuple[Rows | None, set[str]]:
    """How the rows differ, if that can be told, and the data files that were read for it."""
    if not pairs:
        return _counted(old, new), set()
    try:
        gone, come = _tasks(old, new, pairs)
    except ValueError as error:
        if "equality deletes" not in str(error):
            raise
        return None, set()
    if not gone and not come:
        return Rows(), set()
    was = old.read(gone, [before for before, _ in pairs])
    now = new.read(come, [after for _, after in pairs])
    rows = _compare(was, now, [after.name for _, after in pairs], key, samples)
    return rows, {task.file.file_path for task in (*gone, *come)}


def _tasks(
    old: _Side, new: _Side, pairs: list[Pair]
) -> tuple[list[FileScanTask], list[FileScanTask]]:
    """What of each side must be read: files that the other lacks, or has with other deletes."""
    alike = _reads_alike(old, new, pairs)
    if alike and old.metadata.current_snapshot_id == new.metadata.current_snapshot_id:
        return [], []
    was, now = old.manifests(), new.manifests()
    if not alike:
        return old.plan(was), new.plan(now)
    shared = was & now
    if all(manifest.content == ManifestContent.DATA for manifest in was ^ now):
        # No delete came or went, so files that are listed in the same place have the same ones.
        shared = {manifest for manifest in shared if manifest.content == ManifestContent.DATA}
        was, now = was - shared, now - shared
    gone, come = ({_what(t): t for t in side.plan(m)} for side, m in ((old, was), (new, now)))
    return (
        [task for what, task in gone.items() if what not in come],
        [task for what, task in come.items() if what not in gone],
    )


def _reads_alike(old: _Side, new: _Side, pairs: list[Pair]) -> bool:
    """Whether one file holds the same values for both sides."""
    return old.metadata.table_uuid == new.metadata.table_uuid and all(
        before.field_id == after.field_id
        and (before.field_type.is_primitive or before.field_type == after.field_type)
        for before, after in pairs
    )


def _what(task: FileScanTask) -> tuple[str, frozenset[str]]:
    return task.file.file_path, frozenset(delete.file_path for delete in task.delete_files)


def _compare(
    was: pa.Table, now: pa.Table, names: list[str], key: tuple[str, ...], samples: int
) -> Rows:
    """How two sets of rows differ, whose columns are called c0, c1, … here."""
    told = [i for i, name in enumerate(names) if not name.startswith(BOOKKEEPING)]
    # Without a key, whole rows: those that are alike but for the bookkeeping are still the same.
    matched = [names.index(name) for name in key] or told or list(range(len(names)))
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("was", was)
        connection.register("now", now)
        _cancel(connection, was.schema, now.schema)
        _pair(connection, len(names), told, matched)
        return _tally(connection, names, matched, samples)


def _cancel(connection: duckdb.DuckDBPyConnection, was: pa.Schema, now: pa.Schema) -> None:
    """Make `surplus`: the rows that one side has more often, and how much; below 0 if the old."""
    every = ", ".join(was.names)
    query = f"""
        create table surplus as
        select {every}, sum(side) as surplus
        from (select {{0}}, -1 as side from was union all select {{0}}, 1 as side from now)
        group by {every}
        having sum(side) <> 0
    """
    try:
        connection.execute(query.format(every))
    except duckdb.ConversionException:  # between types that have nothing in common
        texts = (
            f"c{i}" if old.type == new.type else f"c{i}::varchar as c{i}"
            for i, (old, new) in enumerate(zip(was, now, strict=True))
        )
        connection.execute(query.format(", ".join(texts)))


def _pair(
    connection: duckdb.DuckDBPyConnection, width: int, told: list[int], matched: list[int]
) -> None:
    """Make `pairs`: rows that differ; their old values are o0, o1, …, their new ones n0, n1, …"""
    every = ", ".join(f"c{i}" for i in range(width))
    connection.execute(
        f"""
        create table pairs as
        with copies as (
            select
                *,
                row_number() over (
                    partition by {", ".join(f"c{i}" for i in matched)}, surplus > 0
                    order by {every}
                ) as copy
            from surplus, unnest(range(abs(surplus)::bigint))
        )
        select
            old.copy is null as is_added,
            new.copy is null as is_removed,
            not is_added and not is_removed as is_both,
            is_both
            and ({" or ".join(f"old.c{i} is distinct from new.c{i}" for i in told) or "false"})
            as is_changed,
            {", ".join(f"old.c{i} as o{i}, new.c{i} as n{i}" for i in range(width))}
        from (from copies where surplus < 0) as old
        full join (from copies where surplus > 0) as new
            on old.copy = new.copy
            and {" and ".join(f"old.c{i} is not distinct from new.c{i}" for i in matched)}
        """
    )


def _tally(
    connection: duckdb.DuckDBPyConnection, names: list[str], matched: list[int], samples: int
) -> Rows:
    old, new = ([f"{side}{i}" for i in range(len(names))] for side in "on")
    conditions = ["is_added", "is_removed", "is_changed", "is_both and not is_changed"]
    conditions += [f"is_both and {o} is distinct from {n}" for o, n in zip(old, new, strict=True)]
    counts = ", ".join(f"count(*) filter (where {condition})" for condition in conditions)
    counted = connection.execute(f"select {counts} from pairs").fetchone()
    assert counted

    def sample(which: str, values: list[str]) -> list[list[Any]]:
        order = ", ".join([values[i] for i in matched] + values)
        query = f"select {', '.join(values)} from pairs where {which} order by {order} limit ?"
        found = connection.execute(query, [samples]).fetchall()
        return [[_plain(value) for value in row] for row in found]

    def changed(row: list[Any]) -> ChangedRow:
        now, was = row[: len(names)], row[len(names) :]
        both = zip(names, was, now, strict=True)
        return ChangedRow(
            {names[i]: now[i] for i in matched},
            {name: (before, after) for name, before, after in both if before != after},
        )

    return Rows(
        added=counted[0],
        removed=counted[1],
        changed=counted[2],
        only_bookkeeping=counted[3],
        by_column={name: n for name, n in zip(names, counted[4:], strict=True) if n},
        added_samples=tuple(dict(zip(names, row, strict=True)) for row in sample("is_added", new)),
        removed_samples=tuple(
            dict(zip(names, row, strict=True)) for row in sample("is_removed", old)
        ),
        changed_samples=tuple(changed(row) for row in sample("is_changed", new + old)),
    )


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case date() | time():  # a datetime is a date
            return value.isoformat()
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_plain(one) for one in value]
        case dict():
            return {str(_plain(name)): _plain(one) for name, one in value.items()}
    return str(value)


def _schema_changes(
    old: TableMetadata, new: TableMetadata, pairs: list[Pair]
) -> tuple[SchemaChange, ...]:
    kept = {before.field_id for before, _ in pairs}
    had = {after.field_id for _, after in pairs}
    changes = [
        SchemaChange("added", column.name, None, _type(column.field_type))
        for column in new.schema().fields
        if column.field_id not in had
    ]
    changes += [
        SchemaChange("dropped", column.name, _type(column.field_type), None)
        for column in old.schema().fields
        if column.field_id not in kept
    ]
    for before, after in pairs:
        if before.name != after.name:
            changes.append(SchemaChange("renamed", after.name, before.name, after.name))
        was, now = _type(before.field_type), _type(after.field_type)
        if was != now:
            changes.append(SchemaChange("type", after.name, was, now))
    for kind, words in (("partitioning", _partitioning), ("order", _order)):
        was, now = words(old), words(new)
        if was != now:
            changes.append(SchemaChange(kind, None, was, now))
    return tuple(changes)


def _type(of: IcebergType) -> str:
    """A type in words, without the ids that its fields have in one table."""
    match of:
        case StructType():
            return f"struct<{', '.join(f'{f.name}: {_type(f.field_type)}' for f in of.fields)}>"
        case ListType():
            return f"list<{_type(of.element_type)}>"
        case MapType():
            return f"map<{_type(of.key_type)}, {_type(of.value_type)}>"
    return str(of)


def _partitioning(table: TableMetadata) -> str:
    name = table.schema().find_column_name
    return ", ".join(f"{f.transform}({name(f.source_id)})" for f in table.spec().fields)


def _order(table: TableMetadata) -> str:
    order = table.sort_order_by_id(table.default_sort_order_id)
    name = table.schema().find_column_name
    fields = order.fields if order else []
    return ", ".join(f"{f.transform}({name(f.source_id)}) {f.direction.value}" for f in fields)


def render(found: Diff) -> RenderableType:
    """The diff as people read it: counts by table, then what changed in each."""
    if not found.tables:
        return Text("nothing changed")
    tables = Table("TABLE", "CHANGE", box=None, pad_edge=False)
    for heading in ("ADDED", "REMOVED", "CHANGED", "BOOKKEEPING", "FILES READ"):
        tables.add_column(heading, justify="right")
    for one in found.tables:
        counts = ["?"] * 4
        if rows := one.rows:
            told = (rows.added, rows.removed, rows.changed, rows.only_bookkeeping)
            counts = [f"{count:,}" for count in told]
        change = "replaced" if one.is_replaced else one.change
        tables.add_row(Text(one.name), change, *counts, f"{one.files_read:,}")
    details = (_details(one) for one in found.tables)
    return Group(
        tables,
        *(
            Text("\n", no_wrap=True, overflow="ellipsis").join(map(Text, lines))
            for lines in details
            if len(lines) > 2
        ),
    )


def _details(one: TableDiff) -> list[str]:
    rows = one.rows or Rows()
    lines = ["", one.name, *(words(change) for change in one.schema)]
    if one.rows is None:
        lines.append("  rows can't be told: there are equality deletes")
    if rows.by_column:
        counts = (f"{name} {count:,}" for name, count in rows.by_column.items())
        lines.append(f"  rows differ in {', '.join(counts)}")
    for sign, sampled in (("+", rows.added_samples), ("-", rows.removed_samples)):
        for row in sampled:
            key_first = {name: row[name] for name in one.key} | row
            lines.append(f"  {sign} {values(key_first)}")
    for changed in rows.changed_samples:
        columns = (
            f"{name} {short(before)} → {short(after)}"
            for name, (before, after) in changed.columns.items()
            if not name.startswith(BOOKKEEPING)
        )
        lines.append(f"  ~ {values(changed.key)}: {', '.join(columns)}")
    return lines


def words(change: SchemaChange) -> str:
    """A change of the schema as people read it."""
    match change.kind:
        case "added" | "dropped":
            return f"  column {change.column} {change.kind}: {change.after or change.before}"
        case "renamed":
            return f"  column {change.before} renamed to {change.after}"
    what = change.column or change.kind
    return f"  {what}: {change.before or 'none'} → {change.after or 'none'}"


def values(row: Row) -> str:
    """A row as people read it."""
    return ", ".join(f"{name}={short(value)}" for name, value in row.items())


def short(value: Any) -> str:
    """A value, cut off where it is long."""
    words = "null" if value is None else str(value).replace("\n", " ")
    return words if len(words) <= 40 else f"{words[:39]}…"
