"""The words that suites are written in.

A suite is the expectations of one layer, by table. In SQL the table at hand is `{batch}`, and every
other frame of the layer is a view named after it: `silver.loans` is `silver_loans`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import great_expectations.expectations
from great_expectations.expectations.expectation import Expectation

from lake.manifest import models

gxe: Any = great_expectations.expectations  # it does not declare what it exports
ROW_COUNT = "unexpected_rows_query.row_count"
Suite = Mapping[str, Sequence[Expectation]]


class _NoRows(gxe.UnexpectedRowsExpectation):  # type: ignore[misc]
    """Counts the rows that a query finds; to fetch them too would run the query twice."""

    metric_dependencies = (ROW_COUNT,)

    def _validate(self, metrics: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        count = metrics[ROW_COUNT]
        return {"success": count == 0, "result": {"observed_value": count}}


def key(*columns: str) -> list[Expectation]:
    """Every row has the key, and no two rows have the same."""
    named = ", ".join(columns)
    unique: Expectation
    if len(columns) == 1:
        unique = gxe.ExpectColumnValuesToBeUnique(
            column=columns[0], description=f"{named} is unique"
        )
    else:
        unique = gxe.ExpectCompoundColumnsToBeUnique(
            column_list=list(columns), description=f"({named}) is unique"
        )
    return [unique, *(present(column) for column in columns)]


def keys(layer: str) -> dict[str, list[Expectation]]:
    """The key of each model of a layer, as its contract declares it; by table, none without one."""
    return {
        f"{layer}.{model.name}": key(*model.key) if model.key else [] for model in models(layer)
    }


def present(column: str) -> Expectation:
    """No row is without a value."""
    made: Expectation = gxe.ExpectColumnValuesToNotBeNull(
        column=column, description=f"{column} is present"
    )
    return made


def one_of(column: str, *values: str) -> Expectation:
    """A value, where there is one, is a known one."""
    made: Expectation = gxe.ExpectColumnValuesToBeInSet(
        column=column, value_set=list(values), description=f"{column} is a known one"
    )
    return made


def between(column: str, low: float | None, high: float | None, words: str = "") -> Expectation:
    """Values lie between two bounds, both included; None is no bound."""
    made: Expectation = gxe.ExpectColumnValuesToBeBetween(
        column=column,
        min_value=low,
        max_value=high,
        description=words or f"{column} is between {low} and {high}",
    )
    return made


def none(words: str, query: str, *, warns: bool = False) -> Expectation:
    """A query for what must not be finds nothing; `words` say what holds then.

    One that `warns` is told of, and stops nothing.
    """
    made: Expectation = _NoRows(
        unexpected_rows_query=query,
        description=words,
        severity="warning" if warns else "critical",
    )
    return made
