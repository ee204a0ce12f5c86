"""The tables of bronze, and how files of rows are added to them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CreateTableTransaction, Table, Transaction
from pyiceberg.table.name_mapping import create_mapping_from_schema
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import (
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from ingestion.types import bronze_type
from lake.catalog import catalog
from lake.errors import LakeError
from lake.lag import CHANGES, SNAPSHOT_LSN, snapshot_lsn
from lake.manifest import Column, SourceTable
from lake.names import numbered
from lake.shapes import SCHEMA_CHANGES
from lake.source.inspection import Table as Found

NAME_MAPPING = "schema.name-mapping.default"
MADE_OF = "lake.made-of"
"""The property of a table of snapshots that says what the newest one is of: table and columns."""

_CAPTURED = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "write.metadata.previous-versions-max": "100",
}
"""The properties of a table that capture writes."""
UNHELD = "_unheld"
"""The column that has the texts of values that their own column can't hold, as JSON."""
NO_ROW = "{}"
"""The `_unheld` of a row that stands for a snapshot of no rows, and of no other row."""


def _schema(columns: list[tuple[str, IcebergType]]) -> Schema:
    fields = (NestedField(i, name, kind) for i, (name, kind) in enumerate(columns, start=1))
    return Schema(*fields)


def create_changes() -> Table:
    """`bronze.changes`, made if missing: a row for each change, in the source's own words.

    Raises LakeError where it is there as an older lake made it.
    """
    if (
        exists(CHANGES)
        and "envelope" in catalog("ingest").load_table(CHANGES).schema().column_names
    ):
        raise LakeError(
            f"{CHANGES} has another format, of an older lake: take all tables anew with "
            "`lake ingest --from-scratch`, which keeps what was landed under another name"
        )
    schema = _schema(
        [
            ("source_table", StringType()),
            ("op", StringType()),
            ("commit_lsn", LongType()),
            ("ordinal", LongType()),
            ("lsn", LongType()),
            ("xid", LongType()),
            ("committed_at", TimestamptzType()),
            ("ingested_at", TimestamptzType()),
            ("key", StringType()),
            ("before", StringType()),
            ("after", StringType()),
            ("unchanged", StringType()),
        ]
    )
    spec = PartitionSpec(
        PartitionField(1, 1000, IdentityTransform(), "source_table"),
        PartitionField(8, 1001, DayTransform(), "ingested_at_day"),
    )
    properties = _CAPTURED | {
        # Capture's files are many and small: at Iceberg's 4 MB a file Spark reads four in a task.
        "read.split.open-file-cost": str(64 * 1024),
    }
    properties |= _metrics(commit_lsn="full")
    properties |= _metrics(key="none", before="none", after="none", unchanged="none")
    return _create(CHANGES, schema, properties, spec)


def create_schema_changes() -> Table:
    """`bronze.schema_changes`, made if missing: a row for each shape that a table took on."""
    schema = _schema(
        [
            ("source_table", StringType()),
            ("commit_lsn", LongType()),
            ("ordinal", LongType()),
            ("committed_at", TimestamptzType()),
            ("ingested_at", TimestamptzType()),
            ("columns", StringType()),
            ("replica_identity", StringType()),
        ]
    )
    return _create(SCHEMA_CHANGES, schema, _CAPTURED | _metrics(columns="none"))


def _create(
    name: str,
    schema: Schema,
    properties: dict[str, str],
    spec: PartitionSpec = UNPARTITIONED_PARTITION_SPEC,
) -> Table:
    """The table, made if missing; one that is there already takes on the properties."""
    table = catalog("ingest").create_table_if_not_exists(
        name, schema=schema, partition_spec=spec, properties=properties
    )
    _declare(table, properties)
    return table


def _metrics(**columns: str) -> dict[str, str]:
    """Which statistics of a column's values Iceberg keeps for each file."""
    return {f"write.metadata.metrics.column.{name}": mode for name, mode in columns.items()}


def snapshot_schema(columns: Sequence[Column]) -> Schema:
    """What the table of a source table's bulk snapshots has: its columns, and three of its own."""
    typed = [(column.name, bronze_type(column.type).iceberg) for column in columns]
    own: list[tuple[str, IcebergType]] = [
        (UNHELD, StringType()),
        ("_snapshot_lsn", LongType()),
        ("_ingested_at", TimestamptzType()),
    ]
    return _schema([*typed, *own])


