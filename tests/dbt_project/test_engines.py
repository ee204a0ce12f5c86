"""The same project on both engines: each builds a branch of its own from one bronze, each goes on
where the other left off, and after every step both branches hold the same tables.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import yaml
from pyiceberg.types import LongType
from pyspark.errors import PySparkException
from trino.exceptions import TrinoUserError

from lake.branches import branch
from lake.catalog import open_catalog
from lake.manifest import PROJECT, copy_project
from lake.settings import ROOT, on_branch
from tests.dbt_project.conftest import ENGINES, Ask, Dbt, Done, compiled
from tests.dbt_project.source import (
    BRONZE,
    CROWD,
    Crowd,
    Source,
    append,
    create_bronze,
    lake_name,
    land,
    land_snapshot,
)

MINE, YOURS = "engines_mine", "engines_yours"
OF_THE_RUN = ("run_id",)
"""Names the invocation that wrote a row; the same row comes from two of them here."""
OF_THE_WAY = (*OF_THE_RUN, "first_seen_at")
"""Also tells from which version on a row was in the table, which a full refresh forgets."""
PROPERTIES = {
    "write.merge.mode": "merge-on-read",
    "write.update.mode": "merge-on-read",
    "write.delete.mode": "merge-on-read",
    "write.metadata.previous-versions-max": "100",
    "write.parquet.compression-codec": "zstd",
}


@pytest.fixture
def branches(lake_stack: Path) -> Iterator[None]:
    """Two branches of the lake as it is."""
    try:
        for name in (MINE, YOURS):
            branch.create(name)
        yield
    finally:
        for name in {ref.name for ref in branch.refs()} & {MINE, YOURS}:
            branch.drop(name)


def side_by_side(run: Callable[[str, str], Done], mine: str, yours: str) -> list[Done]:
    """Have an engine at work on each of the branches at the same time."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(run, (MINE, YOURS), (mine, yours)))


def assert_succeeded(done: Sequence[Done]) -> None:
    for one in done:
        assert one.returncode == 0, one.stdout


def tables(suffix: str = "") -> dict[str, list[str]]:
    """The tables of silver and gold, on each branch."""
    layers = (f"silver{suffix}", f"gold{suffix}")
    return {
        on: sorted(
            ".".join(name) for layer in layers for name in open_catalog(on).list_tables(layer)
        )
        for on in (MINE, YOURS)
    }


def keeping(on: str, table: str) -> dict[str, Any]:
    """How a table is kept: what an engine that goes on with it finds."""
    found = open_catalog(on).load_table(table)
    return {
        "columns": [(column.name, str(column.field_type)) for column in found.schema().fields],
        "partitioning": [(field.name, str(field.transform)) for field in found.spec().fields],
        "format": found.metadata.format_version,
        "properties": {name: found.properties.get(name) for name in PROPERTIES},
    }


def rows(on: str, table: str, without: Sequence[str]) -> pa.Table:
    found: pa.Table = open_catalog(on).load_table(table).scan().to_arrow()
    return found.select([name for name in found.column_names if name not in without])


def digest(table: pa.Table) -> tuple[int, int]:
    """How many rows there are, and a digest of them that does not depend on their order."""
    with duckdb.connect() as connection:
        connection.register("found", table)
        names = ", ".join(f'"{name}"' for name in table.column_names)
        query = f"select count(*), sum(hash({names})::hugeint) from found"
        ((count, total),) = connection.execute(query).fetchall()
        return count, total or 0


def only_in(found: pa.Table, other: pa.Table) -> list[Any]:
    """Some of the rows that one table has and another has not."""
    with duckdb.connect() as connection:
        connection.register("found", found)
        connection.register("other", other)
        return connection.execute("from found except all from other limit 3").fetchall()


