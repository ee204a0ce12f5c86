"""A table's shapes are landed as they come about; changes of one that is not declared wait."""

import json

import psycopg

from lake.catalog import catalog
from lake.manifest import SourceTable
from lake.shapes import waits
from tests.ingestion.conftest import declared
from tests.streaming.conftest import THING, Capture, another, catch_up, changes, hand_over


def test_each_shape_of_a_table_is_landed_with_the_first_change_that_has_it(
    thing: psycopg.Connection, running: Capture
) -> None:
    running.start()
    thing.execute("update thing set name = 'a' where id = 1")
    with another(thing) as one:
        one.execute("update thing set name = 'b' where id = 1")
        one.execute("alter table thing add column extra numeric(12, 2) default 7")
        one.execute("update thing set extra = 8 where id = 1")
    catch_up()
    running.kill()
    thing.execute("alter table thing rename column extra to more")
    thing.execute("alter table thing drop column big")
    thing.execute("update thing set more = 9 where id = 1")
    running.start()
    catch_up()
    shapes = catalog().load_table("bronze.schema_changes").scan().to_arrow().to_pylist()
    shapes.sort(key=lambda row: (row["commit_lsn"], row["ordinal"]))
    landed = changes("public.thing")
    assert [[one["name"] for one in json.loads(row["columns"])] for row in shapes] == [
        ["id", "name", "big"],
        ["id", "name", "big", "extra"],
        ["id", "name", "more"],
    ]
    assert json.loads(shapes[1]["columns"])[3]["type"] == "numeric(12,2)"
    first = [landed[0], landed[2], landed[3]]
    at = ("commit_lsn", "ordinal")
    assert [[row[c] for c in at] for row in shapes] == [[row[c] for c in at] for row in first]
    assert [row["after"].get("extra") for row in landed] == [None, None, "8.00", None]
    assert landed[3]["after"]["more"] == "9.00"


def test_changes_without_a_declared_column_wait_until_the_table_is_taken_anew(
    thing: psycopg.Connection, running: Capture
) -> None:
    def taken_anew(table: SourceTable) -> bool:
        loaded = hand_over(table)
        assert loaded
        assert loaded.suspended == ()
        return loaded.rows == {"public.thing": 100}

    running.start()
    with another(thing) as one:
        one.execute("alter table thing rename column big to large")
        one.execute("update thing set large = 'a' where id = 1")
    catch_up()
    assert "without the column big" in waits([THING])["public.thing"].why
    renamed = declared("thing", ("id",), id="int", large="text")
    assert waits([renamed]) == {}
    assert taken_anew(renamed)

    thing.execute("alter table thing add column late text")
    wider = declared("thing", ("id",), id="int", large="text", late="text")
    assert taken_anew(wider)
    assert waits([wider]) == {}, "no change has come in any shape"
    assert not taken_anew(wider)
    thing.execute("update thing set late = 'b' where id = 1")
    catch_up()
    assert waits([wider]) == {}

    thing.execute("alter table thing rename column late to later")
    thing.execute("update thing set later = 'c' where id = 1")
    thing.execute("alter table thing rename column later to late")
    thing.execute("update thing set late = 'd' where id = 2")
    catch_up()
    assert "without the column late" in waits([wider])["public.thing"].why, "it was taken back"
    assert taken_anew(wider)
    assert waits([wider]) == {}
