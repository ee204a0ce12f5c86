"""The tables of bronze, and how files of rows are added to them."""

from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.name_mapping import create_mapping_from_schema
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import IcebergType, LongType, NestedField, StringType, TimestamptzType

from ingestion.types import bronze_type
from lake.catalog import catalog
from lake.lag import CHANGES
from lake.manifest import Column
from lake.object_store import CAPTURE
from lake.settings import settings

NAME_MAPPING = "schema.name-mapping.default"


def _schema(columns: list[tuple[str, IcebergType]]) -> Schema:
    fields = (NestedField(i, name, kind) for i, (name, kind) in enumerate(columns, start=1))
    return Schema(*fields)


def create_changes() -> Table:
    """`bronze.changes`, made if missing: each change's envelope, and what prunes it."""
    schema = _schema(
        [
            ("source_table", StringType()),
            ("lsn", LongType()),
            ("prior_commit_lsn", LongType()),
            ("committed_at", TimestamptzType()),
            ("ingested_at", TimestamptzType()),
            ("envelope", StringType()),
        ]
    )
    spec = PartitionSpec(
        PartitionField(1, 1000, IdentityTransform(), "source_table"),
        PartitionField(5, 1001, DayTransform(), "ingested_at_day"),
    )
    properties = {
        "format-version": "2",
        "write.parquet.compression-codec": "zstd",
        "write.metadata.previous-versions-max": "100",
        "flink.manifests.location": f"s3://{settings().bucket}/{CAPTURE}/manifests",
    }
    return catalog("ingest").create_table_if_not_exists(
        CHANGES, schema=schema, partition_spec=spec, properties=properties
    )


def create_snapshots(name: str, columns: tuple[Column, ...]) -> Table:
    """The table of a source table's bulk snapshots, made or widened to hold `columns`."""
    typed = [(column.name, bronze_type(column.type).iceberg) for column in columns]
    schema = _schema([*typed, ("_snapshot_lsn", LongType()), ("_ingested_at", TimestamptzType())])
    table = catalog("ingest").create_table_if_not_exists(
        name, schema=schema, properties={"format-version": "2"}
    )
    with table.update_schema() as update:
        update.union_by_name(schema)
    mapping = create_mapping_from_schema(table.schema()).model_dump_json()
    if table.properties.get(NAME_MAPPING) != mapping:  # the files' columns are found by name
        with table.transaction() as transaction:
            transaction.set_properties({NAME_MAPPING: mapping})
    return table
