"""What a change touches: by lineage, the columns below, and the exposures that use one of these."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lake.branches.diff import Rows, TableDiff
from lake.lineage import Column, Lineage
from lake.manifest import below, table_nodes, table_of


@dataclass(frozen=True)
class Impact:
    """What became of a column of a modified model, the columns computed from it, and exposures.

    Of a column that is gone, these are what was computed from it until now. A table that has rows
    more or less is an impact by itself, on every column of every table that is built on it.
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
    had, has = table_nodes(published), table_nodes(project)
    for key in sorted(modified):
        old, new = had.get(key, {}), has.get(key, {})
        node = new or old
        if not node:
            continue
        for name, change in _changes(old, new, by_table.get(table_of(node))):
            column = Column(table_of(node), name)
            lineage = before if change == DROPPED and before else now
            computed = lineage.below(column)
            exposures = _exposures(project, {column, *computed})
            found.append(Impact(str(column), change, tuple(map(str, sorted(computed))), exposures))
        table = by_table.get(table_of(node))
        if table and table.rows and (table.rows.added or table.rows.removed):
            found.append(_of_rows(project, key, table.rows))
    return tuple(found)


def _of_rows(project: Mapping[str, Any], key: str, rows: Rows) -> Impact:
    """What it touches that a model, by dbt's id, has rows more or less."""
    models = table_nodes(project)
    built = {one: models[one] for one in below({key}, project) & models.keys()}
    reached = {
        Column(table_of(node), name)
        for node in (models[key], *built.values())
        for name in node["columns"]
    }
    return Impact(
        table_of(models[key]),
        f"{rows.added:,} rows more, {rows.removed:,} less",
        tuple(sorted(map(table_of, built.values()))),
        _exposures(project, reached),
    )


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
    """The exposures that use one of these columns."""
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
    names = {one.name for one in reached if one.table == table_of(node)}
    return bool(names if told is None else names & {*told})
