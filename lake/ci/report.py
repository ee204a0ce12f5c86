"""What came of a rehearsal, and how it is told: in Markdown for hosts, in HTML for people."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import jinja2

from lake.branches.diff import TableDiff, short, values, words
from lake.ci import graph
from lake.ci.graph import Graph
from lake.ci.impact import Impact

WELL = ("pass", "warn")
"""What has not failed, and was not skipped because something else did."""


@dataclass(frozen=True)
class Build:
    """A model's build. `before` are the seconds that it took in the last run, if that built it."""

    table: str
    status: str
    seconds: float
    before: float | None
    message: str

    @property
    def is_well(self) -> bool:
        return self.status in WELL

    def __str__(self) -> str:
        return f"{self.table}: {self.status}: {self.message}"


@dataclass(frozen=True)
class Check:
    """A test of dbt's, or an expectation of a gate; `found` is empty if it holds."""

    kind: str
    table: str
    name: str
    is_well: bool
    found: str

    def __str__(self) -> str:
        return f"{self.table}: {self.kind}: {self.name}; found {self.found}"


def failed(builds: Iterable[Build], checks: Iterable[Check]) -> tuple[Build | Check, ...]:
    """Those that are not well, or were skipped."""
    outcomes: list[Build | Check] = [*builds, *checks]
    return tuple(one for one in outcomes if not one.is_well)


@dataclass(frozen=True)
class Report:
    """A rehearsal. `publish` is what it is compared with; no `builds` where nothing is modified.

    `removed` are the tables of models that the project no longer has; `reasons` say, by table, why
    one is not what the project makes of what is there; `error` is what went wrong beside builds and
    checks; `faults` are models, by table, whose SQL the lineage could not follow.
    """

    branch: str
    began: datetime
    author: str
    code_version: str | None
    publish: int
    is_incremental: bool
    is_kept: bool = False
    removed: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    graph: Graph = field(default_factory=Graph)
    builds: tuple[Build, ...] = ()
    checks: tuple[Check, ...] = ()
    error: str | None = None
    tables: tuple[TableDiff, ...] = ()
    impacts: tuple[Impact, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.graph.nodes or self.builds or self.checks or self.error)

    @property
    def is_well(self) -> bool:
        return not (self.failures or self.error)

    @property
    def failures(self) -> tuple[Build | Check, ...]:
        return failed(self.builds, self.checks)

    def because(self, table: TableDiff) -> str:
        """Why a table is another: code, contract or data."""
        known = self.reasons.get(table.name, "it was built anew, of the same code")
        return f"{known}; so is its contract" if table.schema else known

    @property
    def verdict(self) -> str:
        """How it went, in a line."""
        if self.is_empty:
            return "Nothing is modified: there is nothing to build or to judge."
        if self.error:
            return f"Failed: {self.error}"
        if not self.failures:
            return f"Well: models built: {len(self.builds)}, checks that hold: {len(self.checks)}."
        models, checks = (sum(not x.is_well for x in all_) for all_ in (self.builds, self.checks))
        return (
            f"Failed: {models} of {len(self.builds)} models, {checks} of {len(self.checks)} checks."
        )


def markdown(report: Report) -> str:
    """The report for hosts that render Mermaid in Markdown: GitHub, GitLab."""
    return _render("report.md", report, picture=graph.mermaid(report.graph))


def html(report: Report) -> str:
    """The report as one page that loads nothing."""
    return _render("report.html", report, picture=graph.svg(report.graph))


def write(report: Report, into: Path) -> None:
    """Write `report.md` and `report.html` into a directory, made if missing."""
    into.mkdir(parents=True, exist_ok=True)
    (into / "report.md").write_text(markdown(report))
    (into / "report.html").write_text(html(report))


def _render(template: str, report: Report, picture: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lake.ci"),
        autoescape=template.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    said = {"cell": _cell, "span": _span, "short": short, "values": values, "words": words}
    environment.filters |= said
    return environment.get_template(template).render(
        report=report, picture=picture, colors=graph.COLORS, failed=graph.FAILED
    )


def _cell(text: object) -> str:
    """Text as a cell of a table in Markdown shows it, whatever is in it."""
    marked = str(text).replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;")
    return marked.replace("|", "\\|")


def _span(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f}"