def assert_alike(suffix: str = "", without: Sequence[str] = OF_THE_RUN) -> None:
    """Both branches hold a table for each model, kept alike, with the same rows."""
    models = sorted(
        f"{sql.parent.name}{suffix}.{sql.stem}" for sql in PROJECT.glob("models/*/*.sql")
    )
    assert tables(suffix) == {MINE: models, YOURS: models}
    for table in models:
        assert keeping(MINE, table) == keeping(YOURS, table), table
        mine, yours = (rows(on, table, without) for on in (MINE, YOURS))
        assert mine.num_rows > 0, f"{table} proves nothing"
        assert digest(mine) == digest(yours), "\n".join(
            [table, *map(str, only_in(mine, yours)), "instead of", *map(str, only_in(yours, mine))]
        )


# --- from hand-made bronze, step by step ----------------------------------------------------------

SUFFIX = "_engines"
VARIABLES = ("--vars", json.dumps({"bronze": BRONZE, "layer_suffix": SUFFIX}))


def share_bronze() -> None:
    """Have YOURS see the very tables of bronze that MINE does, as they are now."""
    mine, yours = open_catalog(MINE), open_catalog(YOURS)
    yours.create_namespace_if_not_exists(BRONZE)
    for table in mine.list_tables(BRONZE):
        if yours.table_exists(table):
            yours.drop_table(table)  # the pointer alone
        yours.register_table(table, mine.load_table(table).metadata_location)


class Bronze:
    """Hand-made bronze of both branches, and the source that it is landed from."""

    def __init__(self) -> None:
        self.source, self.landed = Source(random.Random(20261126)), 0
        for _ in range(60):
            row = self.source.loan()
            self.source.loans[row["loan_id"]] = row
        for loan_id in list(self.source.loans)[:20]:
            self.source.payments[loan_id, 1] = self.source.payment(loan_id, 1)
        with on_branch(MINE):
            create_bronze()
        self.take_snapshot()

    def take_snapshot(self) -> None:
        with on_branch(MINE):
            land_snapshot(self.source)
        share_bronze()

    def live(self, transactions: int, *, truncated: bool = False) -> None:
        """Land more transactions: inserts, updates, deletes, other keys, broken and mended rows.

        Afterwards those tables are whose old rows come whole that came as their key before.
        """
        self.source.live(transactions)
        if truncated:
            self.source.truncate_loans()
            self.source.live(20)
        with on_branch(MINE):
            changes = [change.landed() for change in self.source.wal[self.landed :]]
            land(changes, self.source.wal[-1].commit_lsn)
        self.landed = len(self.source.wal)
        self.source.is_full = not self.source.is_full
        share_bronze()


def test_what_one_engine_built_the_other_goes_on_with_and_both_have_the_same_rows(
    branches: None, dbt: Dbt
) -> None:
    def run(*options: str) -> Callable[[str, str], Done]:
        return lambda on, engine: dbt(on, engine, "run", *VARIABLES, *options)

    bronze = Bronze()
    bronze.live(30)
    assert_succeeded(side_by_side(run(), "spark", "trino"))
    assert_alike(SUFFIX)

    bronze.live(50)
    assert_succeeded(side_by_side(run(), "trino", "spark"))
    assert_alike(SUFFIX)

    # All loans go but those that came later.
    bronze.live(10, truncated=True)
    assert_succeeded(side_by_side(run(), "spark", "trino"))
    assert_alike(SUFFIX)

    # Some loans go unseen, as after a lost slot: a new snapshot alone tells.
    bronze.live(30)
    bronze.source.live(20)
    bronze.landed = len(bronze.source.wal)
    bronze.take_snapshot()
    assert_succeeded(side_by_side(run(), "spark", "trino"))
    assert_alike(SUFFIX)

    # Each replaces what the other began.
    bronze.live(30)
    assert_succeeded(side_by_side(run("--full-refresh"), "trino", "spark"))
    assert_alike(SUFFIX)
    assert keeping(MINE, f"silver{SUFFIX}.loans_history")["properties"] == PROPERTIES


