"""Volume and freshness, judged by what they were: how many rows a table has, how old bronze is.

The history is that of the runs whose publishes make up `lake` as it is. A figure may differ from
their median by a part of it, or by three times their usual deviation from it, which is the larger:
a table that grows or swings is judged by how it has done so. How much that is stands in the YAML,
as `meta.volume` and `meta.freshness`.

A figure that was not as usual and was published all the same is right: its history begins with it.
"""

from collections.abc import Sequence
from statistics import median
from typing import Literal

from pydantic import ValidationError
from pyspark.sql import functions as f

from lake import results, rules
from lake.catalog import catalog, row_count
from lake.contract import LONGEST, Limits
from lake.errors import LakeError
from lake.manifest import manifest, source_tables, table_nodes, table_of
from quality import frames
from quality.finding import Finding

Kind = Literal["volume", "freshness"]
SPREAD = 3 * 1.4826
"""Three standard deviations, by the median absolute deviation of what is distributed normally."""


def judge(layers: Sequence[str]) -> list[Finding]:
    """Judge the tables of layers, as they are now on this process's branch.

    Raises LakeError where limits are declared wrongly.
    """
    former = results.published(("volume", "freshness"), LONGEST)
    other_rules = rules.tables_touched_by(rules.changed())
    return [
        compare(
            layer, table, kind, value, former.get((kind, table), ()), limits, table in other_rules
        )
        for layer in layers
        for kind, table, value, limits in measure(layer)
    ]


def measure(layer: str) -> list[tuple[Kind, str, float, Limits]]:
    """Each figure of a layer, and its limits; nothing of a table that declares none."""
    counted = _loaded() if layer == "bronze" else _rows(layer)
    figures: list[tuple[Kind, str, float]] = [("volume", *one) for one in counted.items()]
    if layer == "bronze" and (age := _age()) is not None:
        figures.append(("freshness", "bronze.changes", age))
    return [
        (kind, table, value, limits)
        for kind, table, value in figures
        if (limits := _limits(kind, table))
    ]


def compare(
    layer: str,
    table: str,
    kind: Kind,
    value: float,
    former: Sequence[float],
    limits: Limits,
    has_other_rules: bool = False,
) -> Finding:
    """Judge one figure by former ones, the last first. A change is never too young.

    Rows that other rules were applied to than before may well be more or fewer: it is told.
    """
    former = former[: limits.of_last]
    what = "its rows are" if kind == "volume" else "the age of its newest change, in seconds, is"
    found = f"{value:,.0f}"
    if len(former) < limits.at_least:
        words, status = f"{what} as usual", "pass"
        expected = f"no judgement before {limits.at_least} published runs; there are {len(former)}"
    else:
        usual = median(former)
        spread = SPREAD * median(abs(one - usual) for one in former)
        slack = max(limits.within * usual, spread, limits.slack)
        low, high = max(usual - slack, 0.0), usual + slack
        words = f"{what} {low:,.0f} to {high:,.0f}"
        held = value <= high and (value >= low or kind == "freshness")
        status = "pass" if held else "warn" if has_other_rules else "fail"
        expected = f"{low:,.0f} to {high:,.0f}"
        found += f", where the last {len(former)} published runs had a median of {usual:,.0f}"
        if status == "warn":
            found += "; its rules, or those of what it is made of, have changed"
        if status == "fail":
            found += f"; if that is right, publish the branch, or widen meta.{kind} in its YAML"
    return Finding(layer, table, None, words, status, expected, found, kind, value)


def _rows(layer: str) -> dict[str, int]:
    """How many rows each model of a layer has, of those that are built."""
    built = {".".join(name) for name in catalog().list_tables(layer)}
    names = sorted(built & {table_of(node) for node in table_nodes().values()})
    return {name: row_count(catalog().load_table(name)) for name in names}


def _loaded() -> dict[str, int]:
    """How many rows the newest bulk load of each table has."""
    declared = source_tables()
    taken = frames.snapshots(declared)
    return {table.bronze: taken[table.qualified].counted for table in declared}


def _age() -> float | None:
    """How old the newest change is, in seconds."""
    age = f.unix_micros(f.current_timestamp()) - f.unix_micros(f.max("ingested_at"))
    found = frames.read("bronze.changes").agg((age / 1e6).alias("age")).first()
    return float(found.age) if found is not None and found.age is not None else None


def _limits(kind: Kind, table: str) -> Limits | None:
    nodes = manifest()["sources"] | table_nodes()
    (node,) = (one for one in nodes.values() if table_of(one) == table)
    declared = node["config"]["meta"].get(kind)
    try:
        return Limits(**declared) if declared else None
    except (TypeError, ValidationError) as error:
        said = str(error).strip().splitlines()[-1].strip()
        raise LakeError(
            f"{node['original_file_path']}: {node['name']}: config.meta.{kind} takes "
            f"{', '.join(Limits.model_fields)}: {said}"
        ) from None
