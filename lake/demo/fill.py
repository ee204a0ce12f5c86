"""Fills the source once, in one transaction: with made-up rows, or with those of a CSV file.

What filled it stands as the comment of table `loan`, so that a second filling knows what is there.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import psycopg
import pyarrow as pa
from psycopg import sql
from pyarrow import csv as arrow_csv

from lake.demo import csv_file, history
from lake.demo.history import SEED, UNTIL, Batch
from lake.errors import LakeError

ROWS = 45_000
TABLES = ("loan", "loan_payment")
MARK = "lake demo: "  # what the comment of a table that was filled here begins with
_LOCK = 0x6C616B65  # a second filling waits for the first

Progress = Callable[[int, int], None]
"""Is told how many loans are in, of how many."""


@dataclass(frozen=True)
class Filling:
    """What the source holds: `loans` and `payments` are counts of rows."""

    what: str  # e.g. "45000 made-up loans, seed 7, until 2026-11-01T00:00:00+00:00"
    fresh: bool  # False where it was filled before, and was left as it is
    loans: int
    payments: int


def fill(
    connection: psycopg.Connection,
    *,
    rows: int | None = None,
    csv: Path | None = None,
    seed: int = SEED,
    until: datetime = UNTIL,
    progress: Progress | None = None,
) -> Filling:
    """Make the tables where they are missing, and fill them where they are empty.

    A source that has rows stays as it is. Raises LakeError where `rows` or `csv` asks for others
    than those it was filled with, and on a bad row or a refusal by Postgres; nothing is left then.
    """
    if rows is not None and rows < 1:
        raise LakeError(f"can't make {rows} rows: give 1 or more")
    if seed < 0:
        raise LakeError(f"the seed {seed} is negative: give 0 or more")
    if until.tzinfo is None:
        raise LakeError(f"the moment {until.isoformat()} has no time zone: add one, such as +00:00")
    asked = _named(rows, csv, seed, until)
    try:
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
            _create(connection)
            found = _found(connection)
            if found is None:
                return _load(connection, asked, rows or ROWS, csv, seed, until, progress)
            counts = _counts(connection)
    except psycopg.Error as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise LakeError(f"the source could not be filled: {said}") from None
    if found != asked and (rows is not None or csv is not None):
        raise LakeError(
            f"the source holds {found}, not {asked}: start afresh with `lake down --wipe`"
        )
    return Filling(found, False, *counts)


def _named(rows: int | None, csv: Path | None, seed: int, until: datetime) -> str:
    moment = until.astimezone(UTC).isoformat()
    if csv is None:
        return f"{rows or ROWS} made-up loans, seed {seed}, until {moment}"
    if rows is not None:
        raise LakeError("the rows come from the CSV file: leave out their number")
    try:
        with csv.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        raise LakeError(f"{csv} can't be read: {error.strerror}") from None
    return f"the CSV file {csv.name} ({digest}), seed {seed}, until {moment}"


def _create(connection: psycopg.Connection) -> None:
    missing = [table for table in TABLES if not _exists(connection, table)]
    if missing == list(TABLES):
        # Bytes, because the statements are the file's: psycopg takes only literal strings.
        connection.execute((files("lake.demo") / "source.sql").read_bytes())
    elif missing:
        raise LakeError(
            f"the source has no table {missing[0]}, but the other one: make both or none"
        )


def _exists(connection: psycopg.Connection, table: str) -> bool:
    found = connection.execute("select to_regclass(%s) is not null", [table]).fetchone()
    return bool(found and found[0])


def _found(connection: psycopg.Connection) -> str | None:
    """What fills the source, or None where both tables are empty and were never filled."""
    row = connection.execute(
        """
        select
            obj_description('loan'::regclass, 'pg_class'),
            exists (select from loan) or exists (select from loan_payment)
        """
    ).fetchone()
    comment, holds_rows = row if row else (None, False)
    if comment and comment.startswith(MARK):
        return str(comment.removeprefix(MARK))
    return "rows of its own" if holds_rows else None


def _counts(connection: psycopg.Connection) -> tuple[int, int]:
    loans, payments = connection.execute(
        "select (select count(*) from loan), (select count(*) from loan_payment)"
    ).fetchone() or (0, 0)
    return loans, payments


def _load(
    connection: psycopg.Connection,
    what: str,
    rows: int,
    csv: Path | None,
    seed: int,
    until: datetime,
    progress: Progress | None,
) -> Filling:
    batches: Iterator[Batch]
    if csv is None:
        expected, batches = rows, history.made(rows, seed, until)
    else:
        expected = csv_file.count_lines(csv)
        batches = history.given(csv_file.read(csv, history.CHUNK), seed, until)
    loans = payments = 0
    for batch in batches:
        _copy(connection, "loan", batch.loans)
        _copy(connection, "loan_payment", batch.payments)
        loans += batch.loans.num_rows
        payments += batch.payments.num_rows
        if progress:
            progress(loans, expected)
    restart = sql.SQL("alter table loan alter column loan_id restart with {}")
    connection.execute(restart.format(sql.Literal(loans + 1)))
    connection.execute(
        sql.SQL("comment on table loan is {}").format(sql.Literal(MARK + what)),
    )
    connection.execute("analyze loan, loan_payment")
    return Filling(what, True, loans, payments)


def _copy(connection: psycopg.Connection, table: str, rows: pa.Table) -> None:
    """Copy Arrow rows as CSV, in which Arrow quotes every text and leaves a null empty."""
    sink = pa.BufferOutputStream()
    arrow_csv.write_csv(rows, sink, arrow_csv.WriteOptions(include_header=False))
    columns = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    statement = sql.SQL("copy {} ({}) from stdin (format csv)")
    with (
        connection.cursor() as cursor,
        cursor.copy(statement.format(sql.Identifier(table), columns)) as copy,
    ):
        copy.write(memoryview(sink.getvalue()))
