"""Column-level lineage: which columns each column of a model is made of, through to bronze.

It is read off the SQL that dbt compiles, as of a first build: the code alone decides it, not what
has been built. A column is made of those that its value is computed from; what only filters, joins
or groups rows is not among them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from rich.tree import Tree

from lake.branches import branch
from lake.catalog import catalog
from lake.errors import LakeError
from lake.manifest import SNAPSHOT_COLUMNS, compiled, parents, table_nodes, table_of
from lake.settings import settings

TABLE = "meta.column_lineage"
SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("column_name", pa.string()),
        ("from_table", pa.string()),
        ("from_column", pa.string()),
        ("is_direct", pa.bool_()),
    ]
)
LANDED = ("_snapshot_lsn", "_ingested_at", "_unheld")
"""What ingestion adds to the declared columns of a bulk snapshot."""


@dataclass(frozen=True, order=True)
class Column:
    """A column of a table: `gold.fct_loans.is_approved`."""

    table: str
    name: str

    def __str__(self) -> str:
        return f"{self.table}.{self.name}"


Edge = tuple[Column, Column]
"""A column, and one that it is computed from."""


@dataclass(frozen=True)
class Lineage:
    """Edges from each column to those that its model's SQL computes it from.

    `columns` are all that are declared; `faults` say, by model, why its SQL could not be followed:
    mostly that it reads a column which nothing declares.
    """

    edges: frozenset[Edge]
    columns: frozenset[Column] = frozenset()
    faults: Mapping[str, str] = field(default_factory=dict)

    def above(self, column: Column) -> set[Column]:
        """Every column that it is computed from, however far up."""
        return _reached(self.sources, column)

    def below(self, column: Column) -> set[Column]:
        """Every column that is computed from it, however far down."""
        return _reached(self.uses, column)

    def rows(self) -> list[dict[str, object]]:
        """The lineage as a table: for each column all that it comes from, in order."""
        return [
            {
                "model": column.table,
                "column_name": column.name,
                "from_table": origin.table,
                "from_column": origin.name,
                "is_direct": (column, origin) in self.edges,
            }
            for column in sorted(self.sources)
            for origin in sorted(self.above(column))
        ]

    @cached_property
    def sources(self) -> dict[Column, set[Column]]:
        return _grouped(self.edges)

    @cached_property
    def uses(self) -> dict[Column, set[Column]]:
        return _grouped((origin, column) for column, origin in self.edges)


def _grouped(edges: Iterable[Edge]) -> dict[Column, set[Column]]:
    found = defaultdict(set)
    for one, other in edges:
        found[one].add(other)
    return dict(found)


def _reached(steps: Mapping[Column, set[Column]], start: Column) -> set[Column]:
    found: set[Column] = set()
    ahead = [start]
    while ahead:
        new = steps.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


def lineage(manifest: Mapping[str, Any] | None = None) -> Lineage:
    """The lineage of the project as it stands on disk, or of another `compiled` manifest.

    Raises LakeError where the project does not compile.
    """
    from sqlglot import MappingSchema, exp
    from sqlglot.errors import SqlglotError

    manifest = compiled() if manifest is None else manifest
    dialect = manifest["metadata"]["adapter_type"]
    tables = table_nodes(manifest)
    sources, nodes = manifest["sources"], manifest["nodes"] | manifest["sources"]
    declared = {
        table_of(node): _columns(node, nodes) for node in (*tables.values(), *sources.values())
    }
    schema = MappingSchema(dialect=dialect)
    for table, columns in declared.items():
        layer, name = table.split(".")
        schema.add_table(exp.table_(name, layer), dict.fromkeys(columns, "unknown"))
    edges: set[Edge] = set()
    faults = {}
    for node in tables.values():
        try:
            edges |= _edges(node, schema, dialect)
        except SqlglotError as error:
            faults[table_of(node)] = str(error).splitlines()[0]
    known = {Column(table, name) for table, columns in declared.items() for name in columns}
    return Lineage(frozenset(edges), frozenset(known), faults)


def _columns(node: Mapping[str, Any], nodes: Mapping[str, Any]) -> list[str]:
    if node["resource_type"] == "snapshot":
        kept = [name for one in parents(node) for name in _columns(nodes[one], nodes)]
        return [*kept, *SNAPSHOT_COLUMNS]
    is_bulk = "source_table" in (node["config"].get("meta") or {})
    return [*node["columns"], *(LANDED if is_bulk else ())]


def _edges(node: Mapping[str, Any], schema: Any, dialect: str) -> set[Edge]:
    """What the SQL of one model computes its columns from; a seed has none."""
    if node["resource_type"] == "seed":
        return set()
    from sqlglot import exp
    from sqlglot.lineage import lineage as followed

    found = followed(
        None,
        node["compiled_code"],
        schema,
        dialect=dialect,
        trim_selects=False,  # which is for pictures, and slow
        validate_qualify_columns=True,
    )
    table = table_of(node)
    return {
        (Column(table, name), Column(f"{leaf.expression.db}.{leaf.expression.name}", origin))
        for name, root in found.items()
        for leaf in root.walk()
        if isinstance(leaf.expression, exp.Table)  # else a constant, or a count of rows
        and (origin := exp.parse_identifier(leaf.name.partition(".")[2]).name)
    }


def record() -> bool:
    """Write the lineage to its table on this process's branch, if it differs; whether it did.

    Raises LakeError where the project does not compile.
    """
    now = pa.Table.from_pylist(lineage().rows(), SCHEMA)
    opened = catalog()
    if not opened.table_exists(TABLE):
        opened.create_namespace_if_not_exists(TABLE.partition(".")[0])
        opened.create_table(TABLE, SCHEMA, properties={"format-version": "2"}).append(now)
        return True
    if _sorted(opened.load_table(TABLE).scan().to_arrow()) == _sorted(now):
        return False
    branch.take(settings().branch, [TABLE])
    opened.load_table(TABLE).overwrite(now)
    return True


def recorded(opened: Catalog | None = None) -> Lineage | None:
    """The lineage of what a catalog (this process's branch) holds; None where none was recorded."""
    opened = opened or catalog()
    if not opened.table_exists(TABLE):
        return None
    rows = opened.load_table(TABLE).scan(row_filter="is_direct = true").to_arrow().to_pylist()
    return Lineage(
        frozenset(
            (
                Column(row["model"], row["column_name"]),
                Column(row["from_table"], row["from_column"]),
            )
            for row in rows
        )
    )


def _sorted(rows: pa.Table) -> list[dict[str, object]]:
    found: list[dict[str, object]] = rows.to_pylist()
    return sorted(found, key=lambda row: [*map(str, row.values())])


def tree(named: str) -> Tree:
    """A column of the project with all that it is made of, and all that is made of it.

    Raises LakeError where there is no such column.
    """
    found = lineage()
    column = Column(*named.rpartition(".")[::2])
    if column not in found.columns:
        near = sorted(str(one) for one in found.columns if one.name == column.name)
        also = f"there is {', '.join(near)}" if near else "write it as gold.fct_loans.is_approved"
        raise LakeError(f"there is no column `{named}`: {also}")
    root = Tree(f"[bold]{column}[/]")
    for title, steps in (("comes from", found.sources), ("goes into", found.uses)):
        if column in steps:
            _grow(root.add(f"[dim]{title}[/]"), steps, column)
    if column.table in found.faults:
        root.add(f"[red]its SQL can't be followed:[/] {found.faults[column.table]}")
    elif not root.children:
        root.add("[dim]no column: a constant, or a count of rows[/]")
    return root


def _grow(branch: Tree, steps: Mapping[Column, set[Column]], column: Column) -> None:
    for one in sorted(steps.get(column, ())):
        _grow(branch.add(str(one)), steps, one)
