"""The materializations of dbt that a model may have: Iceberg tables, and `ephemeral`, a subquery.

A branch is a copy of pointers to tables, and a publish moves them. A view has none, its rows would
be other ones than those that were judged, and neither engine reads the other's.
"""

import re
from collections.abc import Iterator
from pathlib import Path

KINDS = ("table", "incremental", "ephemeral")
_INSTEAD = {
    "view": "`ephemeral` is a query by another name, `table` keeps its rows",
    "materialized_view": "`incremental` keeps up with what is new",
}
_IN_PROJECT = re.compile(r"""^\s*\+?materialized:\s*["']?(\w+)""")


def refused(materialized: object) -> str:
    """Why a materialization can't be had, and what can; nothing where it can, or is not told."""
    if materialized is None or materialized in KINDS:
        return ""
    choice = _INSTEAD.get(str(materialized), f"choose of {', '.join(KINDS)}")
    return f"`{materialized}` is none that the lake can branch, judge and publish: {choice}"


def mistakes(project: Path) -> Iterator[tuple[Path, int, str]]:
    """What of a project is of another kind, but for what each model says: file, line and words."""
    for path in sorted(project.glob("models/**/*.py")):
        yield path, 1, f"{path.stem}: models are in SQL, which both engines build; this is Python"
    declared = project / "dbt_project.yml"
    lines = declared.read_text().splitlines() if declared.exists() else []
    for number, line in enumerate(lines, 1):
        told = _IN_PROJECT.match(line)
        if told and (said := refused(told.group(1))):
            yield declared, number, said
