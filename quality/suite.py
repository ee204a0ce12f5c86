"""The words that suites are written in: what is expected of each table, as data.

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

    `words` describe what holds where it is met. With `warns` a failure stops nothing.
    """

    name: str
    words: str
    arguments: Mapping[str, Any]
    warns: bool = False


Suite = Mapping[str, Sequence[Expectation]]
NO_ROWS = "NoRows"
"""The expectation that is ours (`quality.gx`): `query` finds nothing."""


def expect(name: str, words: str, **arguments: Any) -> Expectation:
    """One of Great Expectations' own."""
    return Expectation(name, words, arguments)


def key(*columns: str) -> list[Expectation]:
    """Every row has the key, and no two rows have the same."""
    named = ", ".join(columns)
    unique = (
        expect("ExpectColumnValuesToBeUnique", f"{named} is unique", column=columns[0])
        if len(columns) == 1
        else expect(
            "ExpectCompoundColumnsToBeUnique", f"({named}) is unique", column_list=list(columns)
        )
    )
    return [unique, *(present(column) for column in columns)]


def keys(layer: str) -> dict[str, list[Expectation]]:
    """The key of each model of a layer, as its contract declares it; by table, none without one."""
    return {
        f"{layer}.{model.name}": key(*model.key) if model.key else [] for model in models(layer)
    }


def present(column: str) -> Expectation:
    """No row is without a value."""
    return expect("ExpectColumnValuesToNotBeNull", f"{column} is present", column=column)


def one_of(column: str, *values: str) -> Expectation:
    """A value, where there is one, is a known one."""
    words = f"{column} is a known one"
    return expect("ExpectColumnValuesToBeInSet", words, column=column, value_set=list(values))


def between(column: str, low: float | None, high: float | None, words: str = "") -> Expectation:
    """Values lie between two bounds, both included; None is no bound."""
    words = words or f"{column} is between {low} and {high}"
    name = "ExpectColumnValuesToBeBetween"
    return expect(name, words, column=column, min_value=low, max_value=high)


def none(words: str, query: str, *, warns: bool = False) -> Expectation:
    """A query for what must not be finds nothing."""
    return Expectation(NO_ROWS, words, {"query": query}, warns)
