"""The words that suites are written in: what is expected of each table, and what breaks it.

A suite is the expectations of one layer, by table. In SQL the table at hand is `{batch}`, and every
other frame of the layer is a view named after it: `silver.loans` is `silver_loans`. `quality.gx`
makes Great Expectations' own of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lake.manifest import models


@dataclass(frozen=True)
class Expectation:
    """What is expected: one of Great Expectations' classes, by its name, and its arguments.

    The rows that break it are those for which the condition `where` is true, or those that `query`
    returns. A failure shows some of them: the columns `shown`, all columns where that is empty.
    Without `where` and `query`, Great Expectations' own metrics judge it. `words` describe what is
    expected. With `warns` a failure stops nothing.
    """

    name: str
    words: str
    arguments: Mapping[str, Any]
    where: str = ""
    shown: Sequence[str] = ()
    query: str = ""
    warns: bool = False


Suite = Mapping[str, Sequence[Expectation]]
NO_ROWS = "NoRows"
"""The expectation that is ours (`quality.gx`): nothing breaks it."""


def expect(name: str, words: str, **arguments: Any) -> Expectation:
    """An expectation that Great Expectations' own metrics judge."""
    return Expectation(name, words, arguments)


def key(*columns: str) -> list[Expectation]:
    """Every row has the key, and no two rows have the same."""
    names = ", ".join(map(quoted, columns))
    query = (
        f"select {names}, count(*) as rows from {{batch}} "
        f"where {' or '.join(f'{quoted(column)} is not null' for column in columns)} "
        f"group by {names} having count(*) > 1"
    )
    if len(columns) == 1:
        name, words = "ExpectColumnValuesToBeUnique", f"{columns[0]} is unique"
        unique = Expectation(name, words, {"column": columns[0]}, query=query)
    else:
        name, words = "ExpectCompoundColumnsToBeUnique", f"({', '.join(columns)}) is unique"
        unique = Expectation(name, words, {"column_list": [*columns]}, query=query)
    return [unique, *(present(column) for column in columns)]


def keys(layer: str) -> dict[str, list[Expectation]]:
    """The key of each model of a layer, as its contract declares it; by table, none without one."""
    return {
        f"{layer}.{model.name}": key(*model.key) if model.key else [] for model in models(layer)
    }


def present(column: str) -> Expectation:
    """No row is without a value."""
    name, where = "ExpectColumnValuesToNotBeNull", f"{quoted(column)} is null"
    return Expectation(name, f"{column} is present", {"column": column}, where)


def one_of(column: str, *values: str) -> Expectation:
    """A value, where there is one, is a known one."""
    name, arguments = "ExpectColumnValuesToBeInSet", {"column": column, "value_set": [*values]}
    known = f"not in ({', '.join(map(_literal, values))})" if values else "is not null"
    where = f"{quoted(column)} {known}"
    return Expectation(name, f"{column} is a known one", arguments, where, [column])


def between(column: str, low: float | None, high: float | None, words: str = "") -> Expectation:
    """Values lie between two bounds, both included; None is no bound."""
    arguments = {"column": column, "min_value": low, "max_value": high}
    outside = [f"{quoted(column)} < {low}"] if low is not None else []
    outside += [f"{quoted(column)} > {high}"] if high is not None else []
    name, words = "ExpectColumnValuesToBeBetween", words or f"{column} is between {low} and {high}"
    return Expectation(name, words, arguments, " or ".join(outside), [column])


def none(words: str, query: str, *, warns: bool = False) -> Expectation:
    """A query for what must not be finds nothing."""
    return Expectation(NO_ROWS, words, {}, query=query, warns=warns)


def no_row(words: str, where: str, *shown: str, warns: bool = False) -> Expectation:
    """No row meets the condition `where`; a failure shows the columns `shown`."""
    return Expectation(NO_ROWS, words, {}, where, shown, warns=warns)


def view_of(table: str) -> str:
    """The name under which SQL knows a table of a layer."""
    return table.replace(".", "_")


def quoted(column: str) -> str:
    """A column's name as Spark reads it, in a text that is formatted."""
    return "`" + column.replace("`", "``").replace("{", "{{").replace("}", "}}") + "`"


def _literal(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return "'" + escaped.replace("{", "{{").replace("}", "}}") + "'"
