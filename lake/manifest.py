"""The dbt project as the contract: what its manifest declares about sources and models.

dbt writes the manifest when it parses; it is parsed again when a file of the project is newer.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lake.errors import LakeError
from lake.settings import environment, settings
from lake.stack.program import tied

PROJECT = settings().project_dir.resolve()


@dataclass(frozen=True)
class Column:
    """A declared column; `type` is the source's, as Postgres writes it: `numeric(12,2)`."""

    name: str
    type: str


@dataclass(frozen=True)
class SourceTable:
    """A table of the source that the project declares, and that is captured.

    `bronze` is the Iceberg table of its bulk snapshots.
    """

    bronze: str
    schema: str
    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


def source_tables() -> list[SourceTable]:
    """The declared tables of the source, by name.

    Raises LakeError where a declaration has no key or a column has no type.
    """
    declared = [
        node
        for node in manifest()["sources"].values()
        if node["source_name"] == "bronze" and "source_table" in node["config"]["meta"]
    ]
    return sorted((_source_table(node) for node in declared), key=lambda table: table.qualified)


def _source_table(node: dict[str, Any]) -> SourceTable:
    where = f"{node['original_file_path']}: {node['name']}"
    meta = node["config"]["meta"]
    schema, _, name = meta["source_table"].rpartition(".")
    columns = tuple(Column(c["name"], c["data_type"] or "") for c in node["columns"].values())
    key = tuple(meta.get("key", ()))
    if not key or not set(key) <= {column.name for column in columns}:
        raise LakeError(f"{where}: config.meta.key must list columns that it declares")
    for column in columns:
        if not column.type:
            raise LakeError(f"{where}.{column.name}: data_type must be the column's Postgres type")
    bronze = f"bronze.{node['identifier']}"
    return SourceTable(bronze, schema or "public", name, key, columns)


@lru_cache
def manifest() -> dict[str, Any]:
    """dbt's manifest of the project as it stands on disk.

    Raises LakeError, with dbt's own words, where the project does not parse.
    """
    loaded: dict[str, Any] = json.loads(manifest_text())
    return loaded


def manifest_text() -> str:
    """The same, as dbt wrote it."""
    path = PROJECT / "target" / "manifest.json"
    if not path.exists() or path.stat().st_mtime < _newest():
        dbt("parse", "--quiet")
    return path.read_text()


def dbt(*arguments: str) -> None:
    """Run a dbt command on the project, its output on this terminal.

    Raises LakeError where dbt fails.
    """
    directories = ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
    verb, *options = arguments  # which come last, so that they may name another project
    command = [str(Path(sys.executable).with_name("dbt")), verb, *directories, *options]
    done = subprocess.run(tied(command), env=os.environ | environment(), cwd=PROJECT)
    if done.returncode:
        raise LakeError(f"`dbt {' '.join(arguments)}` failed; what it printed says where")


def _newest() -> float:
    """When a file of the project was last changed, in seconds since the epoch."""
    files = (
        Path(folder) / name
        for folder, folders, names in os.walk(PROJECT)
        for name in names
        if not {"target", "logs"} & set(Path(folder).relative_to(PROJECT).parts)
    )
    return max(file.stat().st_mtime for file in files)
