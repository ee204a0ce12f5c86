"""What `diff` says of a branch, on real tables, against what was done to them."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.io import pyarrow as reading
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import IntegerType, LongType, StringType
from rich.console import Console

from lake.branches import branch, publish
from lake.branches.diff import ChangedRow, Diff, Rows, SchemaChange, TableDiff, diff, keys, render
from lake.catalog import access, for_spark, open_catalog
from lake.errors import LakeError
from quality.frames import spark
from tests.conftest import end_spark_session

LOANS = {"silver.loans": ("id",)}
SCHEMA = pa.schema(
    [("id", pa.int64()), ("amount", pa.int64()), ("name", pa.string()), ("_commit_lsn", pa.int64())]
)


def loans(*ids: int, amount: int = 100, lsn: int = 1) -> pa.Table:
    rows = [{"id": i, "amount": amount, "name": f"loan {i}", "_commit_lsn": lsn} for i in ids]
    return pa.Table.from_pylist(rows, SCHEMA)


MERGE_ON_READ = {
    "format-version": "2",
    "write.delete.mode": "merge-on-read",
    "write.update.mode": "merge-on-read",
    "write.merge.mode": "merge-on-read",
}


def publish_table(name: str, *files: pa.Table, **properties: str) -> None:
    """Have a table on `lake`, with a data file for each of `files`."""
    branch.create("landing")
    table = open_catalog("landing").create_table(name, files[0].schema, properties=properties)
    for rows in files:
        table.append(rows)
    publish.publish("landing")


def open_on(name: str, table: str = "silver.loans") -> Table:
    if access(name).is_writable:
        branch.take(name, [table])
    return open_catalog(name).load_table(table)


def only(found: Diff) -> TableDiff:
    """The one table of a diff."""
    (table,) = found.tables
    return table


def rows_of(found: Diff) -> Rows:
    rows = only(found).rows
    assert rows
    return rows


@pytest.fixture
def lent(own_lake: str) -> str:
    """Loans 1 to 4 on `lake` in two data files, and a branch of it; yields the branch."""
    publish_table("silver.loans", loans(1, 2), loans(3, 4))
    branch.create("mine")
    return "mine"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data files that were read since the test began, a file for each time."""
    paths = []
    read = reading._task_to_record_batches

    def spy(io: Any, task: Any, *arguments: Any) -> Any:
        paths.append(task.file.file_path)
        return read(io, task, *arguments)

    monkeypatch.setattr(reading, "_task_to_record_batches", spy)
    return paths


@pytest.fixture
def sql(own_lake: str) -> Iterator[Callable[[str, str], None]]:
    """Runs a statement on a branch by Spark; `loans` in it is `silver.loans` of that branch."""
    end_spark_session()

    def run(on: str, statement: str) -> None:
        branch.take(on, ["silver.loans"])
        for name, value in for_spark(access(on)).items():
            spark().conf.set(name, value)
        spark().sql(statement.replace("loans", f"{on}.silver.loans"))

    yield run
    end_spark_session()


def test_a_branch_that_changed_nothing_differs_in_nothing(lent: str) -> None:
    assert diff(lent, keys=LOANS) == Diff(lent, None, ())


def test_tables_that_were_added_dropped_and_changed_are_told_by_name_with_their_rows(
    lent: str, opened: list[str]
) -> None:
    open_catalog(lent).create_table("silver.new", SCHEMA).append(loans(1, 2, 3))
    open_catalog(lent).create_table("silver.empty", SCHEMA)
    open_on(lent).append(loans(5))
    publish.publish(lent)
    branch.create("next")
    open_catalog("next").drop_table("silver.loans")
    open_on("next", "silver.new").append(loans(4))
    found = diff("next", keys={})
    assert [(t.name, t.change) for t in found.tables] == [
        ("silver.loans", "dropped"),
        ("silver.new", "changed"),
    ]
    assert found.tables[0].rows == Rows(removed=5)
    backwards = diff("lake", "next", keys={})
    assert [(t.name, t.change) for t in backwards.tables] == [
        ("silver.loans", "added"),
        ("silver.new", "changed"),
    ]
    assert backwards.tables[0].rows == Rows(added=5)
    assert len(opened) == 2, "the file that was appended, once for each diff"


