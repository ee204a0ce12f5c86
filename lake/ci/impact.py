"""What a change of columns touches: by lineage, the columns below them, and by dbt, exposures."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lake.branches.diff import TableDiff
from lake.lineage import Column, Lineage
from lake.manifest import table_of


@dataclass(frozen=True)
class Impact:
    """What became of a column of a modified model, the columns computed from it, and exposures.

    Of a column that is gone, these are what was computed from it until now.
    """

    column: str
    change: str
    below: tuple[str, ...]
    exposures: tuple[str, ...]


def impacts(
    published: Mapping[str, Any],
    project: Mapping[str, Any],
    modified: set[str],
    tables: Iterable[TableDiff],
    before: Lineage | None,
    now: Lineage,
) -> tuple[Impact, ...]:
    """The columns that modified models drop, retype or change the values of, and what they touch.

    `published` and `project` are manifests, `before` and `now` the lineage of each.
    """
    by_table = {one.name: one for one in tables}
    found = []
    for key in sorted(modified):
        is_model = key.startswith("model.")
        old, new = ((m["nodes"].get(key) or {}) if is_model else {} for m in (published, project))
        node = new or old
        if not node:
            continue
        for name, change in _changes(old, new, by_table.get(table_of(node))):
            column = Column(table_of(node), name)
            lineage = before if change == DROPPED and before else now
            below = lineage.below(column)
            exposures = _exposures(project, {column.table, *(one.table for one in below)})
            found.append(Impact(str(column), change, tuple(map(str, sorted(below))), exposures))
    return tuple(found)


DROPPED = "dropped"


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], table: TableDiff | None
) -> Iterator[tuple[str, str]]:
    """The columns that a contract drops or retypes, then those whose values differ."""
    had, has = (node.get("columns", {}) for node in (old, new))
    for name, column in had.items():
        if name not in has:
            yield name, DROPPED
        elif column["data_type"] != has[name]["data_type"]:
            yield name, f"{column['data_type']} → {has[name]['data_type']}"
    for name, rows in (table.rows.by_column if table and table.rows else {}).items():
        yield name, f"differs in {rows:,} rows"


def _exposures(project: Mapping[str, Any], tables: set[str]) -> tuple[str, ...]:
    """The exposures that read one of these tables."""
    return tuple(
        sorted(
            exposure["name"]
            for exposure in project["exposures"].values()
            for key in exposure["depends_on"]["nodes"]
            if key in project["nodes"] and table_of(project["nodes"][key]) in tables
        )
    )
