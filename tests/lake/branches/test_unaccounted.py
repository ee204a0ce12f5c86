"""What a publish takes of a model's table: what was recorded of its pointer, wherever it is."""

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from lake.branches import branch, publish
from lake.catalog import connect, open_catalog
from lake.errors import LakeError
from lake.settings import TRUNK
from tests.lake.branches.conftest import published, put, values
from tests.lake.branches.test_maintain import (  # noqa: F401 - a fixture
    KEPT,
    MUCH_LATER,
    do,
    retention,
)

UPPER = {"table": "silver.a", "lineage": "a1", "fingerprint": "a1", "models": {}, "landed": []}
LOWER = UPPER | {
    "table": "silver.b",
    "lineage": "b1",
    "models": {"silver.a": "a1"},
    "inputs": ["silver.a"],
}
PROJECT = [UPPER, LOWER]


def record(on: str, *made: dict[str, Any], lsn: int = 7) -> None:
    branch.call(
        "builder", "select lake.record_provenance(%s, %s, %s, null)", on, Jsonb([*made]), lsn
    )


def recorded(on: str = TRUNK) -> dict[str, int]:
    """By table of a branch whose pointer has a record: up to where it has the changes."""
    with connect("reader") as connection:
        found = connection.execute(
            "select p.table_name, p.lsn from iceberg_tables as t inner join lake.provenance as p"
            " on p.pointer = lake.origin(t.metadata_location) where t.catalog_name = %s",
            [on],
        ).fetchall()
    return dict(found)


@pytest.fixture
def built(own_lake: str) -> str:
    """A branch on which two models were built, the one on the other."""
    branch.create("mine")
    put("mine", a=[1], b=[2])
    record("mine", *PROJECT)
    return "mine"


def test_what_was_recorded_is_published_and_goes_along(built: str) -> None:
    assert publish.publish(built, None, PROJECT)
    assert recorded() == {"a": 7, "b": 7}
    branch.create("other")
    assert recorded("other") == {"a": 7, "b": 7}
    branch.take("other", ["silver.a", "silver.b"])
    assert recorded("other") == {"a": 7, "b": 7}, "it is the same table"
    assert publish.unaccounted("other", PROJECT) == []
    put("other", a=[5], b=[6])
    assert recorded("other") == {}
    record("other", *PROJECT, lsn=9)
    newest = publish.publish("other", None, PROJECT)
    assert newest
    assert recorded() == {"a": 9, "b": 9}
    publish.rollback(newest - 1)
    assert recorded() == {"a": 7, "b": 7}


@pytest.mark.parametrize(
    ("project", "said"),
    [
        ([UPPER, LOWER | {"lineage": "b2"}], "silver.b was built of other code"),
        ([UPPER | {"lineage": "a2"}, LOWER], "silver.a was built of other code"),
        ([LOWER], None),
        ([], None),
    ],
)
def test_what_was_built_of_other_code_is_refused(
    built: str, project: list[dict[str, Any]], said: str | None
) -> None:
    if said is None:
        assert publish.publish(built, None, project), "no model declares it"
        return
    with pytest.raises(LakeError, match=said):
        publish.publish(built, None, project)
    assert values() == {}
    assert values(built) == {"a": [1], "b": [2]}


@pytest.mark.parametrize("table", ["a", "b"])
def test_what_was_written_by_hand_since_is_refused(built: str, table: str) -> None:
    put(built, **{table: [99]})
    assert f"silver.{table} has no record" in publish.unaccounted(built, PROJECT)[0]
    with pytest.raises(LakeError, match=f"silver.{table} has no record of a build"):
        publish.publish(built, None, PROJECT)
    assert values() == {}


