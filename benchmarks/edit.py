"""From saving a change of one model to seeing its result on a branch, in seconds.

    uv run lake demo && uv run python -m benchmarks.edit

It works on the running stack and its rows, on branches of its own, which are dropped. A model is
edited in a copy of the project; then `lake build --select state:modified+` builds it anew, with
what depends on it and all their tests, and `lake sql` asks for its rows. Beside it stands what one
would do without a state and branches: to build the whole project.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import typer
from rich.console import Console
from rich.table import Table

from lake.manifest import copy_project

MODELS = ("agg_loan_approvals", "ftr_loans", "fct_loans")
ENGINES = ("spark", "trino")
MODIFIED = ("--select", "state:modified+")
ROUNDS = 3
console = Console(width=110)


def lake(*arguments: str) -> float:
    """How long a verb took, in seconds."""
    command = [str(Path(sys.executable).with_name("lake")), *arguments]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
    return time.perf_counter() - began


def built(project: Path, model: str, engine: str, *select: str) -> float:
    """Build and ask on a fresh branch; seconds of both."""
    name = "bench_edit"
    lake("branch", "create", name)
    try:
        options = ("--target", engine, "--full-refresh", "--project-dir", str(project))
        seconds = lake("--branch", name, "build", *select, *options)
        return seconds + lake("--branch", name, "sql", f"select count(*) from gold.{model}")
    finally:
        lake("branch", "drop", name)


def main() -> None:
    """Measure, and print."""
    table = Table("EDITED", *(f"{engine}, seconds" for engine in ENGINES))
    with TemporaryDirectory() as scratch:
        for model in MODELS:
            project = copy_project(Path(scratch) / model)
            path = project / "models" / "gold" / f"{model}.sql"
            path.write_text(f"{path.read_text()}\n-- edited\n")
            table.add_row(f"{model}, and what depends on it", *medians(project, model, MODIFIED))
        table.add_row("any, all models built", *medians(project, model, ()))
    console.print(f"[bold]from the edit to its result, median of {ROUNDS}[/]", table)


def medians(project: Path, model: str, select: tuple[str, ...]) -> list[str]:
    """For each engine."""
    return [
        f"{statistics.median(built(project, model, engine, *select) for _ in range(ROUNDS)):.1f}"
        for engine in ENGINES
    ]


if __name__ == "__main__":
    typer.run(main)
