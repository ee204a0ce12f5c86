"""What has passed its suite: a fact about a table's pointer, and those of what the suite reads.

It holds wherever those pointers go, and is kept in the catalog (`lake.validations` in
`branches/schema.sql`). What passed once is not judged again; what did not pass is not published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from psycopg.types.json import Jsonb

from lake import provenance
from lake.branches import branch
from lake.catalog import connect
from lake.manifest import source_tables
from lake.settings import LAYERS, TRUNK, settings
from quality.finding import Finding, Report
from quality.suites import fingerprint, goes_by_the_clock, read_beside, suites


@dataclass(frozen=True)
class Passed:
    """What was found of a table when it passed, by which branch's run or check."""

    findings: tuple[Finding, ...]
    by: str


Judged = dict[str, dict[str, Any]]
"""By table: its suite's fingerprint, its pointer, and those of the tables that the suite reads."""


def judged_of(layers: Sequence[str]) -> Judged:
    """What the tables of layers would be judged as, on this process's branch; bronze on `lake`.

    Of bronze that is the bulk loads: the rest moves on at each moment, and is judged each time.
    """
    found: Judged = {}
    loads = {table.bronze for table in source_tables()}
    for layer in layers:
        origins = _origins(_ref(layer))
        for table, expectations in suites(layer).items():
            if expectations and table in origins and (layer != "bronze" or table in loads):
                beside = read_beside(expectations, [*origins]) - {table}
                found[table] = {
                    "table": table,
                    "suite": fingerprint(expectations),
                    "pointer": origins[table],
                    "beside": {name: origins[name] for name in sorted(beside)},
                }
    return found


def passed(layers: Sequence[str]) -> dict[str, Passed]:
    """Of the tables of layers, by name, those that have passed and need not be judged again."""
    found: dict[str, Passed] = {}
    for layer in layers:
        steady = [
            {"table": table, "suite": fingerprint(expectations)}
            for table, expectations in suites(layer).items()
            if not goes_by_the_clock(expectations)
        ]
        with connect("reader") as connection:
            rows = connection.execute(
                "select table_name, findings, run_id from lake.validated(%s, %s)",
                [_ref(layer), Jsonb(steady)],
            ).fetchall()
        for table, findings, by in rows:
            found[table] = Passed(tuple(Finding(**one) for one in findings), by)
    return found


def missing(name: str, of: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tables that a branch has moved and that did not pass; `of` is the `project`."""
    with connect("reader") as connection:
        rows = connection.execute("select lake.unvalidated(%s, %s)", [name, Jsonb([*of])])
        return [table for (table,) in rows.fetchall()]


def record(judged: Judged, report: Report) -> None:
    """Record which of the tables passed that were judged as that."""
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        if not finding.judged_by:
            found.setdefault(finding.table, []).append(finding)
    failed = {finding.table for finding in report.failures}
    passed = [
        {**judged[table], "findings": [asdict(one) for one in findings]}
        for table, findings in found.items()
        if table in judged and table not in failed
    ]
    branch.call(
        "builder", "select lake.record_validations(%s, %s)", settings().branch, Jsonb(passed)
    )


def project() -> list[dict[str, Any]]:
    """All that the project builds, as `lake.publish` takes it, with the suite of each table."""
    expected = {
        table: fingerprint(expectations)
        for layer in LAYERS
        for table, expectations in suites(layer).items()
        if expectations
    }
    return [{**one, "suite": expected.get(one["table"])} for one in provenance.project()]


def _ref(layer: str) -> str:
    """Bronze is not built, and so has no branches."""
    return TRUNK if layer == "bronze" else settings().branch


def _origins(ref: str) -> dict[str, str]:
    with connect("reader") as connection:
        row = connection.execute("select lake.origins_on(%s)", [ref]).fetchone()
    found: dict[str, str] = row[0] if row else {}
    return found
