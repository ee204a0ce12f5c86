"""A rehearsal of a pull request: build what it modifies on a branch, judge it, publish nothing."""

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lake import catalog, lineage
from lake.branches import branch, diff, publish
from lake.ci import graph
from lake.ci.impact import impacts
from lake.ci.report import WELL, Build, Check, Report, failed, write
from lake.errors import LakeError
from lake.manifest import TARGET, dbt, manifest, selected, table_of
from lake.run import RUNNING
from lake.settings import LAYERS, TRUNK, on_branch, settings

PREFIX = "ci_"
MODIFIED = "state:modified"
RESULTS = "quality.results"
"""How runs went, a row for each model and check of each; `lake run` appends to it."""


def ci(
    options: Sequence[str],
    say: Callable[[str], None],
    into: Path,
    *,
    keep: bool = False,
    incremental: bool = False,
) -> Report:
    """Build and judge what the project modifies of what is published, and write the report.

    What is modified is built anew, or as the next run would, where `incremental`. `options` are for
    `dbt build`. The branch is dropped, unless it is to be kept and something was built on it.

    Raises LakeError where there is nothing to report on: the project does not parse, no publish
    says by which project it was built. What fails after that is in the report.
    """
    _drop_leftovers()
    name = _name()
    with catalog.alone("lake ci", "builder", name):
        branch.create(name, in_trino="trino" in options)
        kept = False
        try:
            branch.call("builder", "select lake.mark_branch(%s, %s)", name, RUNNING)
            with on_branch(name):
                report = _rehearse(name, options, say, keep=keep, incremental=incremental)
            write(report, into)
            kept = report.is_kept
        finally:
            if not kept:
                branch.drop(name)
        if kept:
            state = "kept for a look: " + ("it is well" if report.is_well else "something failed")
            branch.call("builder", "select lake.mark_branch(%s, %s)", name, state)
    return report


def _name() -> str:
    """A branch's name after the CI's run, or the commit."""
    ran = os.environ.get("GITHUB_RUN_ID") or os.environ.get("CI_PIPELINE_ID")
    label = re.sub(r"[^a-z0-9]+", "_", (ran or publish.code_version() or "local").lower())
    return f"{PREFIX}{label[:40]}_{secrets.token_hex(2)}"


def _drop_leftovers() -> None:
    """Drop the branches of jobs that were killed: nobody holds their lock any more."""
    for ref in branch.refs():
        if ref.name.startswith(PREFIX) and ref.state in (RUNNING, ""):
            with suppress(LakeError), catalog.alone("lake ci", "builder", ref.name):
                branch.drop(ref.name)


def _rehearse(
    name: str, options: Sequence[str], say: Callable[[str], None], *, keep: bool, incremental: bool
) -> Report:
    (ref,) = [ref for ref in branch.refs() if ref.name == name]
    begun = Report(
        branch=name,
        began=datetime.now(UTC),
        author=settings().author,
        code_version=publish.code_version(),
        publish=ref.publish_id,
        is_incremental=incremental,
    )
    directory = publish.state()
    state = ("--state", str(directory))
    say(f"looking for what differs from publish {ref.publish_id}")
    modified = set(selected("--select", MODIFIED, *state))
    published = json.loads((directory / "manifest.json").read_text())
    begun = replace(begun, removed=_removed(published))
    if not modified:
        shutil.rmtree(directory)
        return begun
    say(f"building on {name}")
    anew = () if incremental else ("--full-refresh",)
    builds, checks, error = _build("--select", f"{MODIFIED}+", *anew, *state, *options)
    shutil.rmtree(directory)
    if builds and not error and all(build.is_well for build in builds):
        say("judging")
        found, error = _judge({build.table.partition(".")[0] for build in builds})
        checks += found
    say("comparing")
    tables = diff.diff(name, samples=3).tables
    declared = _lineage()
    broken = {one.table for one in failed(builds, checks)}
    return replace(
        begun,
        is_kept=keep,
        graph=graph.touched(manifest(), modified, broken),
        builds=builds,
        checks=checks,
        error=error,
        tables=tables,
        impacts=impacts(published, manifest(), modified, tables, lineage.recorded(), declared),
        faults=declared.faults,
    )


def _removed(published: Mapping[str, Any]) -> tuple[str, ...]:
    """The tables of models that the project no longer has."""
    return tuple(
        table_of(node)
        for key, node in sorted(published["nodes"].items())
        if node["resource_type"] == "model" and key not in manifest()["nodes"]
    )


def _lineage() -> lineage.Lineage:
    """The lineage of the project; of one that does not compile, why."""
    try:
        return lineage.lineage()
    except LakeError as error:
        return lineage.Lineage(frozenset(), faults={"all models": str(error)})


def _build(*options: str) -> tuple[tuple[Build, ...], tuple[Check, ...], str | None]:
    """Build; returns the models, the tests, and what went wrong where dbt told of neither."""
    written = TARGET / "run_results.json"
    written.unlink(missing_ok=True)
    failure = None
    try:
        dbt("build", "--quiet", *options)
    except LakeError as error:
        failure = str(error)
    if not written.exists():
        return (), (), failure
    nodes, before = manifest()["nodes"] | manifest()["unit_tests"], _seconds_before()
    builds, checks = [], []
    for result in json.loads(written.read_text())["results"]:
        node = nodes.get(result["unique_id"])
        if node is None or node["resource_type"] == "operation":  # a hook
            if result["status"] not in WELL:
                failure = result["message"]
        elif node["resource_type"] in ("test", "unit_test"):
            checks.append(_check(node, result))
        else:
            table, seconds = table_of(node), result["execution_time"]
            message = _line(result["message"])
            builds.append(Build(table, result["status"], seconds, before.get(table), message))
    return tuple(builds), tuple(checks), None if failed(builds, checks) else failure


def _check(node: Mapping[str, Any], result: Mapping[str, Any]) -> Check:
    on = node.get("attached_node") or next(iter(node["depends_on"]["nodes"]), "")
    tested = manifest()["nodes"].get(on) or manifest()["sources"].get(on)
    kind = "test" if node["resource_type"] == "test" else "unit test"
    is_well = result["status"] in WELL
    found = "" if is_well else _line(result["message"]) or result["status"]
    return Check(kind, table_of(tested) if tested else "", node["name"], is_well, found)


def _line(message: str | None) -> str:
    """What a message of dbt's says first."""
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]


def _judge(layers: set[str]) -> tuple[tuple[Check, ...], str | None]:
    """What the gates of these layers find; or why they could not be judged."""
    from quality.gate import validate  # heavy

    try:
        judged = validate([layer for layer in LAYERS if layer in layers])
    except LakeError as error:
        return (), str(error)
    return tuple(
        Check("gate", one.table, one.expectation, one.success, "" if one.success else one.observed)
        for one in judged.findings
    ), None


def _seconds_before() -> dict[str, float]:
    """How long the last run took for each table that it built; nothing where no run is known."""
    opened = catalog.open_catalog(TRUNK)
    if not opened.table_exists(RESULTS):
        return {}
    columns = ("run_id", "recorded_at", "table_name", "seconds")
    rows = (
        opened.load_table(RESULTS)
        .scan("kind = 'model'", selected_fields=columns)
        .to_arrow()
        .to_pylist()
    )
    newest = max(rows, key=lambda row: row["recorded_at"], default={"run_id": None})["run_id"]
    return {row["table_name"]: row["seconds"] for row in rows if row["run_id"] == newest}
