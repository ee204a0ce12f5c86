"""What a run costs where the source has many tables, most of them quiet.

    uv run python -m benchmarks.many 30

In an installation of its own, `.lake-bench/many`, which is made anew each time. The tables are of
1,000 rows, and scaffolded: current state, history and quarantine of each, in a project without the
loans' models. Measured are whole runs, gates and publish included.
"""

import os
import shutil

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.engines import run, timed
from lake.settings import ROOT

ROWS, CHANGED = 1_000, 3
ENGINES = ("spark", "trino")
SOURCE = """
    create table {name} (
        id bigint primary key, name text, amount numeric(12, 2), due_on date, is_open boolean,
        quantity integer, score double precision, updated_at timestamptz not null default now()
    );
    alter table {name} replica identity full;
    insert into {name} (id, name, amount, due_on, is_open, quantity, score)
        select i, 'n' || i, i, current_date, true, i, i from generate_series(1, {rows}) as i;
"""
console = Console(width=110)


def lake(*arguments: str) -> float:
    """Run a verb; how long it took, in seconds. Ends all of it where that fails."""
    return timed(lambda: run("lake", *arguments))


def use_installation() -> None:
    """Have a new installation and a project without the loans' models; the settings are theirs."""
    where = ROOT / ".lake-bench" / "many"
    os.environ["LAKE_STATE_DIR"] = str(where / "lake")
    from lake.manifest import copy_project

    if where.exists():
        lake("down", "--wipe")
        shutil.rmtree(where)
    os.environ["LAKE_PROJECT_DIR"] = str(copy_project(where / "dbt_project"))
    models = where / "dbt_project" / "models"
    for path in [*models.glob("gold/*"), *models.glob("silver/loan*"), models / "exposures.yml"]:
        path.unlink()


def fill(names: list[str]) -> None:
    """Have the tables at the source, declared, and in bronze."""
    from lake.demo.fill import fill
    from lake.demo.run import source

    with source() as connection:
        fill(connection, rows=1, progress=lambda *_: None)  # bronze still declares them
        for name in names:
            connection.execute(SOURCE.format(name=name, rows=ROWS).encode())
    lake("scaffold", *names)
    lake("ingest")


def change(names: list[str]) -> None:
    """Have the source change some rows of these tables, and bronze hold that."""
    from lake import lag
    from lake.demo.run import source

    with source() as connection:
        for name in names:
            connection.execute(f"update {name} set amount = amount + 1 where id <= 100".encode())
    lag.catch_up()


def main(tables: int) -> None:
    """Measure, and print."""
    names = [f"thing_{number:03}" for number in range(tables)]
    use_installation()
    lake("up")
    try:
        fill(names)
        table = Table("ENGINE", "EVERYTHING ANEW, s", "NOTHING NEW, s", f"{CHANGED} CHANGED, s")
        for engine in ENGINES:
            took = [lake("run", "--target", engine, *more) for more in (["--full-refresh"], [])]
            change(names[:CHANGED])
            took.append(lake("run", "--target", engine))
            table.add_row(engine, *(f"{seconds:.0f}" for seconds in took))
        console.print(f"[bold]{tables} tables, {3 * tables} models[/]", table)
    finally:
        lake("down")


if __name__ == "__main__":
    typer.run(main)
