"""A verification: the source at one LSN against the lake, table by table, while both go on."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from trino.exceptions import Error, TrinoQueryError

from lake import lag, source
from lake.branches.branch import pinned
from lake.errors import LakeError
from lake.manifest import SourceTable, named_tables, source_tables
from lake.settings import settings
from lake.shapes import waits
from lake.stack import trino
from lake.verify import digests, tables
from lake.verify.digests import Difference, Range, Side
from lake.verify.report import Example, Report, TableReport, Texts
from lake.verify.rows import Changes, Shape, lake_rows, partial_keys, source_rows
from lake.verify.tables import AtSource, Target
from lake.verify.values import is_unheld, texts_of

PATIENCE_SECONDS = 60
"""So long the source's open transactions are waited for."""
UNCOMPARED = 1000
"""So many keys can be left out at most."""
_TOTAL_IN_LAKE = (
    f"cast(sum(row_hash / {2**32} * copies) as decimal(38, 0)) * {2**32}"
    f" + sum(row_hash % {2**32} * copies)"
)
"""The sum of the hashes of all copies, in Trino's SQL: by halves, for sums of decimals are slow."""


@dataclass(frozen=True)
class Options:
    """`names` are tables of the source, all if empty. `sample` is the part of the keys to compare,
    above 0 and at most 1. Of each table so many `examples` are named, with values if `values`."""

    names: Sequence[str] = ()
    bronze: bool = False
    sample: float = 1
    examples: int = 5
    values: bool = False


@dataclass(frozen=True)
class Source:
    """The source as it was at an LSN, for as long as its transaction is open."""

    connection: psycopg.Connection
    lsn: int
    at: datetime


def verify(options: Options, say: Callable[[str], None] = lambda _: None) -> Report:
    """Compare the source with this process's branch. `say` receives progress messages.

    Raises LakeError where nothing can be compared: the source can't be reached or makes no slot,
    capture does not arrive, a name is none of a table.
    """
    declared = source_tables()
    chosen = named_tables(options.names, declared) if options.names else declared
    began = time.monotonic()
    branch = settings().branch
    with snapshot(say) as at:
        lag.catch_up()  # so that bronze is complete beyond the snapshot
        found: list[TableReport] = []
        waiting = waits(chosen)
        with pinned(in_trino=True):
            for table in chosen:
                say(f"comparing {table.qualified}")
                if wait := waiting.get(table.qualified):
                    reason = f"it {wait}; `lake doctor` says what to do"
                    unsaid = TableReport(table.qualified, table.bronze, "unknown", reason)
                    found.append(unsaid)
                else:
                    found += _verify(table, at, options)
    seconds = time.monotonic() - began
    return Report(at.lsn, at.at, branch, options.sample, seconds, found)


@contextmanager
def snapshot(say: Callable[[str], None] = lambda _: None) -> Iterator[Source]:
    """The source as of now: all transactions that were committed before an LSN, and no other.

    `say` receives a message for each source transaction that blocks the snapshot.

    Raises LakeError where the source can't be reached, or makes no slot.
    """
    name = f"{settings().source.slot}_{secrets.token_hex(6)}"
    with source.connect() as connection:
        connection.execute("set row_security = off")  # an error instead of a part of the rows
        connection.execute("begin isolation level repeatable read read only")
        made_by = source.exported_snapshot(
            name, is_temporary=True, say=say, seconds=PATIENCE_SECONDS
        )
        with made_by as made:
            connection.execute(sql.SQL("set transaction snapshot {}").format(made.name))
        yield Source(connection, made.lsn, made.at)


def _verify(table: SourceTable, at: Source, options: Options) -> Iterator[TableReport]:
    """The report of each model of a table's current state; or of bronze, where there is none."""
    target = table.bronze
    try:
        with _explained(at.connection):
            there = tables.at_source(at.connection, table)
            targets = [] if options.bronze else tables.silver(table, there.columns)
            reason = "" if options.bronze or targets else "silver has no model of it"
            for one in targets or [tables.bronze(table, there.columns)]:
                target = one.name
                yield replace(compare(table, there, one, at, options), reason=reason)
    except LakeError as error:
        yield TableReport(table.qualified, target, "unknown", str(error))


@contextmanager
def _explained(connection: psycopg.Connection) -> Iterator[None]:
    """Have the errors of both sides be LakeErrors, after which the source can be asked again."""
    try:
        with connection.transaction():
            yield
    except psycopg.Error as error:
        raise LakeError(f"the source says: {str(error).splitlines()[0]}") from None
    except TrinoQueryError as error:
        raise LakeError(f"Trino says: {' '.join(error.message.split())}") from None
    except Error as error:
        raise LakeError(f"Trino does not answer: {error}") from None