CROWD_MODEL = "{{ config(unique_key='_row_hash') }}\n\n{{ current_state('crowd') }}\n"
CROWD_TYPES = {
    "decimal(12, 2)": "numeric(12,2)",
    "string": "text",
    "double": "float8",
    "float": "real",
    "boolean": "bool",
    "date": "date",
    "timestamptz": "timestamptz",
    "timestamp": "timestamp",
    "binary": "bytea",
}


def with_crowd(where: Path) -> Path:
    """A copy of the project that has a table without a key, and its model."""
    copied = copy_project(where / "dbt_project")
    columns = {name: CROWD_TYPES[str(kind)] for name, kind in CROWD.items()}
    declared = {
        "name": "crowd",
        "config": {"meta": {"source_table": "public.crowd", "key": []}},
        "columns": [
            {
                "name": lake_name(name),
                "data_type": kind,
                "config": {"meta": {"source_column": name}},
            }
            for name, kind in columns.items()
        ],
    }
    bronze = copied / "models" / "bronze" / "bronze.yml"
    listed = yaml.safe_load(bronze.read_text())
    listed["sources"][0]["tables"].append(declared)
    bronze.write_text(yaml.safe_dump(listed, sort_keys=False))
    marks = {
        "_row_hash": "text",
        "_copies": "bigint",
        "_commit_lsn": "bigint",
        "_ordinal": "bigint",
    }
    times = {"_committed_at": "timestamptz", "_ingested_at": "timestamptz"}
    contract = marks | {lake_name(name): kind for name, kind in columns.items()} | times
    model = {
        "name": "crowds",
        "data_tests": [{"is_key": {"arguments": {"columns": ["_row_hash"]}}}],
        "columns": [{"name": name, "data_type": kind} for name, kind in contract.items()],
    }
    silver = copied / "models" / "silver"
    (silver / "crowds.sql").write_text(CROWD_MODEL)
    (silver / "crowds.yml").write_text(yaml.safe_dump({"models": [model]}, sort_keys=False))
    return copied


def plain(values: Sequence[object]) -> str:
    """Values as text, the same for equal ones."""
    return repr([v.isoformat() if isinstance(v, datetime) else v for v in values])


def test_a_table_without_a_key_has_each_distinct_row_and_how_often_it_is_there(
    branches: None, dbt: Dbt, tmp_path: Path
) -> None:
    project, crowd = with_crowd(tmp_path), Crowd(random.Random(20261127))
    one = ("run", *VARIABLES, "--select", "crowds")

    def assert_counted(suffix: str = SUFFIX) -> None:
        """Both branches hold what the source does, and the rows that touched it last."""
        found = [rows(on, f"silver{suffix}.crowds", ()) for on in (MINE, YOURS)]
        counted: Counter[str] = Counter()
        for row in found[0].to_pylist():
            values = tuple(row[lake_name(name)] for name in CROWD)
            counted[plain(values)] += row["_copies"]
        assert counted == Counter(map(plain, crowd.rows.elements()))
        assert digest(found[0]) == digest(found[1]), only_in(*found)

    def build(mine: str, yours: str, *options: str) -> None:
        def run(on: str, engine: str) -> Done:
            return dbt(on, engine, *one, *options, project=project)

        share_bronze()
        assert_succeeded(side_by_side(run, mine, yours))
        assert_counted()

    with on_branch(MINE):
        create_bronze({"crowd": {lake_name(name): kind for name, kind in CROWD.items()}})
        append("crowd", crowd.snapshot())
        land([], None)
    build("spark", "trino")
    landed = 0
    for engines in (("spark", "trino"), ("trino", "spark")):
        complete_lsn = crowd.live(12)
        with on_branch(MINE):
            land(crowd.wal[landed:], complete_lsn)
        landed = len(crowd.wal)
        build(*engines)

    # All rows go but one, and the table's last position with them: the next build reads them again.
    crowd.clear_but(1)
    with on_branch(MINE):
        land(crowd.wal[landed:], crowd.lsn)
    landed = len(crowd.wal)
    build("spark", "trino")
    crowd.live(4)
    with on_branch(MINE):
        land(crowd.wal[landed:], crowd.lsn)
    build("spark", "trino")
    build("trino", "spark", "--full-refresh")
    crowd.live(5)  # missed
    with on_branch(MINE):
        append("crowd", crowd.snapshot())
    build("spark", "trino")