def test_a_branch_is_compared_with_what_it_began_with_unless_told_otherwise(lent: str) -> None:
    open_on(lent).append(loans(5))
    branch.tag("before")
    branch.create("other")
    open_on("other").append(loans(6))
    publish.publish("other")
    assert [row["id"] for row in rows_of(diff(lent, keys=LOANS)).added_samples] == [5]
    for ref, removed in (("lake", [6]), ("before", [])):
        rows = rows_of(diff(lent, ref, keys=LOANS))
        assert [row["id"] for row in rows.added_samples] == [5]
        assert [row["id"] for row in rows.removed_samples] == removed


def test_a_ref_that_is_not_there_is_an_error(lent: str) -> None:
    for name, other in (("nobody", None), (lent, "nobody"), ("nobody", lent)):
        with pytest.raises(LakeError, match="there is no branch `nobody`"):
            diff(name, other, keys=LOANS)


def test_what_is_no_branch_began_with_nothing_to_compare_it_with(lent: str) -> None:
    branch.tag("frozen")
    for name in ("lake", "frozen"):
        with pytest.raises(LakeError, match=f"^`{name}` is no branch .* what to compare it with$"):
            diff(name, keys=LOANS)
    assert diff("frozen", "lake", keys=LOANS).tables == ()


def test_what_was_appended_is_all_that_is_read(lent: str, opened: list[str]) -> None:
    open_on(lent).append(loans(5, 6))
    (file,) = [t.file.file_path for t in open_on(lent).scan("id = 5").plan_files()]
    found = only(diff(lent, keys=LOANS))
    assert found.rows == Rows(added=2, added_samples=tuple(loans(5, 6).to_pylist()))
    assert found.key == ("id",)
    assert found.files_read == 1
    assert opened == [file]


def test_changed_and_deleted_rows_are_told_by_their_key_with_old_and_new_values(lent: str) -> None:
    table = open_on(lent)
    table.upsert(loans(1, 5, amount=101), join_cols=["id"])
    table.delete("id = 4")
    assert rows_of(diff(lent, keys=LOANS)) == Rows(
        added=1,
        removed=1,
        changed=1,
        by_column={"amount": 1},
        added_samples=tuple(loans(5, amount=101).to_pylist()),
        removed_samples=tuple(loans(4).to_pylist()),
        changed_samples=(ChangedRow({"id": 1}, {"amount": (100, 101)}),),
    )


def test_there_are_as_many_samples_of_each_sort_as_asked_for(lent: str) -> None:
    open_on(lent).overwrite(pa.concat_tables([loans(3, 4, amount=1), loans(*range(9, 5, -1))]))
    rows = rows_of(diff(lent, samples=1, keys=LOANS))
    assert (rows.added, rows.removed, rows.changed) == (4, 2, 2)
    assert [row["id"] for row in rows.added_samples] == [6]
    assert [row["id"] for row in rows.removed_samples] == [1]
    assert [row.key for row in rows.changed_samples] == [{"id": 3}]


def test_a_table_whose_properties_alone_changed_is_not_read(lent: str, opened: list[str]) -> None:
    with open_on(lent).transaction() as change:
        change.set_properties(note="new")
    assert only(diff(lent, keys=LOANS)) == TableDiff(
        "silver.loans", "changed", key=("id",), rows=Rows()
    )
    assert not opened


def test_a_table_that_was_compacted_has_the_same_rows(lent: str) -> None:
    table = open_on(lent)
    table.overwrite(table.scan().to_arrow())
    found = only(diff(lent, keys=LOANS))
    assert found.rows == Rows()
    assert found.files_read == 3


