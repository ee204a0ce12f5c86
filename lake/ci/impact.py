"""What a change touches: by lineage, the columns below, and the exposures that use one of these."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lake.branches.diff import TableDiff
from lake.lineage import Column, Lineage
from lake.manifest import below as below_of
from lake.manifest import model_nodes, table_of


@dataclass(frozen=True)
class Impact:
    """What became of a column of a modified model, the columns computed from it, and exposures.

    Of a column that is gone, these are what was computed from it until now. Where a model has other
    rows, that is one too, of the table: all that is built on it is below.
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
            exposures = _exposures(project, {column, *below})
            found.append(Impact(str(column), change, tuple(map(str, sorted(below))), exposures))
        table = by_table.get(table_of(node))
        if table and table.rows and (table.rows.added or table.rows.removed):
            change = f"{table.rows.added:,} rows more, {table.rows.removed:,} less"
            children = below_of({key}, project) & model_nodes(project).keys()
            tables_below = {table_of(project["nodes"][one]) for one in children}
            exposures = _exposures(
                project, {Column(one, "") for one in {table.name, *tables_below}}
            )
            found.append(Impact(table.name, change, tuple(sorted(tables_below)), exposures))
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


def _exposures(project: Mapping[str, Any], reached: set[Column]) -> tuple[str, ...]:
    """The exposures that use one of these columns; one without a name is any of its table."""
    return tuple(
        sorted(
            exposure["name"]
            for exposure in project["exposures"].values()
            if any(
                _uses(exposure, project["nodes"].get(key), reached)
                for key in exposure["depends_on"]["nodes"]
            )
        )
    )


def _uses(
    exposure: Mapping[str, Any], node: Mapping[str, Any] | None, reached: set[Column]
) -> bool:
    """Whether an exposure uses one of these columns of a model: all, unless it tells which."""
    if node is None:
        return False
    told = ((exposure["config"].get("meta") or {}).get("columns") or {}).get(node["name"])
    table = table_of(node)
    return any(one.table == table and (told is None or one.name in ("", *told)) for one in reached)
