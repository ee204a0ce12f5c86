"""The `lake` command: each verb calls one plain function, and imports its room only then."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lake.errors import GateError, LakeError

cli = typer.Typer(
    name="lake",
    help="From Postgres to gold and features, on one machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True, soft_wrap=True)


@cli.command()
def up() -> None:
    """Start the stack and wait until it is ready."""
    from lake.stack import lifecycle

    lifecycle.up()


@cli.command()
def down(
    wipe: Annotated[bool, typer.Option(help="remove all data, logs and credentials too")] = False,
) -> None:
    """Stop the stack."""
    from lake.stack import lifecycle

    lifecycle.down(wipe=wipe)


@cli.command()
def ingest() -> None:
    """Copy every declared table of the source into bronze, then capture its changes."""
    from ingestion.snapshot import ingest as run
    from lake.stack import lifecycle, postgres

    print(run(lambda: postgres.admin("source"), lambda *a: print(*a)))
    lifecycle.start_capture()


def app() -> None:
    """Run the command; what the user can mend is one line and an exit code."""
    try:
        cli(standalone_mode=False)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        errors.print("[yellow]interrupted[/]")
        sys.exit(130)
    except GateError as error:
        errors.print(f"[red]gate:[/] {error}", highlight=False)
        sys.exit(1)
    except LakeError as error:
        errors.print(f"[red]error:[/] {error}", highlight=False)
        sys.exit(2)