def test_a_row_whose_bookkeeping_alone_differs_is_counted_apart(lent: str) -> None:
    changed = pa.concat_tables([loans(1, lsn=2), loans(2, amount=7, lsn=2), loans(3), loans(4)])
    open_on(lent).overwrite(changed)
    assert rows_of(diff(lent, keys=LOANS)) == Rows(
        changed=1,
        only_bookkeeping=1,
        by_column={"amount": 1, "_commit_lsn": 2},
        changed_samples=(ChangedRow({"id": 2}, {"amount": (100, 7), "_commit_lsn": (1, 2)}),),
    )
    whole = rows_of(diff(lent, keys={}))
    assert (whole.added, whole.removed, whole.changed, whole.only_bookkeeping) == (1, 1, 0, 1)


def test_rows_without_a_key_are_compared_whole_as_often_as_they_occur(lent: str) -> None:
    open_on(lent).overwrite(pa.concat_tables([loans(1, 1, 1, 3), loans(4, amount=7)]))
    assert rows_of(diff(lent, keys={})) == Rows(
        added=3,
        removed=2,
        added_samples=(*loans(1, 1).to_pylist(), *loans(4, amount=7).to_pylist()),
        removed_samples=tuple(loans(2, 4).to_pylist()),
    )


def test_rows_that_share_a_key_are_paired_one_to_one(own_lake: str) -> None:
    publish_table("silver.loans", pa.concat_tables([loans(1, amount=n) for n in (1, 2, 3)]))
    branch.create("mine")
    open_on("mine").overwrite(pa.concat_tables([loans(1, amount=n) for n in (3, 4, 5, 6, 6)]))
    rows = rows_of(diff("mine", keys=LOANS))
    assert (rows.added, rows.removed, rows.changed) == (2, 0, 2)
    assert [row.columns["amount"] for row in rows.changed_samples] == [(1, 4), (2, 5)]
    assert [row["amount"] for row in rows.added_samples] == [6, 6]


def test_a_key_of_several_columns_may_hold_nulls(own_lake: str) -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.string()), ("v", pa.int64())])

    def rows(*values: tuple[Any, ...]) -> pa.Table:
        return pa.Table.from_pylist([dict(zip("abv", v, strict=True)) for v in values], schema)

    publish_table("silver.x", rows((1, None, 1), (1, "x", 1), (None, None, 1)))
    branch.create("mine")
    open_on("mine", "silver.x").overwrite(rows((1, None, 2), (1, "x", 1), (None, None, 3)))
    found = rows_of(diff("mine", keys={"silver.x": ("a", "b")}))
    assert found == Rows(
        changed=2,
        by_column={"v": 2},
        changed_samples=(
            ChangedRow({"a": 1, "b": None}, {"v": (1, 2)}),
            ChangedRow({"a": None, "b": None}, {"v": (1, 3)}),
        ),
    )


NAN = float("nan")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON.replace(microsecond=1)
NAIVE = (NOON.replace(tzinfo=None), LATER.replace(tzinfo=None))
VALUES = [
    (pa.int64(), None, 1, 1),
    (pa.float64(), NAN, 1.5, 1.5),
    (pa.float64(), None, NAN, "nan"),
    (pa.float32(), 0.1, 0.2, pytest.approx(0.2)),
    (pa.decimal128(12, 2), Decimal("1.10"), Decimal("1.11"), "1.11"),
    (pa.decimal128(38, 10), Decimal("1.1"), None, None),
    (pa.timestamp("us", "UTC"), NOON, LATER, "2026-01-01T12:00:00.000001+00:00"),
    (pa.timestamp("us"), *NAIVE, "2026-01-01T12:00:00.000001"),
    (pa.date32(), date(2026, 1, 1), date(2026, 1, 2), "2026-01-02"),
    (pa.string(), "", None, None),
    (pa.bool_(), False, None, None),
    (pa.binary(), b"\x00", b"\x01", "01"),
    (pa.list_(pa.float64()), [NAN, None], [NAN, 1.0], ["nan", 1.0]),
    (pa.struct([("x", pa.int64())]), {"x": None}, {"x": 1}, {"x": 1}),
    (pa.map_(pa.string(), pa.int64()), [("a", 1)], [("a", 2)], {"a": 2}),
]  # fmt: skip