def test_what_was_built_of_rows_that_have_been_replaced_is_refused(built: str) -> None:
    put(built, a=[3])
    record(built, UPPER)
    said = "silver.b was built of other rows than the branch has now in silver.a: nothing was publ"
    with pytest.raises(LakeError, match=said):
        publish.publish(built, None, PROJECT)
    record(built, LOWER)
    assert publish.publish(built, None, PROJECT)


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        ([UPPER], "silver.b was built of other rows than the branch has now in silver.a: nothing"),
        ([UPPER | {"lineage": "a2"}], "silver.b was built of other code than the project has now"),
    ],
)
def test_what_the_branch_left_alone_and_no_longer_agrees_is_refused(
    built: str, moved: list[dict[str, Any]], said: str
) -> None:
    """The branch moves `a`, of which `b` is made: readers would see two that do not agree."""
    publish.publish(built, None, PROJECT)
    branch.create("other")
    put("other", a=[3])
    record("other", *moved)
    (upper,) = moved
    lower = LOWER | {"lineage": f"b-{upper['lineage']}", "models": {"silver.a": upper["lineage"]}}
    project = [upper, lower if upper != UPPER else LOWER]
    with pytest.raises(LakeError, match=said):
        publish.publish("other", None, project)
    assert values() == {"a": [1], "b": [2]}
    put("other", b=[4])
    record("other", *project)
    assert publish.publish("other", None, project)


def test_a_model_s_table_that_was_dropped_by_hand_is_refused(built: str) -> None:
    publish.publish(built, None, PROJECT)
    branch.create("other")
    open_catalog("other").drop_table("silver.b")
    with pytest.raises(LakeError, match=r"silver\.b is not there: nothing was published"):
        publish.publish("other", None, PROJECT)
    assert publish.publish("other", None, [UPPER]), "no model declares it any more"
    assert values() == {"a": [1]}


def test_no_view_can_be_made(own_lake: str) -> None:
    branch.create("mine")
    with connect("builder") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(
            "insert into iceberg_tables values ('mine', 'gold', 'v', 's3://lake/v', null, 'VIEW')"
        )


def test_what_is_built_on_something_unknown_is_recorded_as_little(own_lake: str) -> None:
    branch.create("mine")
    put("mine", a=[1], b=[2])
    record("mine", LOWER)
    assert recorded("mine") == {}
    record("mine", UPPER | {"lineage": "a2"}, LOWER)
    assert recorded("mine") == {"a": 7}


def test_a_compaction_has_the_record_of_what_it_compacted(retention: None) -> None:  # noqa: F811
    published(a=[0])
    branch.create("mine")
    row = open_catalog(TRUNK).load_table("silver.a").scan().to_arrow()
    branch.take("mine", ["silver.a"])
    for _ in range(6):
        open_catalog("mine").load_table("silver.a").append(row)
    put("mine", b=[2])
    record("mine", *PROJECT)
    publish.publish("mine", None, PROJECT)
    before = open_catalog(TRUNK).load_table("silver.a").metadata_location
    assert "silver.a" in do().tended.compacted
    assert open_catalog(TRUNK).load_table("silver.a").metadata_location != before
    assert recorded() == {"a": 7, "b": 7}
    branch.create("later")
    put("later", b=[5])
    record("later", LOWER)
    assert publish.publish("later", None, PROJECT), "it was built of the rows that `a` has"
    do(MUCH_LATER)
    assert recorded() == {"a": 7, "b": 7}
    for number in range(KEPT + 1):
        published(a=[number], b=[number])
    do(MUCH_LATER)
    with connect("reader") as connection:
        assert connection.execute("select from lake.provenance").fetchall() == []
        left = connection.execute("select pointer from lake.origins").fetchall()
    held = open_catalog(TRUNK)
    assert {at for (at,) in left} <= {
        held.load_table(f"silver.{name}").metadata_location for name in ("a", "b")
    }


def test_only_a_branch_s_own_tables_are_recorded(built: str) -> None:
    for ref in (TRUNK, "nobody"):
        with pytest.raises(LakeError, match="there is no branch"):
            record(ref, UPPER)
