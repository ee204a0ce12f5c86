"""People's SQL on Trino: statements as they were typed, and their rows as they come."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TextIO

from rich.cells import cell_len, set_cell_size
from trino.dbapi import Connection, connect
from trino.exceptions import Error, HttpError, TrinoQueryError

from lake.errors import LakeError
from lake.settings import TRUNK, settings

Format = Literal["table", "csv", "json"]
Row = list[Any]
BLOCK = 1000
"""So many rows of a table are held, to know how wide its columns are."""
REFUSED_BY_STORE = "Error committing write"
"""How Trino's message begins where the object store refuses a file; its log has the reason."""

# What can't be told from a `;` that ends a statement but by reading on to its own end.
_TOKEN = re.compile(
    r"'[^']*'|\"[^\"]*\"|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|\Z)|[^;'\"/-]+|[/-]|(;)", re.DOTALL
)


@dataclass(frozen=True)
class Answer:
    """Columns' names and Trino's types, and the rows, which are fetched as they are asked for.

    Numbers and booleans are Python's; decimals, dates and times are text, as Trino writes them, so
    that none of their digits is lost. A statement that has no result has no columns.
    """

    columns: list[str]
    types: list[str]
    rows: Iterator[Row]


def run(text: str, form: Format, out: TextIO) -> None:
    """Execute every statement of a text on this process's branch, one after another.

    Raises LakeError at the first that fails, in Trino's words.
    """
    complete, rest = statements(text)
    with opened() as connection:
        for statement in [*complete, *([rest] if rest else [])]:
            with asked(connection, statement) as answer:
                show(answer, form, out)


def statements(text: str) -> tuple[list[str], str]:
    """The statements that a `;` ends, without it; and what is left: one that goes on, or nothing.

    A `;` in a string, a quoted name or a comment ends none.
    """
    complete, begun, at = [], "", 0
    while token := _TOKEN.match(text, at):
        at = token.end()
        if not token[1]:
            begun += token[0]
        elif stripped := begun.strip():
            complete.append(stripped)
        begun = "" if token[1] else begun
    rest = (begun + text[at:]).strip()  # what no token begins is a string that has not ended
    return complete, "" if _is_comment(rest) else rest


def _is_comment(text: str) -> bool:
    return re.fullmatch(r"(?:--[^\n]*(?:\n|$)|/\*.*?\*/|\s)*", text, re.DOTALL) is not None


@contextmanager
def opened() -> Iterator[Connection]:
    """A connection as the person who runs this, on this process's branch, in `gold`.

    Raises LakeError where there is no such branch.
    """
    name = settings().branch
    if name != TRUNK:
        from lake.branches import branch  # a second of imports, which `lake` doesn't need

        branch.show_in_trino(name)  # it may have been made while Trino was down
    with connect(
        host=settings().host,
        port=settings().ports.trino,
        user=settings().author,
        source="lake sql",
        catalog=name,
        schema="gold",
        legacy_primitive_types=True,
    ) as connection:
        yield connection


@contextmanager
def asked(connection: Connection, statement: str) -> Iterator[Answer]:
    """What Trino answers to a statement, which is cancelled if the block ends before the rows do.

    Raises LakeError, in Trino's words, here or while the rows are fetched.
    """
    cursor = connection.cursor()
    try:
        with _in_one_line():
            cursor.execute(statement)
            described = cursor.description or []
        names = [column.name for column in described]
        types = [column.type_code for column in described]
        yield Answer(names, types, _rows(cursor))
    finally:
        with _in_one_line():
            cursor.cancel()  # which does nothing to a query that has ended


def _rows(cursor: Any) -> Iterator[Row]:
    with _in_one_line():
        yield from cursor


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except TrinoQueryError as error:
        said = " ".join(error.message.split())
        if said.startswith(REFUSED_BY_STORE):
            said += "; a branch takes a table before it is written by hand: `lake branch take`"
        raise LakeError(said) from None
    except (Error, HttpError, OSError) as error:  # the network's are OSErrors
        raise LakeError(f"Trino does not answer: {error}; `lake status`") from None


# -- how an answer is written ---------------------------------------------------------------------


def show(answer: Answer, form: Format, out: TextIO, width: int | None = None) -> int:
    """Write an answer; returns how many rows it had.

    Rows are written as they come; of a table, by `BLOCK`. One that is wider than `width` cells is
    written with a line for each value.
    """
    if not answer.columns:
        return sum(1 for _ in answer.rows)
    if form == "csv":
        return _csv(answer, out)
    return _json(answer, out) if form == "json" else _table(answer, out, width)


def _csv(answer: Answer, out: TextIO) -> int:
    count = 0
    out.write(",".join(map(_csv_value, answer.columns)) + "\n")
    for row in answer.rows:
        out.write(",".join(map(_csv_value, row)) + "\n")
        count += 1
    return count


def _csv_value(value: Any) -> str:
    """As Postgres writes it: null is nothing, an empty text is two quotes."""
    if value is None:
        return ""
    text = _text(value)
    if text == "" or any(character in text for character in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _json(answer: Answer, out: TextIO) -> int:
    for name in answer.columns:
        if answer.columns.count(name) > 1:
            raise LakeError(f"two columns are named `{name}`: name one otherwise, with `as`")
    count = 0
    for row in answer.rows:
        named = dict(zip(answer.columns, row, strict=True))
        out.write(json.dumps(named, ensure_ascii=False) + "\n")
        count += 1
    return count


_NUMERIC = re.compile(r"(tiny|small|big)int|integer|real|double|decimal\b.*")


def _table(answer: Answer, out: TextIO, width: int | None) -> int:
    count, widths, in_lines = 0, [cell_len(_cell(name)) for name in answer.columns], False
    right = [_NUMERIC.fullmatch(type_) is not None for type_ in answer.types]
    while block := [[_cell(value) for value in row] for row in islice(answer.rows, BLOCK)]:
        lengths = ([cell_len(cell) for cell in column] for column in zip(*block, strict=True))
        widths = [max(width, *column) for width, column in zip(widths, lengths, strict=True)]
        if count == 0:
            in_lines = width is not None and sum(widths) + 2 * len(widths) - 2 > width
            if not in_lines:
                _header(answer.columns, widths, right, out)
        for number, row in enumerate(block, count + 1):
            out.write(
                _record(number, answer.columns, row) if in_lines else _line(row, widths, right)
            )
        count += len(block)
    if count == 0:
        _header(answer.columns, widths, right, out)
    return count


def _header(names: list[str], widths: list[int], right: list[bool], out: TextIO) -> None:
    out.write(_line([_cell(name) for name in names], widths, right))
    out.write("  ".join("-" * width for width in widths) + "\n")


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    aligned = (
        " " * (width - cell_len(cell)) + cell if to_right else set_cell_size(cell, width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    )
    return "  ".join(aligned).rstrip() + "\n"


def _record(number: int, names: list[str], cells: list[str]) -> str:
    longest = max(map(cell_len, names))
    lines = (
        f"{set_cell_size(name, longest)}  {cell}" for name, cell in zip(names, cells, strict=True)
    )
    return "\n".join([f"-- row {number}", *lines]) + "\n"


# A value must not move the cursor, nor do anything else to the terminal.
_VISIBLE = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


def _cell(value: Any) -> str:
    return "NULL" if value is None else _text(value).translate(_VISIBLE)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