def test_values_of_every_type_are_equal_to_themselves_and_differ_from_others(own_lake: str) -> None:
    schema = pa.schema([("id", pa.int64())] + [(f"v{i}", v[0]) for i, v in enumerate(VALUES)])

    def rows(*sides: int) -> pa.Table:
        found = [
            {"id": i} | {f"v{n}": value[side] for n, value in enumerate(VALUES)}
            for i, side in enumerate(sides)
        ]
        return pa.Table.from_pylist(found, schema)

    publish_table("silver.x", rows(1, 2, 1))
    branch.create("mine")
    open_on("mine", "silver.x").overwrite(rows(1, 2, 2))
    found = diff("mine", keys={"silver.x": ("id",)})
    rows_found = rows_of(found)
    assert rows_found.by_column == {f"v{i}": 1 for i in range(len(VALUES))}
    (changed,) = rows_found.changed_samples
    assert changed.key == {"id": 2}
    assert {name: new for name, (_, new) in changed.columns.items()} == {
        f"v{i}": value[3] for i, value in enumerate(VALUES)
    }
    assert rows_of(diff("mine", keys={})).changed == 0
    assert (
        json.loads(json.dumps(asdict(found), allow_nan=False))["tables"][0]["change"] == "changed"
    )


def test_columns_added_dropped_renamed_and_widened_are_told_and_rows_are_not_read_for_it(
    own_lake: str, opened: list[str]
) -> None:
    narrow = pa.schema(
        [("id", pa.int64()), ("n", pa.int32()), ("old", pa.string()), ("gone", pa.string())]
    )
    publish_table("silver.x", pa.table([[1, 2], [10, 20], ["a", "b"], ["c", "d"]], schema=narrow))
    branch.create("mine")
    with open_on("mine", "silver.x").update_schema(allow_incompatible_changes=True) as change:
        change.rename_column("old", "new").update_column("n", LongType())
        change.add_column("more", StringType()).delete_column("gone")
    found = only(diff("mine", keys={"silver.x": ("id",)}))
    assert found.schema == (
        SchemaChange("added", "more", None, "string"),
        SchemaChange("dropped", "gone", "string", None),
        SchemaChange("type", "n", "int", "long"),
        SchemaChange("renamed", "new", "old", "new"),
    )
    assert found.rows == Rows()
    assert not opened
    table = open_on("mine", "silver.x")
    table.append(
        pa.Table.from_pylist([{"id": 3, "n": 2**40, "new": "e"}], table.schema().as_arrow())
    )
    table.upsert(
        pa.Table.from_pylist(
            [{"id": 1, "n": 10, "new": "A", "more": "m"}], table.schema().as_arrow()
        ),
        join_cols=["id"],
    )
    assert rows_of(diff("mine", keys={"silver.x": ("id",)})) == Rows(
        added=1,
        changed=1,
        by_column={"new": 1},
        added_samples=({"id": 3, "n": 2**40, "new": "e"},),
        changed_samples=(ChangedRow({"id": 1}, {"new": ("a", "A")}),),
    )


def test_a_column_made_anew_under_its_old_name_is_compared_by_that_name(lent: str) -> None:
    with open_on(lent).update_schema(allow_incompatible_changes=True) as change:
        change.delete_column("amount")
    with open_on(lent).update_schema() as change:
        change.add_column("amount", LongType())
    found = only(diff(lent, keys=LOANS))
    assert found.schema == ()
    assert found.rows
    assert found.rows.by_column == {"amount": 4}, "no file holds it"


