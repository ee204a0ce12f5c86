"""The one place where a Postgres type becomes a type of bronze.

What bronze has no exact type for lands as the text that Postgres prints, and loses nothing. So does
a value that its typed column can't hold, in `_unheld`.
"""

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

from lake.types import decimal_digits, held_as


@dataclass(frozen=True)
class BronzeType:
    """A type of bronze: in memory, and in its tables."""

    arrow: pa.DataType
    iceberg: IcebergType


TEXT = BronzeType(pa.string(), StringType())
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


def bronze_type(postgres: str) -> BronzeType:
    """The type in bronze of a column of a type of Postgres's."""
    held = held_as(postgres)
    if digits := decimal_digits(held):
        return BronzeType(pa.decimal128(*digits), DecimalType(*digits))
    return _EXACT.get(held, TEXT)
