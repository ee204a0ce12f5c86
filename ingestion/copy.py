"""Tables of the source are copied as of one snapshot, piece by piece, side by side."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import namedtuple_row

from ingestion import bronze, piece
from ingestion.piece import File, Piece, UnheldKeyError
from lake import source
from lake.settings import settings
from lake.source import Snapshot
from lake.source.inspection import Table, Trouble

PAGES_PER_PIECE = 32_768  # 256 MiB of the source's table: one file of bronze

Progress = Callable[[str, int, int], None]
"""Told a table's name, its pages copied and its pages in all."""


@dataclass(frozen=True)
class Copied:
    """The rows copied, by source table, and the tables that could not be."""

    rows: dict[str, int]
    troubles: tuple[Trouble, ...]


def copy(tables: Sequence[Table], taken: Snapshot, progress: Progress) -> Copied:
    """Copy the tables; each is committed whole. What ails one table does not keep the others."""
    rows, troubles = {}, []
    with ThreadPoolExecutor(max_workers=settings().bulk_workers) as pool:
        for table in tables:
            name = table.declared.qualified
            try:
                rows[name] = _copy_table(table, taken, pool, progress)
            except (adbc.Error, pa.ArrowInvalid) as error:
                if isinstance(error, adbc.Error) and not _is_of_table(error):
                    raise
                said = " ".join(str(error).split()).partition(" [SQLSTATE")[0]
                troubles.append(Trouble(name, f"could not be copied: {said}"))
            except UnheldKeyError as error:
                what = f"has a key that the lake can't hold: declare its {error} as text"
                troubles.append(Trouble(name, what))
            except _ChangedError:
                what = "was truncated, rewritten or partitioned anew while it was copied: try again"
                troubles.append(Trouble(name, what))
    return Copied(rows, tuple(troubles))


class _ChangedError(Exception):
    """A table is no longer stored where its snapshot was, so that it seems to be empty."""


def _is_of_table(error: adbc.Error) -> bool:
    """Whether the source refuses the one query, and not the lake: syntax and rights, or a value."""
    return (error.sqlstate or "")[:2] in ("0A", "22", "42", "XX")


def _copy_table(table: Table, taken: Snapshot, pool: ThreadPoolExecutor, progress: Progress) -> int:
    """The number of rows that were copied."""
    with psycopg.connect(source.conninfo()) as connection:
        connection.execute("set transaction isolation level repeatable read, read only")
        connection.execute(f"set transaction snapshot '{taken.name}'".encode())
        stored = _stored(connection, table)
    pages, done = sum(part.pages for part in stored), 0
    location = bronze.location(table.declared.bronze, table.columns)
    stop = Event()

    def copied(one: Piece) -> File:
        if stop.is_set():
            raise InterruptedError
        return piece.copy(table, one, taken, location)

    futures = [pool.submit(copied, one) for part in stored for one in _pieces(part)]
    try:
        for future in _as_they_end(futures):
            future.result()
            done += PAGES_PER_PIECE
            progress(table.declared.qualified, min(done, pages), pages)
    except BaseException:
        stop.set()
        wait(futures)
        raise
    with source.connect() as connection:
        if {part.file for part in stored} != {part.file for part in _stored(connection, table)}:
            raise _ChangedError
    files = [file for file in (future.result() for future in futures) if file.rows]
    rows = sum(file.rows for file in files)
    files = files or [piece.mark_empty(table.columns, taken, location)]
    bronze.commit_snapshot(table, [file.path for file in files], taken.lsn)
    return rows


def _stored(connection: psycopg.Connection, table: Table) -> list[Any]:
    """What the rows of a table are in, itself or its partitions: name, file and pages of each."""
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(
            """
            with recursive tree as (
                select %s::oid as oid
                union all
                select c.oid
                from tree
                inner join pg_inherits as i on i.inhparent = tree.oid
                inner join pg_class as c on c.oid = i.inhrelid and c.relispartition
            )
            select
                n.nspname as schema,
                c.relname as name,
                c.relfilenode as file,
                coalesce(pg_relation_size(c.oid), 0) / 8192 as pages
            from tree
            inner join pg_class as c on c.oid = tree.oid
            inner join pg_namespace as n on n.oid = c.relnamespace
            where c.relkind = 'r'
            order by c.oid
            """,
            [table.oid],
        ).fetchall()


def _pieces(part: Any) -> list[Piece]:
    firsts = range(0, max(part.pages, 1), PAGES_PER_PIECE)
    ends = [*firsts[1:], None]
    identifier = sql.Identifier(part.schema, part.name)
    return [Piece(identifier, *pages) for pages in zip(firsts, ends, strict=True)]


def _as_they_end(futures: Iterable[Future[File]]) -> Iterator[Future[File]]:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, return_when=FIRST_EXCEPTION, timeout=0.2)
        yield from done
