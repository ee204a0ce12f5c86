"""The end of the demo: what is in the lake now, how fresh and how right, and where to look next."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lake.settings import ROOT, settings
from lake.stack import trino
from lake.stack.status import tables

if TYPE_CHECKING:
    from quality.finding import Report

APPROVALS = """
select
    loan_intent,
    sum(applications) as applications,
    round(100.0 * sum(approved) / sum(decided), 1) as approved_percent,
    sum(approved_amount) as approved_amount
from gold.agg_loan_approvals
group by loan_intent
order by approved_percent desc
"""
QUARANTINED = """
select rule, on_break, count(*) as loans, min(loan_id) as first_loan
from silver.loans_quarantine
group by rule, on_break
order by loans desc
"""
NEWEST = "select loan_id from gold.ftr_loans order by event_timestamp desc limit 1"


@dataclass(frozen=True)
class Freshness:
    """How long after the source's last commit it was to be seen, in seconds."""

    bronze_seconds: float
    gold_seconds: float


@dataclass(frozen=True)
class Cost:
    """What the run took: until the stack was ready, in all, and of memory at most."""

    ready_seconds: float
    total_seconds: float
    memory_bytes: int


def show(cost: Cost, freshness: Freshness, judged: "Report", console: Console) -> None:
    """Print the report; its figures are read from the lake as it is now."""
    console.rule("rows")
    listed = _table("TABLE", "ROWS", "FILES")
    for table in tables():
        listed.add_row(table.name, f"{table.rows:,}", str(table.data_files + table.delete_files))
    console.print(listed)

    console.rule("quarantined, and why")
    console.print(_answer(QUARANTINED))

    console.rule("gates")
    outcome = Counter(
        (finding.layer, finding.status in ("pass", "warn")) for finding in judged.findings
    )
    for layer in dict.fromkeys(finding.layer for finding in judged.findings):
        held, failed = outcome[layer, True], outcome[layer, False]
        colour = "red" if failed else "green"
        console.print(f"[{colour}]{layer}[/]: {held} expectations hold, {failed} do not")

    console.rule("a question to Trino: what is approved")
    console.print(_answer(APPROVALS))

    console.rule("features online, of the loan that changed last")
    _features(console)

    console.rule("freshness, times, memory")
    console.print(
        f"the last commit of the source was in bronze after {freshness.bronze_seconds:.1f} s, "
        f"in gold after {freshness.gold_seconds:.1f} s\n"
        f"stack ready in {cost.ready_seconds:.1f} s, all of it took {cost.total_seconds:.0f} s, "
        f"at most {cost.memory_bytes / 1024**3:.1f} GiB",
        highlight=False,
    )
    _next(console)


def _answer(query: str) -> Table:
    names, rows = trino.describe(query)
    listed = _table(*map(str.upper, names))
    for row in rows:
        listed.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    return listed


def _features(console: Console) -> None:
    from feature_repo import features

    ((loan,),) = trino.ask(NEWEST)
    vector = features.online([loan])[loan]
    shown = [f"{name} {value}" for name, value in sorted((vector or {}).items())]
    console.print(f"loan {loan}: {', '.join(shown) or 'none, it is gone'}", highlight=False)


def _next(console: Console) -> None:
    host, ports = settings().host, settings().ports
    console.rule("where to look next")
    rows = (
        ("`uv run lake status`", "parts, as of when bronze and gold are, tables"),
        ("`uv run lake train`, then `lake serve`", "the approval model, and its answers by HTTP"),
        (f"http://{host}:{ports.trino}", "Trino: any client, any user name"),
        (f"http://{host}:{ports.minio_console}", "MinIO's console"),
        (f"http://{host}:{ports.capture}", "Flink: the capture job"),
        (str(settings().state_dir / "data_docs" / "index.html"), "what the gates looked at"),
        (str(ROOT / "README.md"), "how to go on; `uv run lake down` stops it all"),
    )
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        grid.add_row(*row)
    console.print(grid, soft_wrap=True)


def _table(*headings: str) -> Table:
    listed = Table(box=None, pad_edge=False)
    for position, heading in enumerate(headings):
        listed.add_column(heading, justify="right" if position else "left")
    return listed
