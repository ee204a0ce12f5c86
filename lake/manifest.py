"""What the dbt project declares about sources and models, as its manifest says it.

dbt writes the manifest when it parses; it is parsed again when a file of the project is newer. The
files are checked before (`lake.contract`), again when one is newer than what was checked last.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lake.errors import LakeError
from lake.names import parts, qualified
from lake.settings import TRUNK, environment, on_branch, settings
from lake.stack.program import tied

PROJECT = settings().project_dir.resolve()
TARGET = PROJECT / "target"
"""Where dbt writes what it found and did."""
MADE = ("target", "logs")
"""The directories of the project that dbt makes."""
BUILT = ("model", "seed", "snapshot")
"""What of a project becomes a table."""
VALID_FROM = "dbt_valid_from"
SNAPSHOT_COLUMNS = ("dbt_scd_id", "dbt_updated_at", VALID_FROM, "dbt_valid_to")
"""The columns that dbt adds to a snapshot's input."""
RULES = Path(__file__).with_name("contract.py")


@dataclass(frozen=True)
class Column:
    """A declared column: its name in the lake and at the source.

    `type` is the source's, as Postgres writes it: `numeric(12,2)`.
    """

    name: str
    type: str
    source_name: str


@dataclass(frozen=True)
class SourceTable:
    """A table of the source that the project declares, and that is captured.

    `bronze` is the Iceberg table of its bulk snapshots. With `keeps_truncated` silver keeps the
    rows that a TRUNCATE deleted.
    """

    bronze: str
    schema: str
    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    keeps_truncated: bool = False

    @property
    def qualified(self) -> str:
        return qualified(self.schema, self.name)


@dataclass(frozen=True)
class Model:
    """A table that the project builds. `key` is what its `is_key` test names, or is a snapshot's.

    A history of rows names the model of the same rows as they are in `history_of`, a quarantine the
    model that they are kept out of in `quarantine_of`.
    """

    name: str
    key: tuple[str, ...]
    history_of: str | None
    quarantine_of: str | None


def models(layer: str) -> list[Model]:
    """The models of a layer, by name."""
    nodes = manifest()["nodes"].values()
    keys = {
        node["attached_node"]: tuple(node["test_metadata"]["kwargs"]["columns"])
        for node in nodes
        if (node.get("test_metadata") or {}).get("name") == "is_key"
    }
    found = [
        Model(
            node["name"],
            keys.get(node["unique_id"]) or snapshot_key(node),
            node["config"]["meta"].get("history_of"),
            node["config"]["meta"].get("quarantine_of"),
        )
        for node in table_nodes().values()
        if node["fqn"][1] == layer
    ]
    return sorted(found, key=lambda model: model.name)


def current_models(table: SourceTable) -> list[str]:
    """The models of silver that are a source table as it is now, by name.

    They are made by the macro `current_state`, of that table or of its history.
    """
    found = [
        node["name"]
        for key, node in table_nodes().items()
        if node["fqn"][1] == "silver"
        and any(macro.endswith(".current_state") for macro in node["depends_on"]["macros"])
        and table.bronze in _landed(key)
    ]
    return sorted(found)


def _landed(model: str) -> set[str]:
    """The tables of bronze that a model, by its id, is made of."""
    sources, ahead, found = manifest()["sources"], [model], set()
    while ahead:
        key = ahead.pop()
        if key in sources:
            found.add(f"bronze.{sources[key]['identifier']}")
        else:
            ahead += parents(manifest()["nodes"][key])
    return found


def source_tables(of: Mapping[str, Any] | None = None) -> list[SourceTable]:
    """The declared tables of the source in a manifest, the project's if left out, by name."""
    declared = [
        node
        for node in (manifest() if of is None else of)["sources"].values()
        if node["source_name"] == "bronze" and "source_table" in node["config"]["meta"]
    ]
    return sorted((_source_table(node) for node in declared), key=lambda table: table.qualified)


