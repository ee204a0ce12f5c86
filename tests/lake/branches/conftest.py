"""Small tables on a lake of the test's own, and how tests change them on a branch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from lake.branches import branch, publish
from lake.catalog import open_catalog
from lake.settings import TRUNK
from lake.stack import spark

Put = Callable[..., None]
Values = dict[str, list[int]]
Spark = Callable[[str], list[Any]]


def put(on: str, **tables: list[int]) -> None:
    """Have tables of `silver`, made if missing, hold these values on a branch."""
    opened = open_catalog(on)
    for name, values in tables.items():
        rows = pa.table({"value": pa.array(values, pa.int64())})
        if opened.table_exists(f"silver.{name}"):
            branch.take(on, [f"silver.{name}"])
            opened.load_table(f"silver.{name}").overwrite(rows)
        else:
            opened.create_table(f"silver.{name}", rows.schema).append(rows)


def values(on: str = TRUNK) -> Values:
    """What the tables of `silver` hold on a branch, in order."""
    opened = open_catalog(on)
    return {
        name: sorted(opened.load_table((layer, name)).scan().to_arrow()["value"].to_pylist())
        for layer, name in opened.list_tables("silver")
    }


def published(**tables: list[int]) -> int:
    """Publish these values; returns the publish's id."""
    branch.create("landing")
    put("landing", **tables)
    made = publish.publish("landing")
    assert made is not None
    return made


@contextmanager
def spark_session(configured: dict[str, str]) -> Iterator[Spark]:
    """A Spark session with these settings, as what answers statements."""
    session = spark.session(configured)
    try:
        yield lambda statement: session.sql(statement).collect()
    finally:
        session.stop()


@pytest.fixture
def abc(own_lake: str) -> None:
    """Three tables on `lake`, by one publish."""
    published(a=[1], b=[2], c=[3])
