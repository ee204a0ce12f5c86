"""The tables of a layer as Spark sees them, and what is measured of the layer as a whole."""

import time
from dataclasses import dataclass

from psycopg import sql
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from lake import source
from lake.catalog import access, for_spark, open_catalog
from lake.errors import LakeError
from lake.manifest import SourceTable, model_nodes, source_tables
from lake.settings import TRUNK, settings

ICEBERG = {
    "bigint": "bigint",
    "boolean": "boolean",
    "bytea": "binary",
    "date": "date",
    "double precision": "double",
    "integer": "int",
    "real": "float",
    "smallint": "int",
    "timestamp": "timestamp_ntz",
    "timestamp without time zone": "timestamp_ntz",
    "timestamp with time zone": "timestamp",
    "timestamptz": "timestamp",
}
"""Spark's words for Postgres's types; numeric(p,s) is a decimal, everything else a string."""

PATIENCE_SECONDS = 6.0
NO_ROW = "{}"
"""The `_unheld` of the row of bronze that stands for a snapshot of no rows."""


def spark() -> SparkSession:
    """The session of this process on the warm server; it knows `lake` and the process's branch."""
    if session := SparkSession.getActiveSession():
        return session
    builder = SparkSession.builder.remote(settings().spark_remote)
    for name, value in (for_spark(access(TRUNK)) | for_spark(access())).items():
        builder = builder.config(name, value)
    opened: SparkSession = builder.getOrCreate()
    return opened


def frames(layer: str) -> dict[str, DataFrame]:
    """What the suite of a layer is judged on, by name: its models, and what they are made of.

    Raises LakeError where a table is missing.
    """
    if layer == "bronze":
        return bronze()
    nodes = model_nodes()
    found = {key for key, node in nodes.items() if node["fqn"][1] == layer}
    above = {parent for key in found for parent in nodes[key]["depends_on"]["nodes"]}
    judged = [nodes[key] for key in sorted(found | above & nodes.keys())]
    return {name: read(name) for name in (f"{node['fqn'][1]}.{node['name']}" for node in judged)}


def bronze() -> dict[str, DataFrame]:
    declared = source_tables()
    snapshots = {table.qualified: snapshot(table) for table in declared}
    loaded = {table.bronze: snapshots[table.qualified].rows for table in declared}
    since = {name: taken.lsn for name, taken in snapshots.items()}
    counted = rows(snapshots, changes(read("bronze.changes"), declared, since), declared)
    return loaded | {
        "bronze.changes": changes(_standing(), declared, since),
        "bronze.columns": columns(loaded, declared),
        "bronze.rows": counted,
        "bronze.capture": capture(),
    }


def _standing() -> DataFrame:
    """What has landed by now. Of the table itself each statement reads what has landed by then, and
    so nothing is kept at hand."""
    landed = open_catalog(TRUNK).load_table("bronze.changes").current_snapshot()
    at = f" version as of {landed.snapshot_id}" if landed else ""
    return spark().sql(f"select * from `{TRUNK}`.bronze.changes{at}")


@dataclass(frozen=True)
class Snapshot:
    """A bulk load: as of which LSN, 0 where there was none; how many rows it has, and which."""

    lsn: int
    counted: int
    rows: DataFrame


def snapshot(declared: SourceTable) -> Snapshot:
    """The newest bulk load of a table. One of no rows is a single row in bronze (`NO_ROW`)."""
    table = read(declared.bronze)
    is_row = f.coalesce(f.col("_unheld") != NO_ROW, f.lit(True))
    counts = table.groupBy("_snapshot_lsn").agg(f.count_if(is_row).alias("counted"))
    newest = counts.orderBy(f.desc("_snapshot_lsn")).first()
    if newest is None:
        return Snapshot(0, 0, table)
    rows = table.where((f.col("_snapshot_lsn") == newest._snapshot_lsn) & is_row)
    return Snapshot(newest._snapshot_lsn, newest.counted, rows)