def compare(
    table: SourceTable, there: AtSource, target: Target, at: Source, options: Options
) -> TableReport:
    """Compare a source table as it was with a table of the lake and the changes since."""
    shape = target.shape
    changes = _counted(Changes(target.landed, table.qualified, target.built_lsn, at.lsn))
    partial = trino.ask(partial_keys(shape, target.held, changes)) if changes.unchanged else []
    if len(partial) > UNCOMPARED:
        raise LakeError(f"{len(partial):,} keys can't be compared before the next run: `lake run`")

    def ask(query: str) -> Sequence[Sequence[Any]]:
        return at.connection.execute(query.encode()).fetchall()

    without = [key_hash for key_hash, _ in partial]
    ours = Side(
        lambda within: source_rows(shape, there.relation, within, without), "sum(row_hash)", ask
    )
    theirs = Side(
        lambda within: lake_rows(shape, target.held, changes, within), _TOTAL_IN_LAKE, trino.ask
    )
    found = digests.compare(
        ours,
        theirs,
        expected=target.expected,
        sample=_ranges(options.sample),
        first=options.examples,
    )
    return TableReport(
        table.qualified,
        target.name,
        "different" if found.count or not found.is_complete else "equal",
        rows=found.source_rows,
        lake_rows=found.lake_rows,
        missing=found.missing,
        extra=found.extra,
        differing=found.differing,
        is_complete=found.is_complete,
        has_key=bool(shape.key),
        changes=changes.count,
        unheld=_unheld(shape, there, ask),
        left_out=target.left_out,
        uncompared=len(partial),
        examples=_examples(shape, ours, theirs, found.first, options),
    )


def _counted(changes: Changes) -> Changes:
    """The same, with what there is to be known of them beforehand."""
    ((count, unchanged, truncated),) = trino.ask(
        "select count_if(op in ('c', 'u', 'd')), array_agg(distinct unchanged),"
        " max(if(op = 't', row(commit_lsn, ordinal)))"
        f" from {changes.relation} where {changes.where}"
    )
    columns = {name for listed in unchanged or () if listed for name in json.loads(listed)}
    position = (truncated[0], truncated[1]) if truncated else None
    return replace(changes, count=count, unchanged=sorted(columns), truncated=position)


def _ranges(sample: float) -> list[Range]:
    """Ranges of hashes that are this part of all, drawn anew each time."""
    if sample >= 1:
        return []
    least, most = -(2**63), 2**63 - 1
    first = least + secrets.randbelow(2**64)
    last = first + int(2**64 * sample) - 1
    return [(first, last)] if last <= most else [(first, most), (least, last - 2**64)]


def _unheld(shape: Shape, there: AtSource, ask: Callable[[str], Any]) -> dict[str, int]:
    """How many values of each column the lake's type can't hold, where there are any."""
    conditions = [(c.name, is_unheld(c)) for c in shape.columns]
    limited = [(name, condition) for name, condition in conditions if condition]
    if not limited:
        return {}
    counts = ", ".join(f"count(*) filter (where {condition})" for _, condition in limited)
    (row,) = ask(f"select {counts} from {there.relation}")
    return {name: count for (name, _), count in zip(limited, row, strict=True) if count}


def _examples(
    shape: Shape, ours: Side, theirs: Side, differences: Sequence[Difference], options: Options
) -> list[Example]:
    """The differences as people know them: by key, and in which columns."""
    if not differences:
        return []
    hashes = [one.key_hash for one in differences]
    there, here = (_rows(shape, side, hashes) for side in (ours, theirs))
    return [
        _example(shape, one, there.get(one.key_hash, []), here.get(one.key_hash, []), options)
        for one in differences
    ]


def _rows(shape: Shape, side: Side, key_hashes: Sequence[int]) -> dict[int, list[Texts]]:
    """The rows of some keys, by the hash of the key."""
    found: dict[int, list[Texts]] = {}
    listed = ", ".join(map(str, key_hashes))
    rows = side.rows(f"key_hash in ({listed})")
    for key_hash, row in side.ask(f"select key_hash, row_text from ({rows}) as hashed"):
        texts = {c.name: text for c, text in zip(shape.by_type, texts_of(row), strict=True)}
        in_order = {column.name: texts[column.name] for column in shape.columns}
        found.setdefault(key_hash, []).append(in_order)
    return found


def _example(
    shape: Shape,
    difference: Difference,
    there: Sequence[Texts],
    here: Sequence[Texts],
    options: Options,
) -> Example:
    columns = [
        column.name
        for column in shape.columns
        if there and here and {r[column.name] for r in there} != {r[column.name] for r in here}
    ]
    key: Texts = {"row": f"{difference.key_hash % 2**64:016x}"}
    if shape.key:
        key = dict(zip(shape.key, texts_of(difference.key_text), strict=True))
    if not options.values:
        there, here = [], []
    elif difference.kind == "differing":
        there, here = (
            [{name: row[name] for name in columns} for row in side] for side in (there, here)
        )
    return Example(difference.kind, key, columns, there, here)
