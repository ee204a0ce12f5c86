"""The tables of a layer as Spark sees them, and what is measured of the layer as a whole."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from psycopg import sql
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from lake import lag, source
from lake.catalog import access, for_spark, open_catalog
from lake.errors import LakeError
from lake.manifest import SourceTable, parents, source_tables, table_nodes
from lake.settings import TRUNK, settings
from lake.source.inspection import suspended
from lake.stack.spark import session
from lake.types import decimal_digits, held_as

ICEBERG = {
    "bigint": "bigint",
    "boolean": "boolean",
    "bytea": "binary",
    "date": "date",
    "double precision": "double",
    "integer": "int",
    "real": "float",
    "smallint": "int",
    "timestamp without time zone": "timestamp_ntz",
    "timestamp with time zone": "timestamp",
}
"""Spark's words for Postgres's types; numeric(p,s) is a decimal, and text a string."""

PATIENCE_SECONDS = 20.0
NO_ROW = "{}"
"""The `_unheld` of the row of bronze that stands for a snapshot of no rows."""


def spark() -> SparkSession:
    """The session of this process on the warm server; it knows `lake` and the process's branch."""
    active = SparkSession.getActiveSession()
    return active or session(for_spark(access(TRUNK)) | for_spark(access()))


def judged_on(layer: str) -> list[str]:
    """The tables that the suite of a layer may read: its models, and what they are made of."""
    nodes = table_nodes()
    found = {key for key, node in nodes.items() if node["fqn"][1] == layer}
    above = {parent for key in found for parent in parents(nodes[key])}
    judged = [nodes[key] for key in sorted(found | above & nodes.keys())]
    return [f"{node['fqn'][1]}.{node['name']}" for node in judged]


def frames(layer: str, tables: Iterable[str]) -> dict[str, DataFrame]:
    """Tables that the suite of a layer is judged on, by name; of bronze all there is.

    Raises LakeError where a table is missing.
    """
    return bronze() if layer == "bronze" else {name: read(name) for name in tables}


