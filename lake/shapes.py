"""The columns that a captured table had at each moment, against those that are declared.

A change that lacks a declared column, or has it in another type, can't be read as it is declared.
From the first one on a table's changes wait in bronze, and silver stays as it was: the project's
macro `readable_lsn` goes by the rule that stands here. A new snapshot ends the wait.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lake.catalog import metadata, open_catalog
from lake.lag import snapshot_lsn
from lake.manifest import SourceTable
from lake.settings import TRUNK
from lake.types import TEXT, canonical, held_as

SCHEMA_CHANGES = "bronze.schema_changes"


@dataclass(frozen=True)
class Wait:
    """Why changes of a table can't be read as declared, from which commit of the source on."""

    why: str
    lsn: int
    since: datetime

    def __str__(self) -> str:
        since = f"{self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.why}: its changes since {since} wait in bronze"


def waits(declared: Sequence[SourceTable]) -> dict[str, Wait]:
    """Of the tables that have changes that wait, by name: why, and since when."""
    if metadata(TRUNK, SCHEMA_CHANGES) is None:
        return {}
    rows = open_catalog(TRUNK).load_table(SCHEMA_CHANGES).scan().to_arrow().to_pylist()
    shapes = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["commit_lsn"], row["ordinal"])):
        shapes[row["source_table"]].append(row)
    found = {}
    for table in declared:
        had = shapes[table.qualified]
        if not any(unreadable(table, shape) for shape in had):
            continue  # without a look at the table itself: there may be hundreds
        snapshot = snapshot_lsn(table.bronze) or 0
        wait = first_wait(table, had, snapshot)
        if wait and wait.lsn >= snapshot:
            found[table.qualified] = wait
    return found


def first_wait(
    table: SourceTable, shapes: Sequence[Mapping[str, Any]], snapshot: int
) -> Wait | None:
    """Why the changes since a snapshot wait; `shapes` are the table's rows of bronze, in order.

    The newest shape counts although it may be older than the snapshot: until there is a change of
    another shape, it is that of any that come. Whether any do, only the source can tell.
    """
    for shape in shapes:
        is_of_changes = shape["commit_lsn"] >= snapshot or shape is shapes[-1]
        if is_of_changes and (why := unreadable(table, shape)):
            return Wait(why, shape["commit_lsn"], shape["committed_at"])
    return None


def unreadable(table: SourceTable, shape: Mapping[str, Any]) -> str:
    """What keeps changes of a shape from being read as they are declared; or nothing."""
    types = {column["name"]: column["type"] for column in json.loads(shape["columns"])}
    for column in table.columns:
        there = types.get(column.source_name)
        if there is None:
            return f"came without the column {column.source_name}, which is declared"
        if held_as(column.type) not in (TEXT, canonical(there)):
            return f"came with {column.source_name} as {there}, which is declared as {column.type}"
    return ""