def location(name: str, columns: Sequence[Column]) -> str:
    """Where the files of a table of snapshots go, be it there already or not."""
    if exists(name):
        return catalog("ingest").load_table(name).location()
    return _staged(name, columns).table_metadata.location


def _staged(name: str, columns: Sequence[Column]) -> CreateTableTransaction:
    properties = {"format-version": "2"}
    return catalog("ingest").create_table_transaction(
        name, schema=snapshot_schema(columns), properties=properties
    )


def create_empty(name: str, columns: Sequence[Column]) -> None:
    """The table of a source table that can't be copied yet, made if missing: models can read it."""
    if not exists(name):
        _staged(name, columns).commit_transaction()


def commit_snapshot(table: Found, files: list[str], lsn: int) -> None:
    """Have the files of a bulk snapshot be rows of a table, all at once.

    The table is widened to hold the columns, or set aside where it can't hold one in its type. It
    is not there before its first snapshot is.
    """
    name, schema = table.declared.bronze, snapshot_schema(table.columns)
    if exists(name) and not _can_hold(catalog("ingest").load_table(name).schema(), schema):
        set_aside(name)
    if exists(name):
        loaded = catalog("ingest").load_table(name)
        with loaded.update_schema() as update:
            update.union_by_name(schema)
        transaction: Transaction = loaded.transaction()
    else:
        transaction = _staged(name, table.columns)
    mapping = create_mapping_from_schema(transaction.table_metadata.schema()).model_dump_json()
    transaction.set_properties({NAME_MAPPING: mapping})  # the files' columns are found by name
    transaction.add_files(files, check_duplicate_files=False)
    made_of = _made_of(table.declared.qualified, table.columns)
    transaction.set_properties({SNAPSHOT_LSN: str(lsn), MADE_OF: json.dumps(made_of)})
    transaction.commit_transaction()


def _can_hold(schema: Schema, wanted: Schema) -> bool:
    """Whether a table can be widened to hold rows of another schema."""
    types = {field.name: field.field_type for field in schema.fields}
    return all(
        _is_widened(types.get(field.name, field.field_type), field.field_type)
        for field in wanted.fields
    )


def _is_widened(one: IcebergType, other: IcebergType) -> bool:
    """Whether Iceberg lets a column of one type become one of the other."""
    match one, other:
        case (IntegerType(), LongType()) | (FloatType(), DoubleType()):
            return True
        case DecimalType(), DecimalType():
            return one.scale == other.scale and one.precision <= other.precision
    return one == other


def set_changes_aside() -> None:
    """Have capture begin with no changes; those that there are get another name."""
    for name in (CHANGES, SCHEMA_CHANGES):
        if exists(name):
            set_aside(name)


def set_aside(name: str) -> str:
    """Rename a table, so that another one can have its name; returns the name that it has now."""
    day = datetime.now(UTC).strftime("%Y_%m_%d")
    free = next(one for one in numbered(f"{name}_until_{day}") if not exists(one))
    catalog("ingest").rename_table(name, free)
    return free


def _made_of(table: str, columns: Sequence[Column]) -> dict[str, object]:
    return {"table": table, "columns": {column.name: column.source_name for column in columns}}


def is_of(declared: SourceTable) -> bool:
    """Whether the newest snapshot is of the declared table, and has its columns in their types."""
    table = catalog("ingest").load_table(declared.bronze)
    made_of = json.loads(table.properties.get(MADE_OF, '{"table": null, "columns": {}}'))
    types = {field.name: field.field_type for field in table.schema().fields}
    return made_of["table"] == declared.qualified and all(
        made_of["columns"].get(column.name) == column.source_name
        and types.get(column.name) == bronze_type(column.type).iceberg
        for column in declared.columns
    )


def _declare(table: Table, properties: dict[str, str]) -> None:
    """Have a table, an older one too, have these properties."""
    if not properties.items() <= table.properties.items():
        with table.transaction() as transaction:
            transaction.set_properties(properties)


def exists(name: str) -> bool:
    """Whether there is such a table."""
    return bool(catalog("ingest").table_exists(name))


def forget_snapshot(name: str) -> None:
    """Have the table need a new snapshot: changes were missed since the last, or will be."""
    if snapshot_lsn(name) is not None:
        with catalog("ingest").load_table(name).transaction() as transaction:
            transaction.remove_properties(SNAPSHOT_LSN)
