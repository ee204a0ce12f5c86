"""The kinds of dbt's that a project may have: what becomes an Iceberg table, or a part of one.

A model is a table, incremental, or `ephemeral`, a subquery; seeds and snapshots are tables too.

A branch is a copy of pointers to tables, and a publish moves them. A view has none, its rows would
be other ones than those that were judged, and neither engine reads the other's.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

FOLDERS = ("models", "seeds", "snapshots")
"""Where a project declares what it builds, by kind and below that by layer."""
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
    for path in sorted(project.glob("snapshots/**/*.sql")):
        said = "declare a snapshot in a .yml, by `relation`, `unique_key` and `strategy`"
        yield path, 1, f"{path.stem}: {said}; what it selects is a model, which may be ephemeral"
    declared = project / "dbt_project.yml"
    text = declared.read_text() if declared.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        told = _IN_PROJECT.match(line)
        if told and (said := refused(told.group(1))):
            yield declared, number, said
    yield from ((declared, line, said) for line, said in _no_folders(project, text))


def _no_folders(project: Path, text: str) -> Iterator[tuple[int, str]]:
    """Settings of `dbt_project.yml` for folders that do not exist."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        yield no_yaml(error)
        return
    for kind, of_kind in _below(root):
        if kind.value in FOLDERS:
            for _, of_project in _below(of_kind):
                for folder, _ in _below(of_project):
                    if not (project / kind.value / folder.value).exists():
                        said = f"there is no folder {kind.value}/{folder.value}"
                        yield folder.start_mark.line + 1, f"{said}; a setting begins with `+`"


def no_yaml(error: yaml.MarkedYAMLError) -> tuple[int, str]:
    """The line and the reason of a syntax error in a YAML file."""
    mark = error.problem_mark or error.context_mark
    said = " ".join(filter(None, (error.problem, error.context)))
    return (mark.line + 1 if mark else 1), f"no YAML: {said}"


def _below(node: yaml.Node | None) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """The entries of a mapping whose keys are folders, not settings."""
    if isinstance(node, yaml.MappingNode):
        yield from (pair for pair in node.value if not pair[0].value.startswith("+"))
