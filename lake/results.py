"""Results over time: what each run built, tested and judged, passes too, in `quality.results`.

The table is on `lake` and not on a run's branch: a run that fails leaves its results, and a
rollback takes none away. The role `recorder` writes it, and nothing else; nobody else does.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lake.branches import publish
from lake.catalog import open_catalog
from lake.errors import LakeError
from lake.manifest import BUILT, PROJECT, parents
from lake.settings import QUALITY, TRUNK

if TYPE_CHECKING:  # slow to import
    from pyiceberg.schema import Schema

TABLE = f"{QUALITY}.results"


@dataclass(frozen=True)
class Result:
    """One thing that a run found out.

    `kind` is model, test, expectation, freshness or volume; `status` is pass, warn, fail, error or
    skipped. `value` is what of it is a number: rows of a model or a table, failures of a test, rows
    that an expectation does not hold for, seconds of age. `seconds` is how long it took.
    `judged_by` is the run that found it, where a later one took it over: nothing had moved.
    """

    kind: str
    layer: str
    table_name: str
    name: str
    status: str
    column_name: str | None = None
    expected: str | None = None
    observed: str | None = None
    value: float | None = None
    seconds: float | None = None
    judged_by: str | None = None


_COLUMNS = (
    *("run_id", "recorded_at", "kind", "layer", "table_name", "column_name", "name"),
    *("status", "expected", "observed", "value", "seconds", "judged_by"),
)


def _schema() -> "Schema":
    from pyiceberg.schema import Schema
    from pyiceberg.types import DoubleType, NestedField, StringType, TimestamptzType

    types = {"recorded_at": TimestamptzType(), "value": DoubleType(), "seconds": DoubleType()}
    return Schema(
        *(
            NestedField(number, name, types.get(name, StringType()))
            for number, name in enumerate(_COLUMNS, 1)
        )
    )


def record(run_id: str, results: Sequence[Result]) -> None:
    """Append what a run found, in one commit.

    Raises LakeError where that can't be done.
    """
    if not results:
        return
    import pyarrow as pa
    from pyiceberg.exceptions import CommitFailedException
    from sqlalchemy.exc import SQLAlchemyError

    schema = _schema()
    marks = {"run_id": run_id, "recorded_at": datetime.now(UTC)}
    rows = pa.Table.from_pylist([asdict(one) | marks for one in results], schema.as_arrow())
    opened = open_catalog(TRUNK, "recorder")
    try:
        table = opened.create_table_if_not_exists(
            TABLE, schema, properties={"write.metadata.previous-versions-max": "100"}
        )
        if table.schema().column_names != schema.column_names:  # of a lake from before
            with table.update_schema() as change:
                change.union_by_name(schema)
        table.append(rows)
    except (CommitFailedException, OSError, SQLAlchemyError) as error:
        said = str(error).strip().splitlines()[0]
        raise LakeError(f"the run's results can't be recorded in {TABLE}: {said}") from None


Key = tuple[str, str]
"""A kind of result, and the table that it is of."""


def published(kinds: Sequence[str], runs: int) -> dict[Key, list[float]]:
    """The values of the last `runs` runs that make up `lake` as it is, the last first.

    Of each kind and table back to the last that was not found to be right, which it is since a run
    was published with it.
    """
    names = publish.in_force()[:runs]
    if not names:
        return {}
    found = _kept(
        f"run_id in ({_listed(names)}) and kind in ({_listed(kinds)})",
        *("run_id", "kind", "table_name", "status", "value"),
    )
    order = {name: age for age, name in enumerate(names)}
    rows = sorted(found, key=lambda row: order[row["run_id"]])
    values: dict[Key, list[float]] = {}
    complete: set[Key] = set()
    for row in rows:
        key = (row["kind"], row["table_name"])
        if key not in complete:
            values.setdefault(key, []).append(row["value"])
        if row["status"] != "pass":
            complete.add(key)
    return values


def seconds_of_last_run() -> dict[str, float]:
    """How long the last run took for each table that it built; nothing where there was none."""
    rows = _kept("kind = 'model'", "run_id", "recorded_at", "table_name", "seconds")
    last = max(rows, key=lambda row: row["recorded_at"], default={"run_id": None})["run_id"]
    return {row["table_name"]: row["seconds"] for row in rows if row["run_id"] == last}


def _kept(condition: str, *columns: str) -> list[dict[str, Any]]:
    """Some columns of the results that a condition holds for; none before the first run."""
    opened = open_catalog(TRUNK)
    if not opened.table_exists(TABLE):
        return []
    found: list[dict[str, Any]] = (
        opened.load_table(TABLE).scan(condition, columns).to_arrow().to_pylist()
    )
    return found


def _listed(words: Sequence[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


# What dbt leaves


_STATUS = {"success": "pass", "runtime error": "error", "no-op": "skipped"}
"""dbt's words that are not ours; `pass`, `warn`, `fail`, `error` and `skipped` are."""


def of_dbt(options: Sequence[str], since: float) -> list[Result]:
    """What dbt did, given its options: each model and test. None if it got to none `since` then.

    `since` is in seconds since the epoch.
    """
    target = _target(options)
    path = target / "run_results.json"
    if not path.exists() or path.stat().st_mtime < since:
        return []
    manifest = json.loads((target / "manifest.json").read_text())
    nodes = {
        unique_id: node
        for unique_id, node in (manifest["nodes"] | manifest["unit_tests"]).items()
        if node["resource_type"] in (*BUILT, "test", "unit_test")  # and no hook
    }
    return [
        _of_node(one, nodes[one["unique_id"]], nodes)
        for one in json.loads(path.read_text())["results"]
        if one["unique_id"] in nodes
    ]


def _target(options: Sequence[str]) -> Path:
    """Where dbt writes what it did."""
    told = dict(pairwise(options))
    project = Path(told.get("--project-dir", PROJECT))
    return project / told.get("--target-path", "target")


def _of_node(found: Mapping[str, Any], node: Mapping[str, Any], nodes: Mapping[str, Any]) -> Result:
    is_table = node["resource_type"] in BUILT
    above = parents(node)
    of = node if is_table else nodes.get(node.get("attached_node") or next(iter(above), ""), node)
    rows = found["adapter_response"].get("rows_affected")
    value = rows if is_table else found["failures"]
    return Result(
        kind="model" if is_table else "test",
        layer=of["schema"],
        table_name=f"{of['schema']}.{of['name']}",
        column_name=node.get("column_name"),
        name=node["name"],
        status=_STATUS.get(found["status"], found["status"]),
        expected=node.get("description") or None,
        observed=found["message"],
        value=None if value is None else float(value),
        seconds=found["execution_time"],
    )
