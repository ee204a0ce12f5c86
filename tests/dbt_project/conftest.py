"""Asking both engines what the project's macros make of a query."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import dbtRunner

from lake.manifest import PROJECT
from lake.settings import environment
from lake.stack import trino
from quality.frames import spark
from tests.conftest import end_spark_session

ENGINES = ("spark", "trino")
BREAK = "-- and"
Values = list[dict[str, Any]]
Ask = Callable[[str, str], Values]
Done = subprocess.CompletedProcess[str]
Dbt = Callable[..., Done]


@pytest.fixture
def dbt(tmp_path: Path) -> Dbt:
    """Runs a dbt command as a user does: on a branch, on an engine."""

    def run(on: str, engine: str, *arguments: str, project: Path = PROJECT) -> Done:
        target = str(tmp_path / f"{on}_{engine}")
        where = ("--target", engine, "--target-path", target, "--log-path", target)
        return subprocess.run(
            [Path(sys.executable).with_name("dbt"), *arguments, *where],
            cwd=project,
            env=os.environ | environment() | {"LAKE_BRANCH": on},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def ask(lake_stack: Path) -> Iterator[Ask]:
    """Asks an engine for the rows of a query, as Python's values."""
    end_spark_session()

    def rows_of(engine: str, query: str) -> Values:
        if engine == "spark":
            found: Values = spark().sql(query).toArrow().to_pylist()
            return found
        names, rows = trino.describe(query)
        return [dict(zip(names, row, strict=True)) for row in rows]

    yield rows_of
    end_spark_session()


def compiled(where: Path, engine: str, *queries: str) -> list[str]:
    """What the project's macros make of queries."""
    options = {
        "--project-dir": str(PROJECT),
        "--profiles-dir": str(PROJECT),
        "--target-path": str(where),
        "--log-path": str(where),
        "--log-level-file": "none",
        "--target": engine,
        "--inline": f"\n{BREAK}\n".join(queries),
    }
    words = (word for pair in options.items() for word in pair)
    offline = ("--no-populate-cache", "--no-introspect")
    done = dbtRunner().invoke(["--quiet", "compile", *offline, *words])
    assert done.success, done.exception
    result: Any = done.result
    text: str = result.results[0].node.compiled_code
    return text.split(BREAK)