def test_columns_that_two_branches_added_are_not_taken_for_one(lent: str) -> None:
    branch.create("other")
    for name, column in ((lent, "colour"), ("other", "size")):
        with open_on(name).update_schema() as change:
            change.add_column(column, StringType())
    found = only(diff(lent, "other", keys=LOANS))
    assert found.schema == (
        SchemaChange("added", "colour", None, "string"),
        SchemaChange("dropped", "size", "string", None),
    )
    assert found.rows == Rows()


def test_a_field_of_a_struct_that_was_added_changes_no_row(own_lake: str) -> None:
    schema = pa.schema([("id", pa.int64()), ("place", pa.struct([("town", pa.string())]))])
    rows: list[dict[str, Any]] = [{"id": i, "place": {"town": "Ulm"}} for i in (1, 2)]
    publish_table("silver.x", pa.Table.from_pylist(rows, schema))
    branch.create("mine")
    with open_on("mine", "silver.x").update_schema() as change:
        change.add_column(("place", "zip"), IntegerType())
    table = open_on("mine", "silver.x")
    changed = {"id": 2, "place": {"town": "Ulm", "zip": 89073}}
    table.overwrite(pa.Table.from_pylist([rows[0], changed], table.schema().as_arrow()))
    found = only(diff("mine", keys={"silver.x": ("id",)}))
    assert found.schema == (
        SchemaChange("type", "place", "struct<town: string>", "struct<town: string, zip: int>"),
    )
    assert found.rows
    assert [row.key for row in found.rows.changed_samples] == [{"id": 2}]


def test_partitioning_and_order_that_changed_are_told(lent: str, opened: list[str]) -> None:
    with open_on(lent).update_spec() as spec:
        spec.add_identity("name")
    with open_on(lent).update_sort_order() as order:
        order.asc("id", IdentityTransform())
    found = only(diff(lent, keys=LOANS))
    assert found.schema == (
        SchemaChange("partitioning", None, "", "identity(name)"),
        SchemaChange("order", None, "", "identity(id) asc"),
    )
    assert not opened


def test_a_replaced_table_is_compared_by_the_names_of_its_columns(lent: str) -> None:
    open_catalog(lent).drop_table("silver.loans")
    other = pa.schema([("name", pa.string()), ("id", pa.int64()), ("amount", pa.decimal128(9, 2))])
    rows = [{"id": 1, "name": "loan 1", "amount": Decimal(100)}, {"id": 2, "name": "new"}]
    open_catalog(lent).create_table("silver.loans", other).append(pa.Table.from_pylist(rows, other))
    found = only(diff(lent, keys=LOANS))
    assert found.change == "changed"
    assert found.is_replaced
    assert found.schema == (
        SchemaChange("dropped", "_commit_lsn", "long", None),
        SchemaChange("type", "amount", "long", "decimal(9, 2)"),
    )
    assert found.rows
    assert (found.rows.added, found.rows.removed) == (0, 2)
    assert found.rows.changed_samples == (
        ChangedRow({"id": 2}, {"name": ("loan 2", "new"), "amount": ("100.00", None)}),
    )


def test_a_replaced_table_may_have_other_types_and_no_column_in_common(lent: str) -> None:
    catalog = open_catalog(lent)
    catalog.create_table("silver.day", pa.schema([("id", pa.int64()), ("at", pa.int64())])).append(
        pa.table({"id": [1], "at": [5]})
    )
    publish.publish(lent)
    branch.create("next")
    catalog = open_catalog("next")
    for name in ("silver.day", "silver.loans"):
        catalog.drop_table(name)
    at = pa.table({"id": [1], "at": pa.array([date(2026, 1, 1)])})
    catalog.create_table("silver.day", at.schema).append(at)
    other = pa.table({"other": [1]})
    catalog.create_table("silver.loans", other.schema).append(other)
    day, replaced = diff("next", keys=LOANS | {"silver.day": ("id",)}).tables
    assert day.rows
    assert day.rows.changed_samples == (ChangedRow({"id": 1}, {"at": ("5", "2026-01-01")}),)
    assert replaced.rows == Rows(added=1, removed=4)
    assert replaced.key == ()


