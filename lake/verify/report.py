"""What a verification found: a line a table, keys of what differs, and values only if asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from lake.verify.digests import Kind

Verdict = Literal["equal", "different", "unknown"]
Texts = Mapping[str, str | None]


@dataclass(frozen=True)
class Example:
    """Rows of a key that differ, and in which columns; `source` and `lake` are their values.

    They are values of those columns, or of all where a row is on one side only. Of a table without
    a key, `key` has the hash of the row.
    """

    kind: Kind
    key: Texts
    columns: Sequence[str]
    source: Sequence[Texts]
    lake: Sequence[Texts]


@dataclass(frozen=True)
class TableReport:
    """How a source table and a table of the lake compare.

    `rows` and `lake_rows` were compared. Where `is_complete` is false, at least so many rows are
    `missing` in the lake, `extra` there or `differing`. `changes` were applied to what the lake's
    table was built to. `unheld` counts the values of a column that its type in the lake can't hold,
    which are null there. `left_out` columns are on one side only. `uncompared` counts keys that
    can't be compared before the next run.
    """

    table: str
    target: str
    verdict: Verdict
    reason: str = ""
    rows: int = 0
    lake_rows: int = 0
    missing: int = 0
    extra: int = 0
    differing: int = 0
    is_complete: bool = True
    has_key: bool = True
    changes: int = 0
    unheld: Mapping[str, int] | None = None
    left_out: Sequence[str] = ()
    uncompared: int = 0
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class Report:
    """A verification at an LSN of the source and its time; `sample` is the part of the keys."""

    lsn: int
    at: datetime
    branch: str
    sample: float
    seconds: float
    tables: Sequence[TableReport]

    @property
    def exit_code(self) -> int:
        """0 where all is equal, 1 where something differs, 2 where that can't be said of all."""
        verdicts = {table.verdict for table in self.tables}
        return 1 if "different" in verdicts else 2 if "unknown" in verdicts else 0


def lines(report: Report) -> Iterator[str]:
    """The report as people read it."""
    for table in report.tables:
        yield f"{table.table}: {_verdict(table)}"
        yield from (f"  {line}" for line in _details(table))
    if report.exit_code == 1:
        yield "where bronze differs too (--bronze), `lake ingest --again TABLE` takes a table anew"
    part = f", {report.sample:.0%} of the keys" if report.sample < 1 else ""
    at = f"{report.at.astimezone():%H:%M:%S}"
    yield f"the source at {at} (LSN {report.lsn:,}){part}, {report.seconds:.1f} s"


def _verdict(table: TableReport) -> str:
    if table.verdict == "unknown":
        return f"not compared: {table.reason}"
    applied = f", {table.changes:,} later changes applied" if table.changes else ""
    where = f"{table.target}{applied}"
    if table.verdict == "equal":
        equal = "equal as far as compared" if table.uncompared or table.left_out else "all equal"
        return f"{table.rows:,} rows, {equal} in {where}"
    counts = {"missing": table.missing, "extra": table.extra, "differing": table.differing}
    found = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    least = "" if table.is_complete else "at least "
    return f"{least}{found} of {table.rows:,} rows in {where}"


def _details(table: TableReport) -> Iterator[str]:
    for example in table.examples:
        key = ", ".join(f"{name} {text}" for name, text in example.key.items())
        columns = f": {', '.join(example.columns)}" if example.columns else ""
        yield f"{example.kind} {key}{columns}"
        for side, rows in (("source", example.source), ("lake", example.lake)):
            yield from (f"  {side} {_texts(row)}" for row in rows)
    for column, count in (table.unheld or {}).items():
        yield f"{column}: {count:,} values that its type can't hold, null in the lake"
    if table.left_out:
        yield f"not compared, on one side only: {', '.join(table.left_out)}"
    if table.uncompared:
        yield f"not compared before the next run: {table.uncompared:,} keys with large values"
    if table.reason and table.verdict != "unknown":
        yield table.reason


def _texts(row: Texts) -> str:
    return ", ".join(f"{name} {'null' if text is None else text!r}" for name, text in row.items())
