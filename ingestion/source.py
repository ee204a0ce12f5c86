"""What the source must offer before anything is copied: checked whole, then set up.

Each finding says what is wrong and the statement that mends it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg import sql

from lake.errors import LakeError
from lake.lag import HEARTBEAT
from lake.manifest import Column, SourceTable
from lake.settings import settings
from lake.types import is_same


@dataclass(frozen=True)
class Table:
    """A table as the source has it: its columns (declared or not), in order, and its size."""

    declared: SourceTable
    columns: tuple[Column, ...]
    pages: int  # of 8 KiB
    readable: bool  # by the role that captures
    published: bool  # its changes reach capture

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.declared.schema, self.declared.name)


def inspect(connection: psycopg.Connection, declared: list[SourceTable]) -> list[Table]:
    """The declared tables as they are in the source.

    Raises LakeError, one line for each finding, where the source or a table is not as declared.
    """
    faults = _server_faults(connection)
    tables = []
    for table in declared:
        found, more = _inspect_table(connection, table)
        faults += more
        tables += [found] if found else []
    if not declared:
        faults.append("the dbt project declares no table: add one to its `bronze` source")
    if faults:
        raise LakeError("\n".join(faults))
    return tables


def _server_faults(connection: psycopg.Connection) -> list[str]:
    faults = []
    level = _value(connection, "select current_setting('wal_level')")
    if level != "logical":
        faults.append(
            f"wal_level is {level}, capture needs logical: "
            "`alter system set wal_level = logical`, then restart the source"
        )
    if not _value(connection, "select rolreplication from pg_roles where rolname = current_user"):
        faults.append(
            f"role {settings().source.user} may not replicate: "
            f"`alter role {settings().source.user} replication`"
        )
    return faults


def _inspect_table(
    connection: psycopg.Connection, declared: SourceTable
) -> tuple[Table | None, list[str]]:
    name = declared.qualified
    found = connection.execute(
        """
        select
            c.oid,
            c.relreplident,
            pg_relation_size(c.oid) / 8192,
            has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'),
            exists (
                select from pg_publication_rel as r
                inner join pg_publication as p on r.prpubid = p.oid
                where r.prrelid = c.oid and p.pubname = %s
            )
        from pg_class as c
        inner join pg_namespace as n on c.relnamespace = n.oid
        where n.nspname = %s and c.relname = %s and c.relkind = 'r'
        """,
        [settings().source.publication, declared.schema, declared.name],
    ).fetchone()
    if found is None:
        return None, [f"{name} is declared, but the source has no such table"]
    oid, identity, pages, readable, published = found
    rows = connection.execute(
        """
        select attname, format_type(atttypid, atttypmod)
        from pg_attribute
        where attrelid = %s and attnum > 0 and not attisdropped
        order by attnum
        """,
        [oid],
    ).fetchall()
    columns = tuple(Column(column, type_, column) for column, type_ in rows)
    faults = []
    if identity not in ("d", "f"):
        faults.append(f"{name} does not log whole rows: `alter table {name} replica identity full`")
    actual = {column.name: column.type for column in columns}
    for column in declared.columns:
        if column.name not in actual:
            faults.append(f"{name}.{column.name} is declared, but the source has no such column")
        elif not is_same(column.type, actual[column.name]):
            faults.append(
                f"{name}.{column.name} is declared as {column.type}, "
                f"but the source has {actual[column.name]}: correct its data_type"
            )
    if not _is_unique(connection, oid, declared.key):
        faults.append(
            f"{name} is keyed by ({', '.join(declared.key)}), but nothing there makes it unique: "
            "add a primary key, or declare the one it has"
        )
    return Table(declared, columns, pages, readable, published), faults


def _is_unique(connection: psycopg.Connection, oid: int, key: tuple[str, ...]) -> bool:
    return bool(
        _value(
            connection,
            """
            select exists (
                select from pg_index as i
                where
                    i.indrelid = %s and i.indisunique and i.indpred is null
                    and (
                        select array_agg(a.attname::text order by a.attname)
                        from pg_attribute as a
                        where a.attrelid = i.indrelid and a.attnum = any (i.indkey)
                    ) = (select array_agg(k order by k) from unnest(%s::text[]) as k)
            )
            """,
            [oid, list(key)],
        )
    )


def _value(
    connection: psycopg.Connection, query: str, parameters: list[object] | None = None
) -> object:
    row = connection.execute(query, parameters).fetchone()
    return row[0] if row else None


def set_up(
    connection: psycopg.Connection,
    tables: list[Table],
    owner: Callable[[], psycopg.Connection] | None,
) -> None:
    """Have a publication of exactly these tables and the heartbeat, and leave to read them.

    `owner` opens a connection that may do so (the stack's own source). Without one, where something
    is missing, raises LakeError with the statements for the source's owner to run.
    """
    statements = _missing(connection, tables)
    if not statements:
        return
    if owner is None:
        listed = "\n".join(f"  {statement};" for statement in statements)
        raise LakeError(f"have the owner of the source run this, then try again:\n{listed}")
    *before, last = statements  # the publication, where that is missing
    with owner() as privileged:
        with privileged.transaction():
            for statement in before:
                privileged.execute(statement.encode())
        # By itself: it waits for an analyze of a table, which waits for what a grant has written.
        privileged.execute(last.encode())


def _missing(connection: psycopg.Connection, tables: list[Table]) -> list[str]:
    role = sql.Identifier(settings().source.user).as_string(connection)
    publication = sql.Identifier(settings().source.publication).as_string(connection)
    names = [table.identifier.as_string(connection) for table in tables] + [HEARTBEAT]
    statements = []
    if not _value(connection, f"select to_regclass('{HEARTBEAT}') is not null"):
        statements += [
            "create schema lake",
            f"create table {HEARTBEAT} (id int primary key, beat_at timestamptz not null)",
            f"alter table {HEARTBEAT} replica identity full",
            f"insert into {HEARTBEAT} values (1, now())",
            f"grant usage on schema lake to {role}",
            f"grant select, update on {HEARTBEAT} to {role}",
        ]
    for table in tables:
        if not table.readable:
            schema = sql.Identifier(table.declared.schema).as_string(connection)
            statements += [
                f"grant usage on schema {schema} to {role}",
                f"grant select on {table.identifier.as_string(connection)} to {role}",
            ]
    published = _value(
        connection,
        "select array_agg(format('%%I.%%I', schemaname, tablename)) from pg_publication_tables "
        "where pubname = %s",
        [settings().source.publication],
    )
    wanted = {_unquoted(name) for name in names}
    if not _value(
        connection,
        "select true from pg_publication where pubname = %s",
        [settings().source.publication],
    ):
        statements.append(f"create publication {publication} for table {', '.join(names)}")
    elif {_unquoted(name) for name in (published or [])} != wanted:  # type: ignore[attr-defined]
        statements.append(f"alter publication {publication} set table {', '.join(names)}")
    return statements


def _unquoted(name: str) -> str:
    return name.replace('"', "")