def named_tables(names: Sequence[str], declared: Sequence[SourceTable]) -> list[SourceTable]:
    """The tables of these names: of bronze, at the source with the schema, or without where one is.

    Raises LakeError where a name is none of a declared table, or of several.
    """
    return [_named(name, declared) for name in names]


def _named(name: str, declared: Sequence[SourceTable]) -> SourceTable:
    for table in declared:
        if name in (table.qualified, table.bronze, table.bronze.removeprefix("bronze.")):
            return table
    found = [table for table in declared if table.name == name]
    if len(found) == 1:
        return found[0]
    choice = ", ".join(table.qualified for table in found or declared)
    why = "is the name of several tables" if found else "is no table that is declared"
    raise LakeError(f"`{name}` {why}: choose of {choice}")


def _source_table(node: dict[str, Any]) -> SourceTable:
    meta = node["config"]["meta"]
    schema, name = parts(meta["source_table"])
    columns = tuple(
        Column(c["name"], c["data_type"], c["config"]["meta"].get("source_column", c["name"]))
        for c in node["columns"].values()
    )
    bronze, keeps_truncated = f"bronze.{node['identifier']}", meta.get("truncate") == "ignore"
    return SourceTable(bronze, schema, name, tuple(meta["key"]), columns, keeps_truncated)


@lru_cache
def manifest() -> dict[str, Any]:
    """dbt's manifest of the project as it stood on disk when this process first asked.

    Raises LakeError, with dbt's own words, where the project does not parse.
    """
    loaded: dict[str, Any] = json.loads(manifest_text())
    return loaded


@lru_cache
def manifest_text() -> str:
    """The same, as dbt wrote it."""
    check()
    path = TARGET / "manifest.json"
    if _is_stale(path):
        dbt("parse", "--quiet")
    return path.read_text()


def forget() -> None:
    """Have the manifest be read again, of the project as it stands on disk then."""
    manifest.cache_clear()
    manifest_text.cache_clear()


def check(project: Path | None = None) -> None:
    """Read a project's files, ours if left out, for mistakes; not again while they have none.

    Raises LakeError with a line for each mistake, as `file:line: what is wrong`.
    """
    project = project or PROJECT
    stamp = project / TARGET.name / "checked"
    newest = max(changed_at(project), RULES.stat().st_mtime)
    if stamp.exists() and stamp.stat().st_mtime >= newest:
        return
    from lake import contract  # heavy

    if found := contract.mistakes(project):
        raise LakeError("\n".join(map(str, found)))
    stamp.parent.mkdir(exist_ok=True)
    stamp.touch()
    os.utime(stamp, (newest, newest))  # a file that was changed meanwhile is newer


def parsed(engine: str) -> dict[str, Any]:
    """The manifest as dbt makes it for an engine: config and macros depend on that.

    Raises LakeError, with dbt's own words, where the project does not parse.
    """
    target = TARGET / f"parsed_{engine}"
    path = target / "manifest.json"
    if _is_stale(path):
        dbt("parse", "--quiet", "--target", engine, "--target-path", str(target))
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def compiled() -> dict[str, Any]:
    """The manifest with each model's SQL as of a first build, in Spark's words.

    No engine is asked for it.

    Raises LakeError, with dbt's own words, where the project does not compile.
    """
    target = TARGET / "compiled_offline"
    path = target / "manifest.json"
    if _is_stale(path):
        offline = ("--no-introspect", "--no-populate-cache", "--full-refresh", "--target", "spark")
        with on_branch(TRUNK):  # a branch would be opened
            dbt("compile", "--quiet", *offline, "--target-path", str(target))
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def table_of(node: Mapping[str, Any]) -> str:
    """The table of a model or a source: `gold.fct_loans`."""
    return f"{node['schema']}.{node.get('alias') or node['identifier']}"


