"""How far a table's changes can be read, whatever its columns were: SQL and Python say the same."""

import json
import random
from pathlib import Path
from typing import Any

from lake.manifest import Column, SourceTable
from lake.shapes import first_wait
from tests.dbt_project.conftest import ENGINES, compiled

COMPLETE, CASES = 900, 60
TYPES = (
    *("integer", "int4", "bigint", "smallint", "numeric(12,2)", "decimal(12, 2)", "numeric(12)"),
    *("numeric(12,0)", "numeric(39,2)", "text", "character varying(5)", "double precision"),
    *("timestamptz", "timestamp(3) with time zone", "timestamp without time zone", "boolean"),
    *("date", "real", "public.mood", "integer[]"),
)
NAMES = ("id", "Größe", 'it\'s "quoted"', "select")
Shapes = list[dict[str, Any]]


def drawn(chance: random.Random) -> tuple[SourceTable, Shapes, int]:
    """A declared table, the shapes that it took on at the source, and its newest snapshot's LSN."""
    declared = {name: chance.choice(TYPES) for name in NAMES}
    columns = tuple(Column(f"c{i}", kind, name) for i, (name, kind) in enumerate(declared.items()))
    shapes = []
    for lsn in sorted(chance.sample(range(COMPLETE), chance.randint(0, 4))):
        had = {name: kind for name, kind in declared.items() if chance.random() < 0.95}
        if had and chance.random() < 0.3:
            had[chance.choice([*had])] = chance.choice(TYPES)
        had |= {"another": "text"} if chance.random() < 0.3 else {}
        listed = [{"name": name, "type": kind} for name, kind in had.items()]
        shapes.append({"commit_lsn": lsn, "committed_at": None, "columns": json.dumps(listed)})
    return SourceTable("bronze.t", "public", "t", ("c0",), columns), shapes, chance.randint(0, 1000)


def asked(table: SourceTable, shapes: Shapes, snapshot: int) -> str:
    """The project's macro, called for a table as the graph would have it."""
    columns = [
        {"name": c.name, "type": c.type, "source_name": c.source_name} for c in table.columns
    ]
    listed = [
        {"source_table": name, "commit_lsn": s["commit_lsn"], "columns": json.loads(s["columns"])}
        for s in shapes
        for name in ("public.t", "public.other")
    ]
    return f"""
        {{%- set declared = {{'source_table': 'public.t', 'columns': {columns}}} -%}}
        {{%- for c in declared.columns -%}} {{%- do c.update(type=canonical_type(c.type)) -%}} {{%- endfor -%}}
        {{%- do graph.update(complete_lsn={COMPLETE}, shapes={listed}) -%}}
        {{{{ readable_lsn(declared, {snapshot}) }}}}
    """  # noqa: E501


def test_changes_wait_from_the_first_that_can_not_be_read_as_declared(tmp_path: Path) -> None:
    chance = random.Random(20261127)
    cases = [drawn(chance) for _ in range(CASES)]
    waits = [first_wait(*case) for case in cases]
    assert 10 < sum(wait is not None for wait in waits) < CASES - 10, "both are drawn"
    expected = [
        min(COMPLETE, max(wait.lsn, snapshot) - 1) if wait else COMPLETE
        for wait, (*_, snapshot) in zip(waits, cases, strict=True)
    ]
    for engine in ENGINES:
        found = compiled(tmp_path, engine, *(asked(*case) for case in cases))
        assert list(zip(cases, map(int, found), strict=True)) == list(
            zip(cases, expected, strict=True)
        )
