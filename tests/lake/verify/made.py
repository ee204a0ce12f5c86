"""A source table of any types, and a lake of it made by hand: bulk, changes, silver, quarantine.

Bulk and changes are read from Postgres itself, and silver is built of them here, so that what is
compared owes nothing to the code of the lake. All of it stands on a branch.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
)

from lake import source
from lake.catalog import open_catalog
from lake.manifest import Column, SourceTable
from lake.settings import settings
from lake.verify.rows import Held, Shape
from lake.verify.tables import Target
from lake.verify.values import Compared
from tests.pgoutput import Change, Row, decoded

TYPES: dict[str, IcebergType] = {
    "smallint": IntegerType(),
    "integer": IntegerType(),
    "bigint": LongType(),
    "numeric(12,2)": DecimalType(12, 2),
    "numeric(38,10)": DecimalType(38, 10),
    "boolean": BooleanType(),
    "real": FloatType(),
    "double precision": DoubleType(),
    "date": DateType(),
    "timestamp": TimestampType(),
    "timestamptz": TimestamptzType(),
    "bytea": BinaryType(),
}
"""The types that the lake has an equal of; every other is text."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def typed(text: str | None, kind: IcebergType) -> Any:
    """What the lake's type makes of what Postgres prints; None where it can't hold it."""
    if text is None:
        return None
    match kind:
        case StringType():
            return text
        case IntegerType() | LongType():
            return int(text)
        case BooleanType():
            return text == "t"
        case FloatType() | DoubleType():
            return float(text)
        case BinaryType():
            return bytes.fromhex(text[2:])
        case DecimalType():
            return Decimal(text) if Decimal(text).is_finite() else None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:  # infinite, BC, or of a year of five digits
        return None
    if isinstance(kind, DateType):
        return moment.date()
    return moment if isinstance(kind, TimestamptzType) else moment.replace(tzinfo=None)