def table_nodes(of: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """What a manifest, the project's if left out, says of each table that it builds, by dbt's id.

    An ephemeral model is a part of those that read it.
    """
    nodes = (manifest() if of is None else of)["nodes"].items()
    return {
        key: node
        for key, node in nodes
        if node["resource_type"] in BUILT and not is_ephemeral(node)
    }


def snapshot_key(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The key columns of a snapshot's versions; empty for a table that is no snapshot."""
    if node["resource_type"] != "snapshot":
        return ()
    return (*merge_key(node), VALID_FROM)


def merge_key(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of dbt's `unique_key`; empty where the node has none."""
    key = node["config"].get("unique_key") or ()
    return (key,) if isinstance(key, str) else tuple(key)


def parents(node: Mapping[str, Any]) -> list[str]:
    """The ids of a node's inputs; empty for a seed."""
    found: list[str] = node["depends_on"].get("nodes", [])
    return found


def is_ephemeral(node: Mapping[str, Any]) -> bool:
    """Whether a model is no table, but a part of the queries that read it."""
    return bool(node["config"].get("materialized") == "ephemeral")


def below(ids: set[str], of: Mapping[str, Any] | None = None) -> set[str]:
    """All that a manifest, the project's if left out, builds on these; not these themselves."""
    children = (manifest() if of is None else of)["child_map"]
    found: set[str] = set()
    ahead = list(ids)
    while ahead:
        new = set(children.get(ahead.pop(), ())) - found
        found |= new
        ahead += new
    return found - ids


def copy_project(to: Path) -> Path:
    """Copy the project's own files, and nothing that dbt has made of them; returns `to`."""
    return Path(shutil.copytree(PROJECT, to, ignore=shutil.ignore_patterns(*MADE)))


def dbt(*arguments: str) -> None:
    """Run a dbt command on the project, its output on this terminal.

    Raises LakeError where the project has mistakes or dbt fails.
    """
    _dbt(arguments, None)


def selected(*options: str) -> list[str]:
    """The ids of what dbt selects by these options, such as `--select state:modified`.

    Raises LakeError where dbt fails.
    """
    listed = _dbt(
        ("ls", "--quiet", "--output", "json", "--output-keys", "unique_id", *options),
        subprocess.PIPE,
    )
    return [json.loads(line)["unique_id"] for line in listed.splitlines() if line.startswith("{")]


def _dbt(arguments: Sequence[str], stdout: int | None) -> str:
    """What dbt wrote, where `stdout` is a pipe."""
    check()
    directories = ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
    verb, *options = arguments  # which come last, so that they may name another project
    command = [str(Path(sys.executable).with_name("dbt")), verb, *directories, *options]
    done = subprocess.run(
        tied(command),
        env=os.environ | environment(),
        cwd=PROJECT,
        stdout=stdout,
        text=True,
    )
    if done.returncode:
        sys.stderr.write(done.stdout or "")
        raise LakeError(f"`dbt {verb}` failed; what it printed says where")
    return done.stdout or ""


def dbt_version() -> str:
    return version("dbt-core")


def digest(salt: str) -> str:
    """Of the project's own files, by path and content, and of something that is mixed in."""
    found = sha256(salt.encode())
    for path in sorted(_files(PROJECT)):
        found.update(f"{path.relative_to(PROJECT)}\0".encode())
        found.update(sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def _files(project: Path) -> Iterator[Path]:
    return (folder / name for folder, _, names in _walk(project) for name in names)


def _walk(project: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder of a project's own, with the names of its folders and files."""
    for folder, folders, names in os.walk(project):
        folders[:] = [name for name in folders if name not in MADE]
        yield Path(folder), folders, names


def _is_stale(written: Path) -> bool:
    return not written.exists() or written.stat().st_mtime < changed_at(PROJECT)


def changed_at(project: Path) -> float:
    """When a file of a project was last changed, in seconds since the epoch.

    dbt's plugin gives a manifest that time, as it was before dbt read the files.
    """
    changed = [
        folder / name  # a folder too, which is newer without a file that is gone
        for folder, folders, names in _walk(project)
        for name in (*folders, *names)
    ]
    return max(path.stat().st_mtime for path in changed)