def bronze() -> dict[str, DataFrame]:
    """What bronze is judged on. Of a suspended table only what was landed, and that it is one."""
    declared = source_tables()
    troubles = suspended()
    ailing = {trouble.table for trouble in troubles}
    well = [table for table in declared if table.qualified not in ailing]
    taken = snapshots(declared)
    loaded = {table.bronze: taken[table.qualified].rows for table in declared}
    in_source = count_source(well)
    # A suspended table's changes are not judged: those that wait may lack their key.
    landed = changes(_standing(), well, {name: one.lsn for name, one in taken.items()})
    landed.persist()  # many small files, which all of the following read
    return loaded | {
        "bronze.changes": landed,
        "bronze.columns": columns(loaded, well),
        "bronze.rows": rows(in_source, taken, landed),
        "bronze.unheld": unheld(taken, landed, declared),
        "bronze.tables": spark().createDataFrame(
            [(trouble.table, str(trouble)) for trouble in troubles],
            "source_table string, trouble string",
        ),
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
    """A bulk load: as of which LSN, 0 where there was none; its rows, how many they are, and how
    many of them have values that their types can't hold."""

    lsn: int
    counted: int
    unheld: int
    rows: DataFrame


def snapshots(declared: Sequence[SourceTable]) -> dict[str, Snapshot]:
    """The newest bulk load of each table, by its name at the source: counted in one statement.

    One of no rows is a single row in bronze (`NO_ROW`).
    """
    tables = {table.qualified: read(table.bronze) for table in declared}
    is_row = f.coalesce(f.col("_unheld") != NO_ROW, f.lit(True))
    loads = [
        table.groupBy("_snapshot_lsn").agg(
            f.lit(name).alias("name"),
            f.count_if(is_row).alias("counted"),
            f.count_if(is_row & f.col("_unheld").isNotNull()).alias("unheld"),
        )
        for name, table in tables.items()
    ]
    found = reduce(DataFrame.union, loads).orderBy("_snapshot_lsn").collect() if loads else ()
    newest = {load.name: load for load in found}
    return {
        name: Snapshot(
            load._snapshot_lsn,
            load.counted,
            load.unheld,
            table.where((f.col("_snapshot_lsn") == load._snapshot_lsn) & is_row),
        )
        if (load := newest.get(name))
        else Snapshot(0, 0, 0, table)
        for name, table in tables.items()
    }


_TEXTS = "map<string,string>"
"""A row image, or `_unheld`, in Spark's words: the texts of values by the source's columns."""


def changes(
    table: DataFrame, declared: Sequence[SourceTable], snapshots: Mapping[str, int]
) -> DataFrame:
    """The landed changes: what each is, whether it has the declared key of its row, and whether it
    was committed after its table's snapshot, whose LSN is in `snapshots`; with the row, as JSON, if
    a value of it may be one that its type can't hold."""
    is_since = f.lit(False)
    for name, lsn in snapshots.items():
        is_since = is_since | ((f.col("source_table") == name) & (f.col("commit_lsn") >= lsn))
    row = f.when(f.col("op") == "d", f.col("before")).otherwise(f.col("after"))
    named = f.from_json(f.coalesce(f.col("key"), row), _TEXTS)
    has_key = f.lit(True)
    for one in declared:
        keyed = f.lit(True)
        names = {column.name: column.source_name for column in one.columns}
        for column in one.key:
            keyed = keyed & named.getItem(names[column]).isNotNull()
        has_key = f.when(f.col("source_table") == one.qualified, keyed).otherwise(has_key)
    return table.select(
        "source_table",
        "commit_lsn",
        "ordinal",
        "ingested_at",
        "op",
        (has_key | f.col("op").isin("t", "m")).alias("has_key"),
        is_since.alias("is_since_snapshot"),
        f.when(is_since & row.rlike(_PERHAPS_OUTSIDE), row).alias("perhaps_unheld"),
    )


_OUTSIDE = r"^(NaN|-?[Ii]nfinity|.* BC|\d{5,}-.*)$"
"""What a text looks like that its column's type can't hold: no number, no time of the years 1 to
9999. Other types that are not text hold whatever Postgres prints."""
_PERHAPS_OUTSIDE = r'"(NaN|-?[Ii]nfinity|[^"]* BC|\d{5,}-[^"]*)"'


def unheld(
    taken: Mapping[str, Snapshot], landed: DataFrame, declared: Sequence[SourceTable]
) -> DataFrame:
    """How many values of which column are null in the lake, since its type can't hold them."""
    perhaps = landed.where("perhaps_unheld is not null")
    suspect = {row.source_table for row in perhaps.select("source_table").distinct().collect()}
    suspect |= {name for name, load in taken.items() if load.unheld}
    found = []
    for table in declared:
        bounded = [c for c in table.columns if _is_bounded(c.type)]
        if table.qualified not in suspect or not bounded:
            continue
        texts = f.from_json("_unheld", _TEXTS).alias("texts")
        in_bulk = taken[table.qualified].rows.where("_unheld is not null").select(texts)
        in_changes = perhaps.where(f.col("source_table") == table.qualified).select(
            f.from_json("perhaps_unheld", _TEXTS).alias("texts")
        )
        counts = [
            f.count_if(f.col("texts").getItem(column.source_name).rlike(_OUTSIDE)).alias(f"n{i}")
            for i, column in enumerate(bounded)
        ]
        (row,) = in_bulk.union(in_changes).agg(*counts).collect()
        found += [
            (table.qualified, column.name, int(count))
            for column, count in zip(bounded, row, strict=True)
            if count
        ]
    return spark().createDataFrame(found, "source_table string, column string, found bigint")


def _is_bounded(postgres: str) -> bool:
    return _spark_type(postgres).startswith(("decimal", "date", "timestamp"))


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


@dataclass(frozen=True)
class AtSource:
    """The rows of each table that the transactions before an LSN have made, which bronze has now.

    Of each None where they can't be counted: `trouble` says why.
    """

    lsn: int
    counted: Mapping[str, int | None]
    trouble: str | None = None


def count_source(declared: Sequence[SourceTable]) -> AtSource:
    """Count the source's rows, and wait for bronze to have them.

    Transactions may stay open at the source, or capture not come as far.
    """
    try:
        counted = _count_source(declared)
        lag.catch_up(PATIENCE_SECONDS)
    except LakeError as error:
        return AtSource(0, {table.qualified: None for table in declared}, str(error))
    return counted


def _count_source(declared: Sequence[SourceTable]) -> AtSource:
    slot = f"{settings().source.slot}_{secrets.token_hex(6)}"
    counted: dict[str, int | None] = {}
    with (
        source.exported_snapshot(slot, is_temporary=True, seconds=PATIENCE_SECONDS) as made,
        source.connect() as connection,
        connection.transaction(),
    ):
        connection.execute("set transaction isolation level repeatable read, read only")
        connection.execute(f"set transaction snapshot '{made.name}'".encode())
        for table in declared:
            from_ = sql.Identifier(table.schema, table.name)
            is_parent = "select relkind = 'p' from pg_class where oid = %s::regclass"
            row = connection.execute(is_parent, [from_.as_string(connection)]).fetchone()
            only = sql.SQL("" if row == (True,) else "only ")
            query = sql.SQL("select count(*) from {}{}").format(only, from_)
            (count,) = connection.execute(query).fetchone() or (0,)
            counted[table.qualified] = int(count)
    return AtSource(made.lsn, counted)


def rows(there: AtSource, taken: Mapping[str, Snapshot], landed: DataFrame) -> DataFrame:
    """How many rows each table has at one LSN, at the source and in bronze."""
    added = _added(landed.where(f.col("commit_lsn") < there.lsn)) if not there.trouble else {}
    counted = []
    for name, in_source in there.counted.items():
        is_emptied, since = added.get(name, (False, 0))
        in_bronze = since if is_emptied else taken[name].counted + since
        counted.append((name, in_source, None if there.trouble else in_bronze, there.trouble))
    return spark().createDataFrame(
        counted, "source_table string, in_source bigint, in_bronze bigint, trouble string"
    )


def _added(landed: DataFrame) -> dict[str, tuple[bool, int]]:
    """Of each table whether a TRUNCATE has emptied it since its snapshot, and how many rows were
    added since, or since the last TRUNCATE."""
    since = landed.where("is_since_snapshot").withColumn(
        "position", f.struct("commit_lsn", "ordinal")
    )
    emptied = since.where("op = 't'").groupBy("source_table")
    emptied_at = emptied.agg(f.max("position").alias("emptied_at"))
    adds = f.when(f.col("op") == "c", 1).when(f.col("op") == "d", -1).otherwise(0)
    counts = f.col("emptied_at").isNull() | (f.col("position") > f.col("emptied_at"))
    found = (
        since.join(emptied_at, "source_table", "left")
        .groupBy("source_table")
        .agg(
            (f.count("emptied_at") > 0).alias("is_emptied"),
            f.sum(f.when(counts, adds).otherwise(0)).alias("added"),
        )
    )
    return {row.source_table: (row.is_emptied, int(row.added)) for row in found.collect()}


def capture() -> DataFrame:
    """The replication slot as it is now."""
    with source.connect() as connection:
        slot = source.slot(connection)
    found: list[tuple[str, int | None]] = [("none", None)]
    if slot:
        found = [(slot.wal_status, slot.current_lsn - slot.confirmed_lsn)]
    return spark().createDataFrame(found, "wal_status string, bytes_behind bigint")


def _spark_type(postgres: str) -> str:
    held = held_as(postgres)
    if digits := decimal_digits(held):
        return "decimal({},{})".format(*digits)
    return ICEBERG.get(held, "string")


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