def test_rows_under_equality_deletes_are_said_not_to_be_known(lent: str) -> None:
    with open_on(lent).transaction() as change, change.update_snapshot().fast_append() as append:
        append.append_data_file(
            DataFile.from_args(
                content=DataFileContent.EQUALITY_DELETES,
                file_path="s3://nowhere/deletes.parquet",
                file_format=FileFormat.PARQUET,
                partition=Record(),
                record_count=1,
                file_size_in_bytes=1,
                equality_ids=[1],
            )
        )
    found = diff(lent, keys=LOANS)
    assert only(found).rows is None
    assert "equality deletes" in printed(found)


@pytest.mark.parametrize("granularity", ["file", "partition"])
def test_rows_that_spark_deleted_in_place_are_found_in_the_files_that_the_deletes_touch(
    sql: Callable[[str, str], None], opened: list[str], granularity: str
) -> None:
    properties = MERGE_ON_READ | {"write.delete.granularity": granularity}
    publish_table("silver.loans", loans(1, 2), loans(3, 4), loans(5, 6), **properties)
    branch.create("first")
    sql("first", "delete from loans where id = 6")
    publish.publish("first")
    branch.create("mine")
    open_on("mine").append(loans(7))
    found = only(diff("mine", keys=LOANS))
    assert found.rows == Rows(added=1, added_samples=tuple(loans(7).to_pylist()))
    assert len(opened) == found.files_read == 1, "the delete of 6 is on both sides"
    publish.publish("mine")
    branch.create("next")
    sql("next", "delete from loans where id = 3")
    touched = {task.file.file_path for task in open_on("next").scan("id = 4").plan_files()}
    opened.clear()
    found = only(diff("next", keys=LOANS))
    assert found.rows == Rows(removed=1, removed_samples=tuple(loans(3).to_pylist()))
    if granularity == "file":
        assert set(opened) == touched
        assert found.files_read == 1
    sql("next", "update loans set amount = 7 where id in (1, 5)")
    rows = rows_of(diff("next", keys=LOANS))
    assert (rows.added, rows.removed, rows.changed) == (0, 1, 2)
    assert [row.key["id"] for row in rows.changed_samples] == [1, 5]


def expected(before: dict[int, Any], after: dict[int, Any]) -> Rows:
    """What differs between loans by their id."""
    both = before.keys() & after.keys()
    differ = {
        i: {c: (before[i][c], after[i][c]) for c in SCHEMA.names if before[i][c] != after[i][c]}
        for i in sorted(both)
        if before[i] != after[i]
    }
    changed = {i: values for i, values in differ.items() if values.keys() != {"_commit_lsn"}}
    counts = {c: sum(c in values for values in differ.values()) for c in SCHEMA.names}
    added, removed = sorted(after.keys() - both), sorted(before.keys() - both)
    return Rows(
        added=len(added),
        removed=len(removed),
        changed=len(changed),
        only_bookkeeping=len(differ) - len(changed),
        by_column={column: count for column, count in counts.items() if count},
        added_samples=tuple(after[i] for i in added),
        removed_samples=tuple(before[i] for i in removed),
        changed_samples=tuple(ChangedRow({"id": i}, values) for i, values in changed.items()),
    )


def by_id(table: Table) -> dict[int, Any]:
    rows = table.scan().to_arrow().to_pylist()
    assert len(rows) == len({row["id"] for row in rows})
    return {row["id"]: row for row in rows}


