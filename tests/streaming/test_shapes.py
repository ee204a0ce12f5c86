"""A table's shapes are landed as they come about, over kills of capture."""

import json

import psycopg

from lake.catalog import catalog
from tests.streaming.conftest import Capture, another, catch_up, changes


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