def test_a_merge_that_fails_leaves_no_table_that_would_be_published(
    branches: None, dbt: Dbt
) -> None:
    bronze = Bronze()
    bronze.live(20)
    one = ("run", *VARIABLES, "--select", "loans_history")
    assert_succeeded([dbt(MINE, "trino", *one)])
    table = open_catalog(MINE).load_table(f"silver{SUFFIX}.loans_history")
    with table.update_schema() as update:
        update.rename_column("valid_to", "ended_at")
    with table.update_schema() as update:
        update.add_column("valid_to", LongType())
    bronze.live(20)
    failed = dbt(MINE, "trino", *one)
    assert "TYPE_MISMATCH" in failed.stdout
    left = open_catalog(MINE).list_tables(f"silver{SUFFIX}")
    assert left == [(f"silver{SUFFIX}", "loans_history")]


# --- from what was really captured ----------------------------------------------------------------


def test_a_branch_that_spark_goes_on_with_is_equal_to_one_that_trino_builds_anew(
    demo: str, branches: None, dbt: Dbt
) -> None:
    def build(on: str, engine: str) -> Done:
        return dbt(on, engine, "build", *(["--full-refresh"] if on == YOURS else []))

    assert_succeeded(side_by_side(build, "spark", "trino"))
    assert_alike(without=OF_THE_WAY)


# --- macro by macro, and trap by trap -------------------------------------------------------------

TEXTS: dict[str, list[tuple[str | None, Any]]] = {
    "smallint": [("-32768", -32768), (None, None)],
    "integer": [("-2147483648", -(2**31)), (None, None)],
    "bigint": [("9223372036854775807", 2**63 - 1), (None, None)],
    "boolean": [("t", True), ("f", False), (None, None)],
    "real": [("0.5", 0.5), ("Infinity", math.inf), (None, None)],
    "double precision": [("0.1", 0.1), ("-Infinity", -math.inf), ("1e-323", 1e-323), (None, None)],
    "numeric(5,2)": [("-999.99", Decimal("-999.99")), ("NaN", None), ("-Infinity", None)],
    "numeric(38,0)": [("9" * 38, Decimal("9" * 38)), (None, None)],
    "numeric(39,0)": [("9" * 39, "9" * 39)],
    "numeric(2,5)": [("0.00099", "0.00099")],
    "numeric": [("1.50", "1.50"), ("NaN", "NaN")],
    "text": [("é 🙂 ", "é 🙂 "), ("", ""), (None, None)],
    "uuid": [("00000000-0000-0000-0000-000000000001",) * 2, (None, None)],
    "time(3)": [("24:00:00",) * 2],
    "date": [
        ("0001-01-01", date(1, 1, 1)),
        ("9999-12-31", date(9999, 12, 31)),
        ("0044-03-15 BC", None),
        ("12026-01-01", None),
        ("-infinity", None),
        (None, None),
    ],
    "timestamp(3)": [
        ("1969-12-31 23:59:59.999999", datetime(1969, 12, 31, 23, 59, 59, 999_999)),  # noqa: DTZ001
        ("0001-01-01 00:00:00", datetime(1, 1, 1)),  # noqa: DTZ001
        ("0044-03-15 12:00:00 BC", None),
        ("10000-01-01 00:00:00", None),
        ("infinity", None),
        (None, None),
    ],
    "timestamptz": [
        ("9999-12-31 23:59:59.999999+00", datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)),
        ("2026-03-01 01:00:00.1+00", datetime(2026, 3, 1, 1, 0, 0, 100_000, UTC)),
        ("0044-03-15 12:00:00+00 BC", None),
        ("294276-12-31 23:59:59.999999+00", None),
        ("-infinity", None),
        (None, None),
    ],
    "bytea": [("\\x00ff", b"\x00\xff"), ("\\x", b""), (None, None)],
}
"""How Postgres prints a value of a type, and what it is in the lake; null if it can't be held."""

