"""The one place where a Postgres type becomes a type of bronze.

What bronze has no exact type for lands as Postgres writes it, in text, and loses nothing.
"""

import re
from dataclasses import dataclass

import pyarrow as pa
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
    StringType,
    TimestampType,
    TimestamptzType,
)


@dataclass(frozen=True)
class BronzeType:
    """A type of bronze; `text` says that the source is asked for the value as text."""

    arrow: pa.DataType
    iceberg: IcebergType
    text: bool = False


_EXACT = {
    "smallint": BronzeType(pa.int32(), IntegerType()),
    "integer": BronzeType(pa.int32(), IntegerType()),
    "bigint": BronzeType(pa.int64(), LongType()),
    "real": BronzeType(pa.float32(), FloatType()),
    "double precision": BronzeType(pa.float64(), DoubleType()),
    "boolean": BronzeType(pa.bool_(), BooleanType()),
    "date": BronzeType(pa.date32(), DateType()),
    "bytea": BronzeType(pa.binary(), BinaryType()),
    "timestamp without time zone": BronzeType(pa.timestamp("us"), TimestampType()),
    "timestamp with time zone": BronzeType(pa.timestamp("us", "UTC"), TimestamptzType()),
}
_TEXT = BronzeType(pa.string(), StringType(), text=True)

_ALIASES = {
    "int2": "smallint",
    "int": "integer",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "varchar": "character varying",
    "char": "character",
    "decimal": "numeric",
    "time": "time without time zone",
    "timetz": "time with time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
}


def canonical(declared: str) -> str:
    """A declared type as Postgres itself writes it: `decimal(12, 2)` is `numeric(12,2)`."""
    spaced = re.sub(r"\s+", " ", declared.strip().lower())
    name, modifier = re.fullmatch(r"([^(]*?) ?((?:\(.*\))?(?:\[\])*)", spaced).groups()  # type: ignore[union-attr]
    return _ALIASES.get(name, name) + modifier.replace(" ", "")


def bronze_type(postgres: str) -> BronzeType:
    """The type in bronze of a column whose type Postgres writes as `postgres`."""
    if decimal := re.fullmatch(r"numeric\((\d+),(\d+)\)", postgres):
        precision, scale = map(int, decimal.groups())
        if precision <= 38:
            return BronzeType(
                pa.decimal128(precision, scale), DecimalType(precision, scale), text=True
            )
    return _EXACT.get(postgres, _TEXT)
