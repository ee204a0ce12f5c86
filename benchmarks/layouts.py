"""How a table of a million loans is best laid out and worked on: each choice beside the others.

    uv run python -m benchmarks.engines 1000000 && uv run python -m benchmarks.layouts

It works on that installation's loans, on a branch that is dropped. Each layout is written by Spark;
then each engine merges 1,000 changes that are spread over all keys, and asks for a sum over all
rows and for one row. Seconds; the median of three of what only reads, the second of two merges. The
first layout is done once before, for servers that are warm.
"""

import statistics
from collections.abc import Callable
from functools import partial

import typer
from pyspark.sql import SparkSession
from rich.console import Console
from rich.table import Table

from benchmarks.engines import ROUNDS, timed, use_installation

BRANCH = "bench_layouts"
TABLE = "silver.laid_out"
ON_READ = {f"write.{act}.mode": "merge-on-read" for act in ("merge", "update", "delete")}
LAYOUTS: dict[str, tuple[dict[str, str], str, str | None]] = {
    "as the project has it": (ON_READ, "", None),
    "copy-on-write": (dict.fromkeys(ON_READ, "copy-on-write"), "", None),
    "distribution: none": (
        ON_READ | {"write.distribution-mode": "none", "write.merge.distribution-mode": "none"},
        "",
        None,
    ),
    "distribution: range": (
        ON_READ | {"write.distribution-mode": "range", "write.merge.distribution-mode": "range"},
        "",
        None,
    ),
    "sorted by key": (ON_READ, "", "loan_id"),
    "8 buckets by key": (ON_READ, "partitioned by (bucket(8, loan_id))", None),
    "partitioned by intent": (ON_READ, "partitioned by (loan_intent)", None),
}
"""Properties, partitioning, and order of each."""
PARALLEL = (1, 2, 4, 8)
SUM = f"select loan_intent, sum(loan_amnt) as amount from {TABLE} group by loan_intent"
ONE = f"select * from {TABLE} where loan_id = 4711"
JOIN = (
    "select count(*) as versions from silver.loans_history as history"
    " inner join silver.loans as loans on history.loan_id = loans.loan_id"
    " where history.credit_score <= loans.credit_score"
)
console = Console(width=120)


def merge(columns: list[str]) -> str:
    """Every thousandth loan, changed."""
    sets = ", ".join(f"{name} = source.{name}" for name in columns)
    return (
        f"merge into {TABLE} as target using (select * from silver.loans where loan_id % 1000 = 7)"
        f" as source on target.loan_id = source.loan_id when matched then update set {sets}"
    )


def layouts(spark: SparkSession, ask: Callable[[str], object]) -> Table:
    def ask_spark(query: str) -> object:
        return spark.sql(query).collect()

    table = Table("LAYOUT", "written", *("merge", "sum", "one row") * 2)
    columns = spark.table("silver.loans").columns

    def measured(properties: dict[str, str], partitioning: str, order: str | None) -> list[float]:
        listed = ", ".join(f"'{key}' = '{value}'" for key, value in properties.items())
        made = f"create table {TABLE} using iceberg {partitioning} tblproperties ({listed})"

        def write() -> None:
            spark.sql(f"{made} as select * from silver.loans where false").collect()
            if order:
                spark.sql(f"alter table {TABLE} write ordered by {order}").collect()
            spark.sql(f"insert into {TABLE} select * from silver.loans").collect()

        row = [timed(write)]
        for engine in (ask_spark, ask):
            engine(merge(columns))
            row.append(timed(partial(engine, merge(columns))))
            for query in (SUM, ONE):
                times = [timed(partial(engine, query)) for _ in range(ROUNDS)]
                row.append(statistics.median(times))
        spark.sql(f"drop table {TABLE}").collect()
        return row

    measured(*next(iter(LAYOUTS.values())))
    for name, layout in LAYOUTS.items():
        table.add_row(name, *(f"{seconds:.2f}" for seconds in measured(*layout)))
    return table


def parallel(spark: SparkSession, ask: Callable[[str, dict[str, str]], object]) -> Table:
    table = Table("AT ONCE", "Spark: shuffle partitions", "Trino: task_concurrency")
    for count in PARALLEL:
        spark.conf.set("spark.sql.shuffle.partitions", str(count))
        on_spark = [timed(spark.sql(JOIN).collect) for _ in range(ROUNDS)]
        properties = {"task_concurrency": str(count)}
        on_trino = [timed(partial(ask, JOIN, properties)) for _ in range(ROUNDS)]
        medians = (statistics.median(times) for times in (on_spark, on_trino))
        table.add_row(str(count), *(f"{seconds:.2f}" for seconds in medians))
    return table


def main(rows: int = 1_000_000) -> None:
    """Measure, and print."""
    use_installation(rows)
    from trino.dbapi import connect

    from lake.branches import branch
    from lake.catalog import access, for_spark
    from lake.settings import settings
    from lake.stack import lifecycle
    from lake.stack.spark import session

    def ask(query: str, properties: dict[str, str] | None = None) -> object:
        with connect(
            host=settings().host,
            port=settings().ports.trino,
            user="dbt",
            catalog=BRANCH,
            session_properties=properties,
        ) as connection:
            return connection.cursor().execute(query).fetchall()

    try:
        lifecycle.up()
        branch.create(BRANCH)
        spark = session(for_spark(access(BRANCH)))
        try:
            console.print("[bold]seconds: Spark's three, then Trino's[/]", layouts(spark, ask))
            console.print("[bold]a join of both tables' keys, seconds[/]", parallel(spark, ask))
        finally:
            spark.stop()
            branch.drop(BRANCH)
    finally:
        lifecycle.down()


if __name__ == "__main__":
    typer.run(main)