@pytest.mark.parametrize("seed", range(3))
def test_any_changes_are_told_as_a_comparison_of_all_rows_would(own_lake: str, seed: int) -> None:
    drawn = random.Random(seed)
    publish_table("silver.loans", *(loans(*range(n, n + 10)) for n in range(0, 40, 10)))
    branch.create("mine")
    table = open_on("mine")
    before = by_id(table)
    for _ in range(6):
        chosen = drawn.sample(range(50), drawn.randint(1, 5))
        match drawn.choice(["upsert", "upsert", "delete", "compact"]):
            case "upsert":
                amount, lsn = drawn.choice([100, 101, 102]), drawn.choice([1, 2])
                table.upsert(loans(*chosen, amount=amount, lsn=lsn), join_cols=["id"])
            case "delete":
                table.delete(f"id in ({', '.join(map(str, chosen))})")
            case "compact":
                table.overwrite(table.scan().to_arrow())
        assert rows_of(diff("mine", samples=99, keys=LOANS)) == expected(before, by_id(table))


@pytest.mark.parametrize("granularity", ["file", "partition"])
def test_any_changes_in_place_are_told_as_a_comparison_of_all_rows_would(
    sql: Callable[[str, str], None], granularity: str
) -> None:
    drawn = random.Random(granularity)
    files = (loans(*range(n, n + 10)) for n in range(0, 40, 10))
    properties = MERGE_ON_READ | {"write.delete.granularity": granularity}
    publish_table("silver.loans", *files, **properties)
    branch.create("first")
    sql("first", "delete from loans where id % 10 = 0")
    publish.publish("first")
    branch.create("mine")
    before = by_id(open_on("mine"))
    for new in range(40, 46):
        chosen = ", ".join(map(str, drawn.sample(range(new), 4)))
        match drawn.choice(["update", "delete", "append", "rewrite"]):
            case "update":
                amount, lsn = drawn.choice([100, 101]), drawn.choice([1, 2])
                sql(
                    "mine",
                    f"update loans set amount = {amount}, _commit_lsn = {lsn}"
                    f" where id in ({chosen})",
                )
            case "delete":
                sql("mine", f"delete from loans where id in ({chosen})")
            case "append":
                open_on("mine").append(loans(new))
            case "rewrite":
                open_on("mine").delete(f"id in ({chosen})")
        found = rows_of(diff("mine", samples=99, keys=LOANS))
        assert found == expected(before, by_id(open_on("mine")))


def test_the_keys_are_those_that_dbt_knows_its_models_by() -> None:
    known = keys()
    assert known["silver.loans"] == ("loan_id",)
    assert known["silver.loan_payments"] == ("loan_id", "installment")


def printed(found: Diff) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render(found))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def test_a_diff_is_shown_as_counts_by_table_then_what_changed_in_each(lent: str) -> None:
    assert printed(diff(lent, keys=LOANS)) == "nothing changed"
    open_catalog(lent).create_table("silver.fees", SCHEMA).append(loans(1))
    with open_on(lent).update_schema() as change:
        change.add_column("note", StringType())
    table = open_on(lent)
    table.overwrite(
        pa.concat_tables([loans(1), loans(2, amount=7, lsn=2), loans(4, lsn=2), loans(5)])
    )
    assert printed(diff(lent, keys=LOANS)).splitlines() == [
        "TABLE         CHANGE   ADDED  REMOVED  CHANGED  BOOKKEEPING  FILES READ",
        "silver.fees   added        1        0        0            0           0",
        "silver.loans  changed      1        1        1            1           3",
        "",
        "silver.loans",
        "  column note added: string",
        "  rows differ in amount 1, _commit_lsn 2",
        "  + id=5, amount=100, name=loan 5, _commit_lsn=1",
        "  - id=3, amount=100, name=loan 3, _commit_lsn=1",
        "  ~ id=2: amount 100 → 7",
    ]
