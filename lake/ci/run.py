"""A rehearsal of a pull request: build what it modifies on a branch, judge it, publish nothing."""

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lake import catalog, lineage, provenance, results
from lake.branches import branch, diff, publish
from lake.build import Say
from lake.ci import graph
from lake.ci.impact import impacts
from lake.ci.report import WELL, Build, Check, Report, failed, write
from lake.errors import LakeError
from lake.manifest import dbt, manifest, selected, table_nodes, table_of
from lake.results import Result
from lake.run import RUNNING, unfinished
from lake.settings import LAYERS, on_branch, settings
from lake.state import engine, state
from quality import gate, gx

PREFIX = "ci_"
MODIFIED = "state:modified"


def ci(
    options: Sequence[str],
    say: Say,
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
    for name in unfinished(PREFIX):
        with suppress(LakeError), catalog.alone("lake ci", "builder", name):
            branch.drop(name)


def _rehearse(
    name: str, options: Sequence[str], say: Say, *, keep: bool, incremental: bool
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
    directory = state(options)
    compared = ("--state", str(directory), "--target", engine(options))
    say(f"looking for what differs from publish {ref.publish_id}")
    modified = set(selected("--select", MODIFIED, *compared))
    published = json.loads((directory / "manifest.json").read_text())
    begun = replace(begun, removed=_removed(published))
    if not modified:
        shutil.rmtree(directory)
        return begun
    reasons = {one.code.table: one.reason for one in provenance.stale(name)}
    say(f"building on {name}")
    gx.prepare()
    anew = () if incremental else ("--full-refresh",)
    builds, checks, error = _build("--select", f"{MODIFIED}+", *anew, *compared, *options)
    shutil.rmtree(directory)
    if builds and not error and all(build.is_well for build in builds):
        say("judging")
        found, error = _judge({build.table.partition(".")[0] for build in builds})
        checks += found
    say("comparing")
    tables = diff.diff(name, samples=3).tables
    declared = _lineage()
    broken = {one.table for one in failed(builds, checks)}
    touched = impacts(published, manifest(), modified, tables, lineage.recorded(), declared)
    unreached = {exposure["name"] for exposure in manifest()["exposures"].values()}
    unreached -= {name for one in touched for name in one.exposures}
    is_known = not (error or broken or declared.faults)
    return replace(
        begun,
        is_kept=keep,
        reasons=reasons,
        graph=graph.touched(manifest(), modified, broken, unreached if is_known else set()),
        builds=builds,
        checks=checks,
        error=error,
        tables=tables,
        impacts=touched,
        faults=declared.faults,
    )


def _removed(published: Mapping[str, Any]) -> tuple[str, ...]:
    """The tables of models that the project no longer has."""
    return tuple(
        table_of(node)
        for key, node in sorted(table_nodes(published).items())
        if key not in manifest()["nodes"]
    )


def _lineage() -> lineage.Lineage:
    """The lineage of the project; of one that does not compile, why."""
    try:
        return lineage.lineage()
    except LakeError as error:
        return lineage.Lineage(frozenset(), faults={"all models": str(error)})


def _build(*options: str) -> tuple[tuple[Build, ...], tuple[Check, ...], str | None]:
    """Build; returns the models, the tests, and what went wrong where dbt told of neither."""
    began, failure = time.time(), None
    try:
        dbt("build", "--quiet", *options)
    except LakeError as error:
        failure = str(error)
    found, before = results.of_dbt(options, began), results.seconds_of_last_run()
    builds = tuple(
        Build(
            one.table_name,
            one.status,
            one.seconds or 0.0,
            before.get(one.table_name),
            _line(one.observed),
        )
        for one in found
        if one.kind == "model"
    )
    checks = tuple(_check(one) for one in found if one.kind == "test")
    return builds, checks, None if failed(builds, checks) else failure


def _check(test: Result) -> Check:
    is_well = test.status in WELL
    found = "" if is_well else _line(test.observed) or test.status
    return Check(test.kind, test.table_name, test.name, is_well, found)


def _line(message: str | None) -> str:
    """What a message of dbt's says first."""
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]


def _judge(layers: set[str]) -> tuple[tuple[Check, ...], str | None]:
    """What the gates of these layers find; or why they could not be judged."""
    try:
        of = [layer for layer in LAYERS if layer in layers]
        judged = gate.validate(of, only_what_moved=True)
    except LakeError as error:
        return (), str(error)
    return tuple(
        Check(
            "gate",
            one.table,
            one.expectation,
            one not in judged.failures,
            "" if one.status == "pass" else one.observed,
        )
        for one in judged.findings
    ), None