@dataclass
class Made:
    """A table of the source and its lake. `key` may be empty; then the whole row identifies it."""

    connection: psycopg.Connection
    on: str
    name: str
    columns: dict[str, str]
    key: tuple[str, ...]
    slot: str = ""
    snapshot_lsn: int = 0
    rows: list[Row] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def declared(self) -> SourceTable:
        columns = tuple(Column(c, t, c) for c, t in self.columns.items())
        return SourceTable(f"bronze.{self.name}", "public", self.name, self.key, columns)

    def type(self, column: str) -> IcebergType:
        return TYPES.get(self.columns[column], StringType())

    def create(self) -> None:
        """Make the table in the source, and its publication."""
        name = sql.Identifier(self.name)
        listed = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(type_))
            for column, type_ in self.columns.items()
        )
        self.connection.execute(sql.SQL("create table {} ({})").format(name, listed))
        if self.key:
            keys = sql.SQL(", ").join(map(sql.Identifier, self.key))
            self.connection.execute(
                sql.SQL("alter table {} add primary key ({})").format(name, keys)
            )
        else:
            self.connection.execute(sql.SQL("alter table {} replica identity full").format(name))
        self.connection.execute(sql.SQL("create publication {} for table {}").format(name, name))
        user = sql.Identifier(settings().source.user)
        self.connection.execute(sql.SQL("grant select on {} to {}").format(name, user))

    # -- what capture does ---------------------------------------------------------------------

    def load(self) -> None:
        """Take a bulk snapshot; changes go on from there."""
        self.slot = f"{self.name}_slot"
        with (
            source.exported_snapshot(self.slot, is_temporary=False) as made,
            source.connect() as connection,
        ):
            self.snapshot_lsn = made.lsn
            with connection.transaction():
                connection.execute("set transaction isolation level repeatable read")
                connection.execute(sql.SQL("set transaction snapshot {}").format(made.name))
                self.rows = self._rows(connection)
        marks = {"_snapshot_lsn": made.lsn, "_unheld": None if self.rows else "{}"}
        rows = [self._typed(row) | marks for row in self.rows] or [marks]
        kinds = self._kinds() | {"_snapshot_lsn": LongType(), "_unheld": StringType()}
        self._write("bronze_made", self.name, kinds, rows)
        self._write("bronze_made", f"{self.name}_changes", _CHANGES, [])

    def _rows(self, connection: psycopg.Connection) -> list[Row]:
        printed = sql.SQL(", ").join(
            sql.SQL("case when {0} is distinct from null then concat({0}) end").format(
                sql.Identifier(column)
            )
            for column in self.columns
        )
        query = sql.SQL("select {} from public.{}").format(printed, sql.Identifier(self.name))
        rows = connection.execute(query).fetchall()
        return [dict(zip(self.columns, row, strict=True)) for row in rows]

    def land(self) -> int:
        """Land what was committed since; returns the last commit's LSN."""
        with source.connect() as connection:
            messages = connection.execute(
                "select data from pg_logical_slot_get_binary_changes(%s, null, null,"
                " 'proto_version', '1', 'publication_names', %s)",
                [self.slot, f'"{self.name}"'],
            ).fetchall()
        new = list(decoded(data for (data,) in messages))
        self.changes += new
        table = open_catalog(self.on).load_table(f"bronze_made.{self.name}_changes")
        rows = [self._landed(change) for change in new]
        if rows:
            table.append(pa.Table.from_pylist(rows, schema=table.schema().as_arrow()))
        return max((change.position[0] for change in self.changes), default=self.snapshot_lsn - 1)

    def _landed(self, change: Change) -> dict[str, Any]:
        commit_lsn, ordinal = change.position
        return {
            "source_table": f"public.{self.name}",
            "op": change.op,
            "commit_lsn": commit_lsn,
            "ordinal": ordinal,
            "before": None if change.before is None else json.dumps(change.before),
            "after": None
            if change.after is None
            else json.dumps(change.after, ensure_ascii=ordinal % 2 == 0),
            "unchanged": json.dumps(change.unchanged) if change.unchanged else None,
        }

    # -- what silver is ------------------------------------------------------------------------

    def state(self) -> list[Row]:
        """The rows as bulk and all landed changes have them."""
        if not self.key:
            return self._multiset()
        rows = {self.key_of(row): row for row in self.rows}
        for change in self.changes:
            if change.op == "t":
                rows.clear()
                continue
            old = change.before or change.after
            assert old is not None
            before = rows.pop(self.key_of((change.after or {}) | old), {})
            if change.after is not None:
                kept = {name: before.get(name) for name in change.unchanged}
                rows[self.key_of(change.after)] = change.after | kept
        return list(rows.values())

    def _multiset(self) -> list[Row]:
        rows = list(self.rows)
        for change in self.changes:
            if change.op == "t":
                rows.clear()
            if change.before is not None:
                rows.remove(change.before)
            if change.after is not None:
                rows.append(change.after)
        return rows

    def key_of(self, row: Row) -> tuple[str | None, ...]:
        return tuple(row[name] for name in self.key)

    def build(self, rows: Sequence[Row] | None = None, broken: Sequence[Row] = ()) -> int:
        """Build silver of what is landed, or of other rows; returns the LSN that it is built to.

        `broken` rows go to the quarantine, each by two rules, and all rows by one that only warns.
        """
        lsn = self.land()
        rows = self.state() if rows is None else rows
        kept = [self._typed(row) for row in rows if row not in broken]
        kinds = self._kinds()
        if self.key:
            self._write("silver_made", self.name, kinds, kept)
            rules = {"rule": StringType(), "on_break": StringType()}
            kept_out = [
                self._typed(row) | {"rule": rule, "on_break": on_break}
                for rule, on_break in (("a", "quarantine"), ("b", "quarantine"), ("c", "warn"))
                for row in (rows if on_break == "warn" else broken)
            ]
            self._write("silver_made", f"{self.name}_quarantine", kinds | rules, kept_out)
            return lsn
        copies: list[dict[str, Any]] = []
        for row in kept:
            same = [other for other in copies if row.items() <= other.items()]
            if same:
                same[0]["_copies"] += 1
            else:
                copies.append(row | {"_copies": 1})
        self._write("silver_made", self.name, kinds | {"_copies": LongType()}, copies)
        return lsn

    def silver(self, built_lsn: int) -> Target:
        copies = "1" if self.key else "_copies"
        held = [Held(self.relation("silver_made", self.name), copies=copies)]
        if self.key:
            quarantine = self.relation("silver_made", f"{self.name}_quarantine")
            held.append(Held(quarantine, "on_break <> 'warn'", is_distinct=True))
        return self._target(held, built_lsn)

    def bronze(self) -> Target:
        where = f"_snapshot_lsn = {self.snapshot_lsn} and coalesce(_unheld, '') <> '{{}}'"
        held = [Held(self.relation("bronze_made", self.name), where)]
        return self._target(held, self.snapshot_lsn - 1)

    def _target(self, held: Sequence[Held], built_lsn: int) -> Target:
        compared = [Compared(column, column, self.type(column)) for column in self.columns]
        landed = self.relation("bronze_made", f"{self.name}_changes")
        return Target(self.name, held, built_lsn, landed, len(self.rows), Shape(compared, self.key))

    def relation(self, namespace: str, name: str) -> str:
        return f'"{self.on}"."{namespace}"."{name}"'

    def _kinds(self) -> dict[str, IcebergType]:
        return {column: self.type(column) for column in self.columns}

    def _typed(self, row: Row) -> dict[str, Any]:
        return {column: typed(row[column], self.type(column)) for column in self.columns}

    def _write(
        self,
        namespace: str,
        name: str,
        kinds: dict[str, IcebergType],
        rows: Sequence[dict[str, Any]],
    ) -> None:
        opened = open_catalog(self.on)
        opened.create_namespace_if_not_exists(namespace)
        if opened.table_exists(f"{namespace}.{name}"):
            opened.drop_table(f"{namespace}.{name}")
        schema = Schema(*(NestedField(i, n, kind) for i, (n, kind) in enumerate(kinds.items(), 1)))
        table = opened.create_table(f"{namespace}.{name}", schema)
        if rows:
            table.append(pa.Table.from_pylist(list(rows), schema=schema.as_arrow()))


_CHANGES: dict[str, IcebergType] = {
    "source_table": StringType(),
    "op": StringType(),
    "commit_lsn": LongType(),
    "ordinal": LongType(),
    "before": StringType(),
    "after": StringType(),
    "unchanged": StringType(),
}
