"""The declared tables as the source has them: which can be captured, and what ails the others.

One table's trouble is its own. It is computed from the source as it is now, and kept nowhere.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from lake import lag
from lake.errors import LakeError
from lake.manifest import Column, SourceTable, source_tables
from lake.names import LANDED, lake_names, qualified
from lake.settings import settings
from lake.shapes import waits
from lake.source import connect
from lake.types import TEXT, canonical, is_same

OLDEST = 150000
"""Postgres 15 is the first that tells which columns and rows a publication leaves out."""
PUBLISHES_GENERATED = 180000
INGEST = "run `lake ingest`"
OPERATIONS = "insert, update, delete, truncate"


@dataclass(frozen=True)
class Trouble:
    """Why a declared table is suspended: not copied, and its changes not relied on.

    `remedy` is SQL for the source's owner, statement by statement; there is none where the project
    must change instead. A routine one the lake runs itself, where it may. Where changes were missed
    the table needs a new snapshot after that.
    """

    table: str
    what: str
    remedy: tuple[str, ...] = ()
    is_routine: bool = False
    misses_changes: bool = False

    @property
    def instruction(self) -> str:
        """What to do about it, as commands to paste."""
        if self.remedy:
            again = f" --again {quote(self.table)}" if self.misses_changes else ""
            return f"run `{'; '.join(self.remedy)}` as {self._who}, then `lake ingest{again}`"
        if self.is_routine:
            return INGEST
        return "correct its declaration, then run `lake ingest`"

    @property
    def next_step(self) -> str:
        """The same for somebody who has not tried to ingest it: that may be all there is to do."""
        return INGEST if self.is_routine else self.instruction

    @property
    def _who(self) -> str:
        """Who may run the remedy at the source."""
        if any(statement.startswith("alter role") for statement in self.remedy):
            return "a superuser"
        of_publication = any(one.startswith("alter publication") for one in self.remedy)
        return f"the owner of the {'publication' if of_publication else 'table'}"

    def __str__(self) -> str:
        said = f"{self.table} {self.what}"
        return f"{said}: {self.instruction}" if self.remedy or self.is_routine else said


@dataclass(frozen=True)
class Table:
    """A table that can be captured; its columns, declared or not, by their names in the lake.

    A column's type is the source's, or text where that is declared: `printed` are those columns, by
    their names at the source.
    """

    declared: SourceTable
    oid: int
    columns: tuple[Column, ...]
    printed: frozenset[str]


@dataclass(frozen=True)
class Inspection:
    """What was found: the tables without trouble, and the troubles of the others.

    `is_published` says whether there is a publication. `setup` is what is routine to do before more
    can be captured, `undeclared` the tables that only the publication lists; both are SQL.
    """

    tables: tuple[Table, ...]
    troubles: tuple[Trouble, ...]
    is_published: bool
    setup: tuple[str, ...]
    undeclared: tuple[str, ...]


def suspended() -> tuple[Trouble, ...]:
    """What keeps declared tables from being captured as they are declared: now, or since a while.

    Raises LakeError where the source can't be reached, or can't be captured at all.
    """
    declared = source_tables()
    with connect() as connection:
        troubles = inspect(connection, declared).troubles
    why = {table: str(wait) for table, wait in waits(declared).items()}
    for table in declared:
        if lag.snapshot_lsn(table.bronze) is None:
            why[table.qualified] = "is declared, and not in bronze yet"
    for trouble in troubles:
        why.pop(trouble.table, None)
    return (
        *troubles,
        *(Trouble(one, why[one], is_routine=True, misses_changes=True) for one in why),
    )


def inspect(connection: psycopg.Connection, declared: Sequence[SourceTable]) -> Inspection:
    """Look at the declared tables and at the publication; nothing is changed.

    Raises LakeError where nothing can be captured at all.
    """
    _check_server(connection)
    if not declared:
        raise LakeError("the dbt project declares no table: add one to its `bronze` source")
    publication = _publication(connection)
    found = relations(connection, [(table.schema, table.name) for table in declared])
    role = _ask(connection, "select quote_ident(current_user) as name")[0].name
    tables, troubles = [], []
    for table in declared:
        relation = found.get((table.schema, table.name))
        if relation is None:
            troubles.append(
                Trouble(table.qualified, "is declared, but the source has no such table")
            )
            continue
        look = _Look(table, relation, publication, declared, connection.info.server_version, role)
        ailing = list(look.troubles())
        troubles += ailing
        if not ailing:
            tables.append(Table(table, relation.root.oid, look.columns(), look.printed()))
    named = {relation.root.sql for relation in found.values()}
    return Inspection(
        tuple(tables),
        tuple(troubles),
        publication.exists,
        _setup(publication, troubles, connection.info.server_version),
        tuple(name for name in publication.listed if name not in named),
    )


def may_be_told(version: int, column: Any) -> bool:
    """Whether a column can be published; a generated one can if it is stored, since Postgres 18."""
    return not column.generated or (column.generated == "s" and version >= PUBLISHES_GENERATED)


def _check_server(connection: psycopg.Connection) -> None:
    role = settings().source.user
    faults = []
    if connection.info.server_version < OLDEST:
        faults.append(
            f"the source is Postgres {connection.info.server_version // 10000}: 15 or later"
        )
    (found,) = _ask(
        connection,
        "select current_setting('wal_level') as level, quote_ident(rolname) as role,"
        " rolreplication or rolsuper as replicates from pg_roles where rolname = current_user",
    )
    if found.level != "logical":
        faults.append(
            f"wal_level is {found.level}, capture needs logical: run "
            "`alter system set wal_level = logical`, then restart the source"
        )
    if not found.replicates:
        faults.append(f"role {role} may not replicate: run `alter role {found.role} replication`")
    if faults:
        raise LakeError("\n".join(faults))


@dataclass(frozen=True)
class _Publication:
    """The publication: `listed` are the tables named in it one by one, `tables` all that it has."""

    sql: str
    exists: bool
    options: dict[str, Any]
    tables: dict[tuple[str, str], Any]
    listed: tuple[str, ...]


def _publication(connection: psycopg.Connection) -> _Publication:
    name = settings().source.publication
    options = _ask(
        connection,
        "select quote_ident(%s) as name, to_jsonb(p) as options"
        " from (select) as one left join pg_publication as p on p.pubname = %s",
        [name, name],
    )[0]
    tables = _ask(
        connection,
        "select schemaname, tablename, attnames::text[] as columns, rowfilter as filter"
        " from pg_publication_tables where pubname = %s",
        [name],
    )
    listed = _ask(
        connection,
        "select format('%%I.%%I', n.nspname, c.relname) as name from pg_publication_rel as r"
        " inner join pg_publication as p on r.prpubid = p.oid"
        " inner join pg_class as c on r.prrelid = c.oid"
        " inner join pg_namespace as n on c.relnamespace = n.oid"
        " where p.pubname = %s",
        [name],
    )
    return _Publication(
        options.name,
        options.options is not None,
        options.options or {},
        {(table.schemaname, table.tablename): table for table in tables},
        tuple(row.name for row in listed),
    )


@dataclass(frozen=True)
class Relation:
    """A table, with what it is made of: itself, or it and its partitions, of any depth.

    `columns` are those of the first member, the table itself; `indexes` what is unique, by member.
    """

    members: list[Any]
    columns: list[Any]
    indexes: dict[int, list[Any]]

    @property
    def root(self) -> Any:
        return self.members[0]

    @property
    def keys(self) -> list[list[str]]:
        """What identifies a row: the primary key first, then what else is unique and never null."""
        required = {column.name for column in self.columns if column.is_required}
        indexes = self.indexes[self.root.oid]
        return [index.columns for index in indexes if required.issuperset(index.columns)]


def relations(
    connection: psycopg.Connection, names: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Relation]:
    """Those of the tables (or views) that there are, each by its schema and name."""
    members = _ask(
        connection,
        """
        with recursive tree as (
            select w.position, c.oid, 0 as depth
            from unnest(%s::text[], %s::text[]) with ordinality as w (schema, name, position)
            inner join pg_namespace as n on n.nspname = w.schema
            inner join pg_class as c on c.relnamespace = n.oid and c.relname = w.name
            where c.relkind in ('r', 'p', 'f', 'v', 'm')
            union all
            select tree.position, c.oid, tree.depth + 1
            from tree
            inner join pg_inherits as i on i.inhparent = tree.oid
            inner join pg_class as c on c.oid = i.inhrelid and c.relispartition
        )
        select
            tree.position,
            c.oid::bigint as oid,
            n.nspname as schema,
            c.relname as name,
            format('%%I.%%I', n.nspname, c.relname) as sql,
            quote_ident(n.nspname) as schema_sql,
            c.relkind::text as kind,
            c.relpersistence::text as persistence,
            c.relreplident::text as identity,
            has_schema_privilege(n.oid, 'usage') as has_usage,
            has_schema_privilege(n.oid, 'usage')
                and has_table_privilege(c.oid, 'select') as is_readable,
            c.relkind in ('r', 'p') and row_security_active(c.oid) as hides_rows,
            exists (
                select from pg_inherits as i
                inner join pg_class as child on child.oid = i.inhrelid
                where i.inhparent = c.oid and not child.relispartition
            ) as is_inherited,
            array(
                select array[an.nspname::text, ac.relname::text]
                from pg_partition_ancestors(c.oid) as a (oid)
                inner join pg_class as ac on ac.oid = a.oid
                inner join pg_namespace as an on an.oid = ac.relnamespace
                where a.oid <> c.oid
            ) as ancestors
        from tree
        inner join pg_class as c on c.oid = tree.oid
        inner join pg_namespace as n on n.oid = c.relnamespace
        order by tree.position, tree.depth, c.oid
        """,
        [[schema for schema, _ in names], [name for _, name in names]],
    )
    oids = [member.oid for member in members]
    columns: dict[int, list[Any]] = defaultdict(list)
    for column in _ask(
        connection,
        """
        select
            attrelid::bigint as relation,
            attname::text as name,
            quote_ident(attname) as sql,
            format_type(atttypid, atttypmod) as type,
            attnotnull as is_required,
            attgenerated::text as generated
        from pg_attribute
        where attrelid = any (%s::oid[]) and attnum > 0 and not attisdropped
        order by attrelid, attnum
        """,
        [oids],
    ):
        columns[column.relation].append(column)
    indexes: dict[int, list[Any]] = defaultdict(list)
    for index in _ask(
        connection,
        """
        select
            i.indrelid::bigint as relation,
            quote_ident(c.relname) as sql,
            i.indisprimary as is_primary,
            i.indisreplident as is_identity,
            i.indimmediate as is_immediate,
            array(
                select a.attname::text
                from unnest(i.indkey::int2[]) with ordinality as k (attnum, position)
                inner join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
                where k.position <= i.indnkeyatts
                order by k.position
            ) as columns
        from pg_index as i
        inner join pg_class as c on c.oid = i.indexrelid
        where
            i.indrelid = any (%s::oid[]) and i.indisunique and i.indisvalid
            and i.indpred is null and i.indexprs is null
        order by i.indrelid, i.indisprimary desc, i.indexrelid
        """,
        [oids],
    ):
        indexes[index.relation].append(index)
    grouped: dict[int, list[Any]] = defaultdict(list)
    for member in members:
        grouped[member.position].append(member)
    return {
        names[position - 1]: Relation(group, columns[group[0].oid], indexes)
        for position, group in grouped.items()
    }


@dataclass(frozen=True)
class _Look:
    """A look at one declared table."""

    table: SourceTable
    found: Relation
    publication: _Publication
    declared: Sequence[SourceTable]
    version: int
    role: str

    def troubles(self) -> Iterator[Trouble]:
        """What ails the table; what is routine comes last, for it is harmful before the rest.

        (A published table whose changes do not name their row can't be updated at the source.)
        """
        for look in (self._refused, self._of_itself, self._of_access):
            if found := list(look()):
                yield from found
                return

    def _of_itself(self) -> Iterator[Trouble]:
        yield from self._of_row_security()
        yield from self._of_columns()
        yield from self._of_identity()

    def _of_access(self) -> Iterator[Trouble]:
        yield from self._of_rights()
        yield from self._of_publication()

    def columns(self) -> tuple[Column, ...]:
        """The columns that bulk and changes both have, in the table's order."""
        declared = {column.source_name: column for column in self.table.columns}
        shared = [column for column in self.found.columns if self._is_told(column)]
        taken = {column.name for column in self.table.columns} | LANDED
        others = [column.name for column in shared if column.name not in declared]
        names = lake_names(others, taken)
        return tuple(
            Column(
                declared[column.name].name if column.name in declared else names[column.name],
                TEXT if column.name in self.printed() else column.type,
                column.name,
            )
            for column in shared
        )

    def printed(self) -> frozenset[str]:
        """The columns that are declared as text, and are something else at the source."""
        actual = {column.name: canonical(column.type) for column in self.found.columns}
        return frozenset(
            column.source_name
            for column in self.table.columns
            if canonical(column.type) == TEXT != actual.get(column.source_name)
        )

    def _trouble(
        self,
        what: str,
        *remedy: str,
        is_routine: bool = False,
        misses_changes: bool = False,
    ) -> Trouble:
        return Trouble(self.table.qualified, what, remedy, is_routine, misses_changes)

    def _unpublished(self, what: str, *remedy: str) -> Trouble:
        return self._trouble(what, *remedy, is_routine=True, misses_changes=True)

    def _refused(self) -> Iterator[Trouble]:
        kinds = {
            "f": "is a foreign table, whose changes are in another server's WAL: capture it there",
            "v": "is a view, which has no changes of its own: declare the tables that it reads",
            "m": "is a materialized view, whose changes are not published: "
            "declare the tables that it reads",
        }
        if self.found.root.kind in kinds:
            yield self._trouble(kinds[self.found.root.kind])
            return
        for member in self.found.members:
            if member.kind == "f":
                yield self._trouble(f"has the partition {member.sql}, which is a foreign table")
            if member.persistence == "u":
                yield self._trouble(
                    f"is unlogged, so its changes are not in the WAL ({member.sql})",
                    f"alter table {member.sql} set logged",
                    misses_changes=True,
                )
        parents = [qualified(*ancestor) for ancestor in self.found.root.ancestors]
        for table in self.declared:
            if table.qualified in parents:
                yield self._trouble(
                    f"is a partition of {table.qualified}, which is declared too, and its changes "
                    "come under that name: take one of the two out of the project"
                )

    def _of_rights(self) -> Iterator[Trouble]:
        unreadable = [member for member in self.found.members if not member.is_readable]
        if unreadable:
            schemas = dict.fromkeys(m.schema_sql for m in unreadable if not m.has_usage)
            tables = ", ".join(member.sql for member in unreadable)
            yield self._trouble(
                f"can't be read by {self.role}",
                *(f"grant usage on schema {schema} to {self.role}" for schema in schemas),
                f"grant select on {tables} to {self.role}",
                is_routine=True,
            )

    def _of_row_security(self) -> Iterator[Trouble]:
        if any(member.hides_rows for member in self.found.members):
            yield self._trouble(
                f"has row-level security, which hides rows from {self.role}",
                f"alter role {self.role} bypassrls",
            )

    def _of_columns(self) -> Iterator[Trouble]:
        actual = {column.name: column for column in self.found.columns}
        for column in self.table.columns:
            found = actual.get(column.source_name)
            label = f"{self.table.qualified}.{column.source_name}"
            if found is None:
                yield self._trouble(
                    f"has no column {column.source_name}, which is declared: take it out of the "
                    f"project, or give its new name as source_column{self._undeclared()}"
                )
            elif canonical(column.type) != TEXT and not is_same(column.type, found.type):
                yield self._trouble(
                    f"has another type than is declared: {label} is declared as {column.type}, "
                    f"but the source has {found.type}: correct its data_type, or declare text"
                )
            elif found.generated and not may_be_told(self.version, found):
                yield self._trouble(
                    f"has a generated column that is not in the WAL: leave {label} out of the "
                    "project, and compute it in a model"
                )

    def _undeclared(self) -> str:
        """The columns that nobody declares: a declared one may have got such a name."""
        declared = {column.source_name for column in self.table.columns}
        names = [column.name for column in self.found.columns if column.name not in declared]
        told = f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        return f"; not declared: {told}" if names else ""

    def _is_told(self, column: Any) -> bool:
        is_published = self.publication.options.get("pubgencols", "s") == "s"
        return may_be_told(self.version, column) and (not column.generated or is_published)

    def _of_identity(self) -> Iterator[Trouble]:
        """A change must name its row: by the declared key, or whole where there is none."""
        names = {column.name: column.source_name for column in self.table.columns}
        key = {names.get(column, column) for column in self.table.key}
        root = self.found.root
        unique = [i for i in self.found.indexes[root.oid] if set(i.columns) == key]
        if key and not unique:
            listed = ", ".join(self.table.key)
            yield self._trouble(
                f"is keyed by ({listed}), but nothing there makes it unique: {self._known_keys()}"
            )
            return
        if optional := [c for c in self.found.columns if c.name in key and not c.is_required]:
            yield self._trouble(
                f"is keyed by {', '.join(column.sql for column in optional)}, which may be null",
                *(f"alter table {root.sql} alter column {c.sql} set not null" for c in optional),
            )
            return
        if not key and self.found.keys:
            yield self._trouble(
                f"is declared without a key, but has one: declare ({', '.join(self.found.keys[0])})"
            )
            return
        is_full = all(member.identity == "f" for member in self.found.members)
        unsendable = [c.sql for c in self.found.columns if c.generated == "v"]
        if unsendable and self.version >= PUBLISHES_GENERATED and (is_full or not key):
            what = f"has a virtual generated column ({', '.join(unsendable)})"
            if key:
                yield self._trouble(
                    f"{what}, so Postgres refuses updates while whole rows are its identity",
                    *self._identified_by(unique),
                )
            else:
                yield self._trouble(
                    f"{what} and no key, so Postgres would refuse updates once it is published: "
                    "give it a primary key"
                )
            return
        if is_full or (key and all(self._identity(m) == key for m in self.found.members)):
            return
        if key:
            yield self._trouble(
                "does not log the declared key of a row that is updated or deleted",
                *self._identified_by(unique),
                misses_changes=True,
            )
        else:
            lacking = [member for member in self.found.members if member.identity != "f"]
            yield self._trouble(
                "has no key, so its rows must be logged whole",
                *(f"alter table {member.sql} replica identity full" for member in lacking),
                misses_changes=True,
            )

    def _known_keys(self) -> str:
        known = " or ".join(f"({', '.join(columns)})" for columns in self.found.keys)
        return f"declare {known}" if known else "give it a primary key, or declare `key: []`"

    def _identity(self, member: Any) -> set[str]:
        """The columns by which a change of a member names its row; none where it does not."""
        wanted = {"d": "is_primary", "i": "is_identity"}.get(member.identity, "")
        for index in self.found.indexes[member.oid]:
            if wanted and getattr(index, wanted):
                return set(index.columns)
        return set()

    def _identified_by(self, unique: list[Any]) -> Iterator[str]:
        """The statements that have the declared key be the identity of each member."""
        key = set(unique[0].columns)
        for member in self.found.members:
            mine = [i for i in self.found.indexes[member.oid] if set(i.columns) == key]
            if any(index.is_primary for index in mine):
                yield f"alter table {member.sql} replica identity default"
            elif usable := [index for index in mine if index.is_immediate]:
                index = usable[0].sql
                yield f"alter table {member.sql} replica identity using index {index}"
            else:
                yield f"alter table {member.sql} replica identity full"

    def _of_publication(self) -> Iterator[Trouble]:
        name, root = self.publication.sql, self.found.root
        options = self.publication.options
        only = "only " if root.is_inherited else ""
        add = f"alter publication {name} add table {only}{root.sql}"
        drop = f"alter publication {name} drop table {only}{root.sql}"
        if not self.publication.exists:
            yield self._unpublished("is not published", add)
            return
        missing = [one for one in OPERATIONS.split(", ") if not options[f"pub{one}"]]
        if missing:
            yield self._unpublished(
                f"has changes that are not published ({', '.join(missing)})",
                f"alter publication {name} set (publish = '{OPERATIONS}')",
            )
        if root.kind == "p" and not options["pubviaroot"]:
            yield self._unpublished(
                "has changes that are published under its partitions' names",
                f"alter publication {name} set (publish_via_partition_root = true)",
            )
        if options.get("pubgencols", "s") != "s" and any(
            column.generated == "s" for column in self.found.columns
        ):
            yield self._unpublished(
                "has generated columns that are not published",
                f"alter publication {name} set (publish_generated_columns = stored)",
            )
        published = self.publication.tables.get((root.schema, root.name))
        if published is None:
            if root.kind != "p" or options["pubviaroot"] or root.sql not in self.publication.listed:
                yield self._unpublished("is not published", add)
            return
        if published.filter:
            yield self._unpublished("is published in part: rows are left out", drop, add)
        left_out = [
            column.sql
            for column in self.found.columns
            if not column.generated and column.name not in published.columns
        ]
        if left_out:
            yield self._unpublished(
                f"is published in part: columns are left out ({', '.join(left_out)})",
                drop,
                add,
            )


def _setup(publication: _Publication, troubles: Sequence[Trouble], version: int) -> tuple[str, ...]:
    """The routine remedies of tables that nothing else ails, in order and each once."""
    ailing = {trouble.table for trouble in troubles if not trouble.is_routine}
    remedies = dict.fromkeys(
        statement
        for trouble in troubles
        if trouble.table not in ailing
        for statement in trouble.remedy
    )
    if publication.exists:
        return tuple(remedies)
    adds = f"alter publication {publication.sql} add table "
    tables = [one.removeprefix(adds) for one in remedies if one.startswith(adds)]
    options = [f"publish = '{OPERATIONS}'", "publish_via_partition_root = true"]
    if version >= PUBLISHES_GENERATED:
        options.append("publish_generated_columns = stored")
    listed = f" for table {', '.join(tables)}" if tables else ""
    create = f"create publication {publication.sql}{listed} with ({', '.join(options)})"
    return (*(one for one in remedies if not one.startswith(adds)), create)


def _ask(
    connection: psycopg.Connection, query: str, parameters: Sequence[object] | None = None
) -> list[Any]:
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(query.encode(), parameters).fetchall()