KEYS: dict[str, Any] = {
    "smallint": -32768,
    "bigint": 2**63 - 1,
    "boolean": True,
    "double precision": 0.1,
    "text": "O'Neil \\' \\\\ \t\n🙂",
    "numeric(38,10)": Decimal("-1234567890123456789012345678.0123456789"),
    "date": date(1969, 12, 31),
    "timestamp": datetime(1969, 12, 31, 23, 59, 59, 999_999),  # noqa: DTZ001
    "timestamptz": datetime(2026, 2, 28, 23, 0, 0, 1, UTC),
}
"""A key of each type; as text it is what Python and Spark both write."""


def test_a_text_of_every_type_is_the_same_value_on_both(tmp_path: Path, ask: Ask) -> None:
    cases = [(declared, *case) for declared, listed in TEXTS.items() for case in listed]
    image = {f'a "Name" {i}\'s': text for i, (_, text, _) in enumerate(cases)}
    columns = [
        {"name": f"c{i}", "type": declared, "source_name": name}
        for i, ((declared, *_), name) in enumerate(zip(cases, image, strict=True))
    ]
    query = f"""
        {{%- set columns = {columns} -%}}
        {{%- for c in columns -%}} {{%- do c.update(type=canonical_type(c.type)) -%}} {{%- endfor -%}}
        select
        {{%- for c in columns %}}
            {{{{ value_in('image', c) }}}} as {{{{ c.name }}}}{{{{ ',' if not loop.last }}}}
        {{%- endfor %}}
        from (select {{{{ image_of(text_literal({json.dumps(image)!r})) }}}} as image) as images
    """  # noqa: E501
    for engine in ENGINES:
        (sql,) = compiled(tmp_path, engine, query)
        (found,) = ask(engine, sql)
        assert list(zip(cases, found.values(), strict=True)) == [
            (case, case[2]) for case in cases
        ], engine


def test_a_staged_key_of_every_type_is_found_by_its_literal(tmp_path: Path, ask: Ask) -> None:
    written = (
        (json.dumps(str(value), ensure_ascii=False), declared) for declared, value in KEYS.items()
    )
    literals = (
        f"{{{{ literal({text}, engine_type('{declared}')) }}}} as c{number}"
        for number, (text, declared) in enumerate(written)
    )
    (query,) = compiled(tmp_path, "spark", f"select {', '.join(literals)}")
    (found,) = ask("spark", query)
    assert list(found.values()) == list(KEYS.values())


def answer(ask: Ask, engine: str, query: str) -> str:
    """What an engine answers, as text that is the same for equal values; or that it fails."""
    try:
        ((value, *_),) = (list(row.values()) for row in ask(engine, f"select {query}"))
    except (TrinoUserError, PySparkException):
        return "fails"
    return str(value.normalize() if isinstance(value, Decimal) else value)


def test_each_trap_that_the_docs_tell_is_one_and_has_the_way_out_that_they_tell(
    tmp_path: Path, ask: Ask
) -> None:
    lines = (ROOT / "docs" / "models.md").read_text().splitlines()
    traps = [line.split(" | ") for line in lines if line.startswith("| `")]
    queries = [cell.split("`")[1] for trap in traps for cell in (trap[0], trap[-1])]
    spark_says, trino_says = (
        [answer(ask, engine, query) for query in compiled(tmp_path, engine, *queries)]
        for engine in ENGINES
    )
    answers = list(zip(queries, spark_says, trino_says, strict=True))
    assert [told for told in answers[::2] if told[1] == told[2]] == []
    assert [told for told in answers[1::2] if told[1] != told[2] or told[1] == "fails"] == []
