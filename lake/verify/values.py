"""A value as both sides write it: the text that Postgres prints, with the settings of `PINNED`.

So changes are as they came, and typed columns of the lake are written as Postgres would. Floats are
the exception: engines print them differently, so they are compared by their bits. Bytes are in
hexadecimal.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from psycopg import sql
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    StringType,
    TimestampType,
    TimestamptzType,
)


@dataclass(frozen=True)
class Compared:
    """A column that is compared: its names in the lake and at the source, its type in the lake."""

    name: str
    source_name: str
    type: IcebergType


def at_source(column: Compared) -> str:
    """A column's value in Postgres's SQL; null where the lake's type can't hold it."""
    name = sql.Identifier(column.source_name).as_string()
    match column.type:
        case FloatType():
            bits = f"float4send({name}::real)"
            return f"case {name} when 'NaN' then 'NaN' else encode({bits}, 'hex') end"
        case DoubleType():
            bits = f"float8send({name}::double precision)"
            return f"case {name} when 'NaN' then 'NaN' else encode({bits}, 'hex') end"
        case BinaryType():
            return f"encode({name}, 'hex')"
    # The type's output function, which a cast to text does not call; for null, concat gives ''.
    printed = f"case when {name} is distinct from null then concat({name}) end"
    unheld = is_unheld(column)
    return f"case when not ({unheld}) then {printed} end" if unheld else printed


def is_unheld(column: Compared) -> str | None:
    """Whether the lake's type can't hold a value, in Postgres's SQL; None where it holds all."""
    name = sql.Identifier(column.source_name).as_string()
    match column.type:
        case DecimalType():
            return f"{name} in ('NaN', 'Infinity', '-Infinity')"
        case DateType():
            return f"{name} not between '0001-01-01' and '9999-12-31'"
        case TimestampType():
            return f"{name} < '0001-01-01' or {name} >= '10000-01-01'"
        case TimestamptzType():
            return f"{name} < '0001-01-01 00:00:00+00' or {name} >= '10000-01-01 00:00:00+00'"
    return None


def in_lake(columns: Sequence[Compared]) -> str:
    """The same values in Trino's SQL, as an array, of columns of the lake."""

    def values(group: Sequence[Compared]) -> str:
        return f"array[{', '.join(quoted(column.name) for column in group)}]"

    return _by_type(columns, values, _typed)


def in_change(columns: Sequence[Compared], image: str) -> str:
    """The same values in Trino's SQL, of a row that a change has, as a map of texts by name."""

    def values(group: Sequence[Compared]) -> str:
        listed = ", ".join(literal(column.source_name) for column in group)
        return f"transform(array[{listed}], name -> element_at({image}, name))"

    return _by_type(columns, values, _landed)


def _typed(kind: IcebergType, value: str) -> str:
    """A value of a type of the lake, as Postgres would print it."""
    match kind:
        case StringType():
            return value
        case BooleanType():
            return f"case {value} when true then 't' when false then 'f' end"
        case BinaryType():
            return f"lower(to_hex({value}))"
        case TimestampType():
            return _printed_time(value)
        case TimestamptzType():
            utc = f"cast({value} at time zone 'UTC' as timestamp(6))"
            return f"{_printed_time(utc)} || '+00'"
        case FloatType() | DoubleType():
            return _bits(value, kind)
    return f"cast({value} as varchar)"


def _landed(kind: IcebergType, text: str) -> str:
    """A text that Postgres printed; null where the lake's type can't hold its value."""
    match kind:
        case DecimalType():
            return f"if({text} not in ('NaN', 'Infinity', '-Infinity'), {text})"
        case DateType() | TimestampType() | TimestamptzType():
            # Neither infinite, nor BC, nor of a year of five digits.
            return f"if(regexp_like({text}, '^[0-9]{{4}}-.*[0-9]$'), {text})"
        case FloatType():
            return _bits(f"cast({text} as real)", kind)
        case DoubleType():
            return _bits(f"cast({text} as double)", kind)
        case BinaryType():
            return f"substr({text}, 3)"  # after \\x
    return text


def _by_type(
    columns: Sequence[Compared],
    values: Callable[[Sequence[Compared]], str],
    printed: Callable[[IcebergType, str], str],
) -> str:
    """Texts of columns, in their order: one lambda for columns of a type that follow each other.

    Trino does not compile an expression that has each of 300 columns printed.
    """
    arrays = [
        f"transform({values(list(group))}, v -> {printed(kind, 'v')})"
        for kind, group in groupby(columns, lambda column: column.type)
    ]
    return f"flatten(array[{', '.join(arrays)}])"


def _printed_time(timestamp: str) -> str:
    """A time as Postgres prints it: without the zeros that end its fraction."""
    return f"trim(trailing '.' from trim(trailing '0' from cast({timestamp} as varchar)))"


def _bits(number: str, kind: IcebergType) -> str:
    size = 32 if isinstance(kind, FloatType) else 64
    return f"if(is_nan({number}), 'NaN', lower(to_hex(to_ieee754_{size}({number}))))"


# -- rows ------------------------------------------------------------------------------------------


LONG = 1000
"""A text of more characters is told by its MD5: Trino puts no very long ones together."""


def row_at_source(texts: Sequence[str]) -> str:
    """Texts as one, from which each can be told, in Postgres's SQL.

    `2:17` is 17, `-` is null, and `5000#` with an MD5 is a text of 5,000 characters.
    """
    return " || ".join(
        f"case when {text} is null then '-'"
        f" when length({text}) <= {LONG} then length({text}) || ':' || {text}"
        f" else length({text}) || '#' || md5(convert_to({text}, 'UTF8')) end"
        for text in texts
    )


def row_in_lake(texts: str) -> str:
    """The same of an array of texts, in Trino's SQL."""
    length = "cast(length(v) as varchar)"
    encoded = (
        "case when v is null then '-'"
        f" when length(v) <= {LONG} then {length} || ':' || v"
        f" else {length} || '#' || lower(to_hex(md5(to_utf8(v)))) end"
    )
    return f"array_join(transform({texts}, v -> {encoded}), '')"


_ENCODED = re.compile(r"-|(\d+)(?:#([0-9a-f]{32})|:)")


def texts_of(row: str) -> list[str | None]:
    """The texts that `row_at_source` and `row_in_lake` put together; for a long one, its MD5."""
    texts: list[str | None] = []
    at = 0
    while found := _ENCODED.match(row, at):
        length, md5 = found.groups()
        at = found.end()
        if length is None or md5:
            texts.append(md5)
        else:
            texts.append(row[at : at + int(length)])
            at += int(length)
    return texts


def hash_at_source(text: str) -> str:
    """The first 8 bytes of a text's MD5 as a bigint, in Postgres's SQL."""
    return f"('x' || substr(md5(convert_to({text}, 'UTF8')), 1, 16))::bit(64)::bigint"


def hash_in_lake(text: str) -> str:
    """The same in Trino's SQL."""
    return f"from_big_endian_64(substr(md5(to_utf8({text})), 1, 8))"


def quoted(name: str) -> str:
    """A name in Trino's SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text in Trino's SQL."""
    return "'" + text.replace("'", "''") + "'"