def changes(table: DataFrame, declared: list[SourceTable], snapshots: dict[str, int]) -> DataFrame:
    """The landed changes: their operation, whether all of the row's key is there, and whether they
    were committed after the table's snapshot, whose LSN is in `snapshots`."""
    has_key, is_since = f.lit(True), f.lit(False)
    for name, lsn in snapshots.items():
        since = (f.col("lsn") >= lsn) | (f.col("prior_commit_lsn") >= lsn)
        is_since = is_since | ((f.col("source_table") == name) & since)
    for one in declared:
        keyed = f.lit(True)
        for column in one.key:
            image = f.coalesce(
                f.get_json_object("envelope", f"$.after.{column}"),
                f.get_json_object("envelope", f"$.before.{column}"),
            )
            keyed = keyed & image.isNotNull()
        has_key = f.when(f.col("source_table") == one.qualified, keyed).otherwise(has_key)
    op = f.get_json_object("envelope", "$.op")
    return table.select(
        "source_table",
        "lsn",
        "ingested_at",
        op.alias("op"),
        (has_key | (op == "t")).alias("has_key"),
        is_since.alias("is_since_snapshot"),
    )


def columns(loaded: dict[str, DataFrame], declared: list[SourceTable]) -> DataFrame:
    """Each declared column: the type it should have in bronze, and the one it has, if any."""
    found = [
        (table.bronze, column.name, _spark_type(column.type), types.get(column.name))
        for table in declared
        for types in [dict(loaded[table.bronze].dtypes)]
        for column in table.columns
    ]
    return spark().createDataFrame(
        found, "source_table string, column string, declared string, found string"
    )


def rows(
    snapshots: dict[str, Snapshot], landed: DataFrame, declared: list[SourceTable]
) -> DataFrame:
    """How many rows each table has at the source and in bronze, once what is on its way is in."""
    began = time.monotonic()
    while True:
        in_source = _count_source(declared)
        lately, since = _count_changes(landed)
        counted = [
            (name, in_source[name], taken.counted + since.get(name, 0), lately.get(name, 0))
            for name, taken in snapshots.items()
        ]
        even = all(abs(there - here) <= slack for _, there, here, slack in counted)
        if even or time.monotonic() - began > PATIENCE_SECONDS:
            break
        time.sleep(1)
    return spark().createDataFrame(
        counted, "source_table string, in_source bigint, in_bronze bigint, changed_lately bigint"
    )


def _count_source(declared: list[SourceTable]) -> dict[str, int]:
    counted = {}
    with source.connect() as connection:
        for table in declared:
            query = sql.SQL("select count(*) from {}").format(
                sql.Identifier(table.schema, table.name)
            )
            (count,) = connection.execute(query).fetchone() or (0,)
            counted[table.qualified] = int(count)
    return counted


def _count_changes(landed: DataFrame) -> tuple[dict[str, int], dict[str, int]]:
    """By table: the changes of the last minute, and the rows that changes added to the snapshot."""
    added = f.when(f.col("op") == "c", 1).when(f.col("op") == "d", -1).otherwise(0)
    minute = f.current_timestamp() - f.expr("interval 1 minute")
    found = (
        landed.where("is_since_snapshot")
        .groupBy("source_table")
        .agg(
            f.sum(added).alias("added"),
            f.count_if(f.col("ingested_at") > minute).alias("lately"),
        )
        .collect()
    )
    return (
        {row.source_table: int(row.lately) for row in found},
        {row.source_table: int(row.added) for row in found},
    )


def capture() -> DataFrame:
    """The replication slot as it is now."""
    with source.connect() as connection:
        slot = source.slot(connection)
    found: list[tuple[str, int | None]] = [("none", None)]
    if slot:
        found = [(slot.wal_status, slot.current_lsn - slot.confirmed_lsn)]
    return spark().createDataFrame(found, "wal_status string, bytes_behind bigint")


def _spark_type(postgres: str) -> str:
    if postgres.startswith("numeric("):
        return postgres.replace("numeric", "decimal").replace(" ", "")
    return ICEBERG.get(postgres, "string")


def read(name: str) -> DataFrame:
    """A table of this process's branch. Raises LakeError where there is none."""
    # Bronze is not built, and so has no branches: it is judged as it is now.
    branch = TRUNK if name.startswith("bronze.") else settings().branch
    frame = spark().table(f"`{branch}`.{name}")
    try:
        frame.schema  # noqa: B018 - asks the server
    except AnalysisException as error:
        if error.getCondition() != "TABLE_OR_VIEW_NOT_FOUND":
            raise
        verb = "ingest" if name.startswith("bronze.") else "build"
        raise LakeError(f"there is no {name} yet: run `lake {verb}`") from None
    return frame
