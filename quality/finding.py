"""What a gate finds: each expectation that was judged, and what was there instead."""

from dataclasses import dataclass

from lake.errors import GateError
from lake.results import Result


@dataclass(frozen=True)
class Finding:
    """One expectation of a table, and what was found.

    `status` is pass, warn, fail or error; `kind` is expectation, freshness or volume; `value` is
    what was found as a number, where it is one. `judged_by` names the branch whose run or check has
    found it, where it was taken over.
    """

    layer: str
    table: str
    column: str | None
    expectation: str
    status: str
    expected: str
    observed: str
    kind: str = "expectation"
    value: float | None = None
    judged_by: str | None = None

    def __str__(self) -> str:
        return f"{self.table}: expected that {self.expectation}; found {self.observed}"

    @property
    def result(self) -> Result:
        """As it is kept."""
        return Result(
            kind=self.kind,
            layer=self.layer,
            table_name=self.table,
            column_name=self.column,
            name=self.expectation,
            status=self.status,
            expected=self.expected,
            observed=self.observed,
            value=self.value,
            judged_by=self.judged_by,
        )


@dataclass(frozen=True)
class Report:
    """What was judged. The site with all of it is `data_docs/index.html` of the state directory."""

    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.status in ("fail", "error"))

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.status == "warn")

    def enforce(self) -> None:
        """Raise GateError, with a line for each expectation that failed."""
        if self.failures:
            raise GateError("\n".join(map(str, self.failures)))
