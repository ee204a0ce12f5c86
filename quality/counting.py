"""Count, in one statement, the rows of a table that break each of its expectations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark.errors import PySparkException

from quality.suite import Expectation, quoted, view_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SAMPLES = 3
Breaks = tuple[str, str]
"""What breaks an expectation: its `where`, or its `query`; neither, and it is not counted."""


def count(
    session: "SparkSession", table: str, breaks: Sequence[Breaks]
) -> tuple[int, list[int | str]]:
    """How many rows a table has, and how many break each expectation; or why that can't be told.

    What can't be told of one, such as of a column that is not there, keeps no other from it.
    """
    try:
        return _counted(session, table, breaks)
    except PySparkException as error:
        if len(breaks) == 1:
            rows, _ = _counted(session, table, ())
            return rows, [str(error).strip().splitlines()[0]]
        each = [count(session, table, [one]) for one in breaks]
        return each[0][0], [found for _, (found,) in each]


def rows_query(of: Expectation) -> str:
    """The query for the rows that break an expectation; `{batch}` in it is the table."""
    shown = ", ".join(map(quoted, of.shown)) or "*"
    return of.query or f"select {shown} from {{batch}} where {of.where}"


def samples(session: "SparkSession", table: str, of: Expectation) -> str:
    """Some rows that break an expectation, or values where it is about one column, in a line."""
    rows = session.sql(rows_query(of).format(batch=view_of(table))).take(SAMPLES)
    if [*of.shown] == [of.arguments.get("column")]:
        return ", ".join(dict.fromkeys(str(value) for (value,) in rows))
    return "; ".join(", ".join(f"{k} {v}" for k, v in row.asDict().items()) for row in rows)


def _counted(
    session: "SparkSession", table: str, breaks: Sequence[Breaks]
) -> tuple[int, list[int | str]]:
    """Conditions are counted together, a query beside them; none can read another's columns."""
    conditions = [nth for nth, (where, _) in enumerate(breaks) if where]
    together = ["count(*)", *(f"count_if({breaks[nth][0]})" for nth in conditions)]
    statement = [f"select -1 as nth, array({', '.join(together)}) as counts from {{batch}}"]
    for nth, (_, query) in enumerate(breaks):
        if query:
            statement.append(f"select {nth}, array(count(*)) from ({query})")
    text = " union all ".join(statement).format(batch=view_of(table))
    found = dict(map(tuple, session.sql(text).collect()))
    rows, *of_conditions = found.pop(-1)
    counts = dict(zip(conditions, of_conditions, strict=True))
    counts |= {nth: of for nth, (of,) in found.items()}
    return rows, [counts.get(nth, 0) for nth in range(len(breaks))]
