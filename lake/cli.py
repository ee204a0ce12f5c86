"""The `lake` command: each verb calls one plain function, and imports its room only then."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from lake.errors import GateError, LakeError
from lake.settings import LAYERS

if TYPE_CHECKING:
    from quality.finding import Report

cli = typer.Typer(
    name="lake",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(width=None if sys.stdout.isatty() else 120)  # a file or a pipe is not narrow
err = Console(stderr=True, soft_wrap=True)

HOW = {
    "create": "built",
    "increment": "brought up to date",
    "replay": "taken up again",
    "rebuild": "made anew",
}
All = Annotated[bool, typer.Option("--all", help="build every table, stale or not")]
Explain = Annotated[bool, typer.Option("--explain", help="say what is stale, why; build nothing")]
DropUndeclared = Annotated[
    bool, typer.Option("--drop-undeclared", help="drop the tables of models that are gone, too")
]
STACK, WAY, SOURCE = "The stack", "The way of a row", "The demo's source"
BRANCHES, QUERYING = "Branches and publishes", "Querying"


@cli.callback()
def on(
    branch: Annotated[
        str | None, typer.Option(help="the branch, tag or publish to work on, as LAKE_BRANCH")
    ] = None,
) -> None:
    """From Postgres to gold and features, on one machine."""
    if branch:
        os.environ["LAKE_BRANCH"] = branch


@cli.command(rich_help_panel=STACK)
def up() -> None:
    """Start the stack and wait until it is ready."""
    from lake.stack import lifecycle

    lifecycle.up()


@cli.command(rich_help_panel=STACK)
def down(
    wipe: Annotated[bool, typer.Option(help="remove all data, logs and credentials too")] = False,
) -> None:
    """Stop the stack."""
    from lake.stack import lifecycle

    lifecycle.down(wipe=wipe)


@cli.command(rich_help_panel=STACK)
def status(
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Show every part, how far bronze and gold are, and the tables. Exits 1 if a part is down."""
    from lake.stack import status

    found = status.status()
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, default=str))
    else:
        out.print(status.render(found), highlight=False)
    raise typer.Exit(0 if found.ready else 1)


@cli.command(rich_help_panel=STACK)
def logs(
    part: Annotated[
        str, typer.Argument(help="postgres, source, minio, valkey, trino, spark or capture")
    ],
    lines: Annotated[int, typer.Option("--lines", "-n", help="how many of the last lines")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as it grows")] = False,
) -> None:
    """Show the log of a part."""
    from lake.stack.program import log_of

    options = ["-n", str(lines), *(["-F"] if follow else [])]
    os.execvp("tail", ["tail", *options, str(log_of(part))])  # noqa: S606, S607 - any tail will do


@cli.command(rich_help_panel=STACK)
def doctor() -> None:
    """Look for what is wrong with this machine and installation. Exits 1 if something is."""
    from lake.stack import doctor

    well = True
    for finding in doctor.examine():
        mark = "[green]✓[/]" if finding.well else "[red]✗[/]"
        remedy = f" — {finding.remedy}" if finding.remedy and not finding.well else ""
        line = f"{mark} {finding.what}: {escape(finding.detail + remedy)}"
        out.print(line, highlight=False, soft_wrap=True)
        well = well and finding.well
    raise typer.Exit(0 if well else 1)


@cli.command(rich_help_panel=WAY)
def ingest(
    again: Annotated[
        list[str] | None,
        typer.Option(help="a table to take a new snapshot of, such as loan_payment"),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option(help="take all tables anew; what was landed gets another name")
    ] = False,
) -> None:
    """Copy into bronze what it lacks of the declared tables, and capture their changes."""
    from ingestion.snapshot import ingest
    from lake.manifest import source_tables
    from lake.stack import lifecycle, postgres
    from lake.stack.program import require

    require("postgres", "minio")
    if from_scratch:
        lifecycle.stop_capture()
    with Progress(*Progress.get_default_columns(), console=err, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(table: str, done: int, pages: int) -> None:
            if table not in tasks:
                tasks[table] = bars.add_task(table)
            bars.update(tasks[table], completed=done, total=pages)

        load = ingest(
            source_tables(),
            postgres.source_owner(),
            show,
            again or (),
            say=_say,
            from_scratch=from_scratch,
        )
    if load.rows:
        rows = sum(load.rows.values())
        names = ", ".join(load.rows)
        err.print(f"{rows:,} rows of {names} in {load.seconds:.1f} s", highlight=False)
    elif not load.suspended:
        err.print("bronze is loaded already")
    lifecycle.start_capture()
    if load.suspended:
        raise LakeError("\n".join(f"suspended: {trouble}" for trouble in load.suspended))


@cli.command(
    rich_help_panel=WAY,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def build(context: typer.Context, everything: All = False, explain: Explain = False) -> None:
    """Build what is stale of silver and gold on a branch. Takes the options of `dbt build`."""
    from lake.build import build
    from lake.catalog import access
    from lake.stack.program import require

    if explain:
        _explain()
        return

    require("postgres", "minio", "trino" if "trino" in context.args else "spark")
    if not access().is_writable:
        raise LakeError(
            f"`{access().branch}` is not built on: make a branch, `lake branch create NAME`, "
            "and `lake --branch NAME build`; or build and publish with `lake run`"
        )
    build(_build_options(context, everything=everything), _say)


@cli.command(rich_help_panel=WAY)
def check() -> None:
    """Look for mistakes in the dbt project, and for what is still to be written. Exits 1 if so."""
    from lake import contract
    from lake.manifest import PROJECT

    found = [*contract.mistakes(PROJECT), *contract.unwritten(PROJECT)]
    for one in found:
        out.print(str(one), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1 if found else 0)


@cli.command(rich_help_panel=WAY)
def scaffold(
    tables: Annotated[
        list[str], typer.Argument(help="tables of the source, such as public.customer")
    ],
) -> None:
    """Declare tables of the source, with state, history and quarantine of each in silver."""
    from ingestion.scaffold import scaffold

    written: set[Path] = set()
    for table in tables:
        made = scaffold(table)
        for path in made.files:
            if path not in written:
                err.print(f"wrote {path}", highlight=False)
        written |= {*made.files}
        err.print(f"what is left to you of {table}:", highlight=False, markup=False)
        for one in made.left:
            err.print(f"- {one}", highlight=False, markup=False)
    err.print("then `lake ingest`, `lake run`")


@cli.command(rich_help_panel=WAY)
def validate(
    layer: Annotated[
        str | None, typer.Argument(help="bronze, silver or gold; all if left out")
    ] = None,
) -> None:
    """Judge a layer by its expectations. Exits 1 where one failed, with a line for each."""
    from lake.stack.program import require
    from quality.gate import validate

    require("postgres", "minio", "spark")
    with _doing("judging") as say:
        layers = [layer] if layer else LAYERS
        judged = validate(layers, lambda _, table: say(f"judging {table}"))
    _warn(judged)
    judged.enforce()
    held = len(judged.findings) - len(judged.warnings)
    err.print(f"{held} expectations hold")


@cli.command(rich_help_panel=WAY)
def verify(
    tables: Annotated[
        list[str] | None, typer.Argument(help="of the source, such as public.loan; all if left out")
    ] = None,
    bronze: Annotated[
        bool, typer.Option("--bronze", help="compare with bronze alone, not with silver")
    ] = False,
    sample: Annotated[
        float, typer.Option(min=0.0001, max=1, help="the part of the keys, other ones each time")
    ] = 1,
    examples: Annotated[int, typer.Option(min=0, help="how many rows to name of each table")] = 5,
    values: Annotated[bool, typer.Option("--values", help="show their values too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Compare the source with silver, row by row, while both go on.

    Exits 0 where all is equal, 1 where something differs, 2 where that can't be said.
    """
    from lake.stack.program import require
    from lake.verify import report, run

    require("postgres", "minio", "trino")
    options = run.Options(tables or (), bronze, sample, examples, values)
    with _doing("comparing") as say:
        found = run.verify(options, say)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, default=str))
    else:
        for line in report.lines(found):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(found.exit_code)


@cli.command(rich_help_panel=WAY)
def materialize() -> None:
    """Bring the online features up to gold."""
    from feature_repo import features
    from lake.stack.program import require

    require("postgres", "minio", "valkey")
    with Progress(*Progress.get_default_columns(), console=err, transient=True) as bars:
        task = bars.add_task("loans", total=None)
        done = features.materialize(lambda n, of: bars.update(task, completed=n, total=of))
    err.print(f"{done.written:,} loans written, {done.removed:,} removed, {done.seconds:.1f} s")


@cli.command(rich_help_panel=WAY)
def features(loan_ids: Annotated[list[int], typer.Argument(help="loans, by their id")]) -> None:
    """Print the online features of loans as JSON; null for a loan that has none."""
    from feature_repo import features
    from lake.stack.program import require

    require("postgres", "valkey")
    typer.echo(json.dumps(features.online(loan_ids), indent=2))


@cli.command(rich_help_panel=WAY)
def train() -> None:
    """Train the approval model on gold, judge it, register it; the better one becomes champion."""
    from feature_repo import features
    from lake.branches.branch import pinned
    from lake.branches.publish import code_version
    from lake.stack.program import require
    from training.train import train

    require("postgres", "minio")
    with err.status("training"), pinned() as publish:
        done = train(features.training_frame(), publish, code_version())
    err.print(
        f"version {done.version}: ROC AUC {done.scores.roc_auc:.4f} on {done.judged_rows:,} later"
        f" loans, trained on {done.trained_rows:,}, {done.seconds:.1f} s",
        highlight=False,
    )
    before = f" (the one so far: {done.champion.roc_auc:.4f})" if done.champion else ""
    err.print(f"it is {'the champion' if done.is_champion else 'not the champion'}{before}")


@cli.command(rich_help_panel=WAY)
def serve() -> None:
    """Answer how likely loans are approved, over HTTP on LAKE_PORTS__SERVING, until Ctrl-C."""
    import uvicorn

    from feature_repo import features
    from lake.settings import settings
    from lake.stack.program import require
    from serving.api import api, champion

    require("postgres", "minio", "valkey")
    served = api(champion(), features.online)
    uvicorn.run(served, host=settings().host, port=settings().ports.serving)


@cli.command(
    rich_help_panel=WAY,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def run(
    context: typer.Context,
    everything: All = False,
    explain: Explain = False,
    drop_undeclared: DropUndeclared = False,
) -> None:
    """Build what is stale on a branch of its own, judge, publish. Takes `dbt build`'s options."""
    if explain:
        _explain()
    else:
        _run(_build_options(context, everything=everything), drop_undeclared=drop_undeclared)


def _build_options(context: typer.Context, *, everything: bool) -> list[str]:
    from lake.build import ALL

    return [*([ALL] if everything else []), *context.args]


def _explain() -> None:
    """Say of each table whether it is what the code makes of what was landed, and why not."""
    from rich.table import Table

    from lake import provenance
    from lake.settings import settings
    from lake.stack.program import require

    require("postgres", "minio")
    waiting = {one.code.table: one for one in provenance.stale(settings().branch)}
    listed = Table("TABLE", "WOULD BE", "BECAUSE", box=None, pad_edge=False)
    listed.columns[0].no_wrap = True
    for table in provenance.codes():
        one = waiting.get(table)
        listed.add_row(table, HOW[one.how] if one else "left alone", one.reason if one else "")
    for table in provenance.undeclared(settings().branch):
        listed.add_row(
            table, "left alone", "no model makes it any more: --drop-undeclared drops it"
        )
    out.print(listed, highlight=False)


@cli.command(rich_help_panel=WAY)
def replay(
    name: Annotated[
        str | None, typer.Argument(help="a model, or a table of the source; all if left out")
    ] = None,
    since: Annotated[
        int, typer.Option("--from", help="an LSN: only what was landed from there on")
    ] = -1,
    target: Annotated[Literal["spark", "trino"], typer.Option(help="the engine")] = "spark",
) -> None:
    """Judge again what was landed, and publish it: as `run` does. On a branch, only build there."""
    from lake.build import build
    from lake.catalog import access
    from lake.run import replay
    from lake.stack.program import require

    require("postgres", "minio", "spark", *(["trino"] if target == "trino" else []))
    options = [*replay([name] if name else [], since), "--target", target]
    if access().is_writable:
        build(options, _say)
    else:
        _run(options)


def _run(options: Sequence[str], *, drop_undeclared: bool = False) -> None:
    from lake import run
    from lake.stack.program import require

    require("postgres", "minio", "spark")
    done = run.run(options, _say, drop_undeclared=drop_undeclared)
    if done.is_idle:
        err.print(f"nothing to do: {_as_of()}", highlight=False)
        return
    _warn(done.judged)
    if done.publish is None:
        err.print("nothing changed, nothing to publish")
    else:
        err.print(f"published as {done.publish}: {', '.join(done.tables)}", highlight=False)


def _as_of() -> str:
    from lake import lag

    built = lag.built()
    return f"gold is the source as of {built}" if built else "nothing was landed yet"


def _say(line: str) -> None:
    err.print(line, highlight=False, markup=False)


@contextmanager
def _doing(what: str) -> Iterator[Callable[[str], None]]:
    """Progress messages of a long step: a status line on a terminal, one line each elsewhere."""
    if err.is_terminal:
        with err.status(what) as doing:
            yield doing.update
    else:
        yield _say


def _warn(judged: "Report") -> None:
    for finding in judged.warnings:
        err.print(f"[yellow]warn:[/] {escape(str(finding))}", highlight=False)


@cli.command(
    rich_help_panel=WAY,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def ci(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="keep the branch, for a look")] = False,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="build as the next run would, not anew")
    ] = False,
    report: Annotated[
        Path, typer.Option(help="the directory for report.md and report.html")
    ] = Path("lake-ci"),
) -> None:
    """Build and judge on a branch what the project modifies, and report it. Publishes nothing.

    Takes the options of `dbt build`. Exits 1 where a build, a test or a gate failed.
    """
    from lake.ci import run
    from lake.stack.program import require

    require("postgres", "minio", "trino" if "trino" in context.args else "spark")

    done = run.ci(context.args, _say, report, keep=keep, incremental=incremental)
    for failure in done.failures:
        err.print(f"[red]failed:[/] {escape(str(failure))}", highlight=False)
    err.print(f"{escape(done.verdict)}\n{report / 'report.html'}", highlight=False)
    raise typer.Exit(0 if done.is_well else 1)


@cli.command(rich_help_panel=QUERYING)
def lineage(
    column: Annotated[str, typer.Argument(help="as gold.fct_loans.is_approved")],
) -> None:
    """Show what a column is made of, through to bronze, and what is made of it."""
    from lake.lineage import tree

    out.print(tree(column), highlight=False)


@cli.command(rich_help_panel=QUERYING)
def sql(
    query: Annotated[
        str | None,
        typer.Argument(help="statements; read from standard input if left out"),
    ] = None,
    form: Annotated[
        Literal["table", "csv", "json"],
        typer.Option("--format", help="json is an object a line"),
    ] = "table",
    at: Annotated[
        str | None,
        typer.Option(metavar="MOMENT", help="silver and gold as of a publish's id, or a time"),
    ] = None,
) -> None:
    """Ask Trino, on the branch, in gold. On a terminal and without a query: a shell."""
    from lake.settings import TRUNK, on_branch, settings
    from lake.stack.program import require

    require("trino")
    name = settings().branch
    if at is not None:
        from lake.branches import branch, publish

        require("postgres")
        if name != TRUNK:
            raise LakeError("`--at` asks `lake` as it was; a branch or a tag has no publishes")
        name = branch.pin(publish.at(at))
    with on_branch(name):
        if query is None and sys.stdin.isatty():
            from lake import shell

            shell.talk(form)
            return
        from lake.query import run

        run(sys.stdin.read() if query is None else query, form, sys.stdout)


branch_cli = typer.Typer(no_args_is_help=True, help="Branches: make one, list them, drop one.")
tag_cli = typer.Typer(no_args_is_help=True, help="Tags: names under which the lake stays as it is.")
cli.add_typer(branch_cli, name="branch", rich_help_panel=BRANCHES)
cli.add_typer(tag_cli, name="tag", rich_help_panel=BRANCHES)
Name = Annotated[str, typer.Argument(help="lower-case letters, digits and _, a letter first")]


@branch_cli.command("create")
def branch_create(name: Name) -> None:
    """Make a branch of the lake as it is now; nothing is copied but pointers."""
    from lake.branches import branch
    from lake.stack.program import require

    require("postgres", "minio")
    branch.create(name)
    err.print(
        f"made `{name}`: work on it with LAKE_BRANCH={name}, or as catalog {name} of Trino",
        highlight=False,
    )


@branch_cli.command("drop")
def branch_drop(names: Annotated[list[str], typer.Argument(help="one or more")]) -> None:
    """Drop branches, and what was built on them."""
    from lake.branches import branch
    from lake.stack.program import require

    require("postgres", "minio")
    for name in names:
        branch.drop(name)


@branch_cli.command("take")
def branch_take(
    name: Name, tables: Annotated[list[str], typer.Argument(help="such as gold.fct_loans")]
) -> None:
    """Have a branch be able to write by hand to tables that it did not make; dbt does it itself."""
    from lake.branches import branch
    from lake.stack.program import require

    require("postgres", "minio")
    branch.take(name, tables)


@branch_cli.command("list")
def branch_list() -> None:
    """List branches, and how many tables each has changed."""
    _list_refs("branch")


@tag_cli.command("create")
def tag_create(
    name: Name,
    publish: Annotated[int | None, typer.Option(help="as it was after this publish")] = None,
) -> None:
    """Freeze the lake under a name, as it is now or was after a publish."""
    from lake.branches import branch
    from lake.stack.program import require

    require("postgres")
    branch.tag(name, publish)


@tag_cli.command("drop")
def tag_drop(name: Name) -> None:
    """Give up a tag; what only it held goes with the next `lake maintain`."""
    from lake.branches import branch
    from lake.stack.program import require

    require("postgres", "minio")
    branch.drop_tag(name)


@tag_cli.command("list")
def tag_list() -> None:
    """List tags."""
    _list_refs("tag")


def _list_refs(kind: str) -> None:
    from rich.table import Table

    from lake.branches import branch
    from lake.stack.program import require

    require("postgres")
    listed = Table("NAME", "OWNER", "BEGAN", "ENDS", "PUBLISH", "CHANGED", box=None)
    listed.columns[0].no_wrap = True
    listed.add_column("STATE", no_wrap=True, overflow="ellipsis", max_width=48)
    for ref in branch.refs():
        if ref.kind == kind:
            ends = f"{ref.expires_at:%Y-%m-%d %H:%M}" if ref.expires_at else ""
            began = f"{ref.created_at:%Y-%m-%d %H:%M}"
            changed = str(ref.changed) if kind == "branch" else ""
            listed.add_row(
                ref.name, ref.owner, began, ends, str(ref.publish_id), changed, ref.state
            )
    out.print(listed)


@cli.command(rich_help_panel=BRANCHES)
def pin(
    moment: Annotated[
        str | None, typer.Argument(help="a publish's id, or a time; the last one if left out")
    ] = None,
) -> None:
    """Print the name under which a publish can be read, whatever is published meanwhile."""
    from lake.branches import branch, publish
    from lake.stack.program import require

    require("postgres")
    typer.echo(branch.pin(None if moment is None else publish.at(moment)))


@cli.command(rich_help_panel=BRANCHES)
def diff(
    name: Name,
    to: Annotated[
        str | None, typer.Option(help="a ref to compare with, not what the branch began with")
    ] = None,
    rows: Annotated[int, typer.Option(help="how many rows to show of each sort")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Show what a branch changes: tables, schemas, rows by key; and what no publish would take."""
    from lake import provenance
    from lake.branches import diff
    from lake.branches import publish as publishing
    from lake.stack.program import require

    require("postgres", "minio")
    found = diff.diff(name, to, rows)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        out.print(diff.render(found))
    with suppress(LakeError):  # of a project that does not parse
        for one in publishing.unaccounted(name, provenance.project()):
            err.print(f"[yellow]not to be published:[/] {escape(one)}", highlight=False)
        for one in provenance.undeclared(name):
            err.print(
                f"[yellow]no model makes it any more:[/] {escape(one)}; "
                f"`lake publish {name} --drop-undeclared` drops it",
                highlight=False,
            )


@cli.command(rich_help_panel=BRANCHES)
def publish(
    name: Name,
    unvalidated: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="publish what did not pass, too; the reason is kept"),
    ] = None,
    drop_undeclared: DropUndeclared = False,
) -> None:
    """Move all that a branch changed to `lake`, at once, or nothing. The branch ends.

    What has not passed its expectations yet is judged first. Exits 1 where one failed.
    """
    from lake import provenance, published
    from lake.branches import branch
    from lake.branches import publish as publishing
    from lake.manifest import manifest_text
    from lake.stack.program import require
    from quality import validations

    require("postgres", "minio")
    project = validations.project()
    if drop_undeclared:
        branch.drop_tables(name, provenance.undeclared(name))
    publishing.check(name, project)
    if unvalidated is None and (waiting := validations.missing(name, project)):
        _judge(name, {table.partition(".")[0] for table in waiting})
    is_whole = not provenance.stale(name)
    made = publishing.publish(name, manifest_text(), project, is_whole=is_whole, reason=unvalidated)
    err.print("nothing changed, nothing to publish" if made is None else f"published as {made}")
    if made:
        published.record(_say)


def _judge(name: str, layers: set[str]) -> None:
    """Judge what of a branch has not passed yet; how many rows it should have is not asked."""
    from lake.settings import on_branch
    from lake.stack.program import require
    from quality.finding import Report
    from quality.gate import validate

    require("spark")
    with _doing("judging") as say, on_branch(name):
        judged = validate(
            [layer for layer in LAYERS if layer in layers],
            lambda _, table: say(f"judging {table}"),
            only_what_moved=True,
        )
    expected = Report(tuple(one for one in judged.findings if one.kind == "expectation"))
    _warn(expected)
    expected.enforce()


@cli.command(rich_help_panel=BRANCHES)
def rollback(
    publish: Annotated[int, typer.Argument(help="the id of the publish to go back to")],
) -> None:
    """Have `lake` be as it was after a publish; this is a publish too."""
    from lake import published
    from lake.branches import publish as publishing
    from lake.stack.program import require

    require("postgres")
    made = publishing.rollback(publish)
    err.print(
        f"`lake` is as after {publish} already"
        if made is None
        else f"published as {made}: `lake` is as it was after {publish}"
    )
    if made:
        published.record(_say)


@cli.command(rich_help_panel=BRANCHES)
def log(
    limit: Annotated[int, typer.Option("--limit", "-n", help="how many, the last first")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Show what was published, by whom, of which code, and of the source as of when."""
    from rich.table import Table

    from lake.branches import publish as publishing
    from lake.stack.program import require

    require("postgres")
    publishes = publishing.log(limit)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in publishes], indent=2, default=str))
        return
    listed = Table(box=None, pad_edge=False)
    for heading in ("ID", "AT", "BY", "WHAT", "CODE", "SOURCE AS OF", "LSN", "TABLES"):
        listed.add_column(heading, no_wrap=heading in ("AT", "SOURCE AS OF"))
    for one in publishes:
        what = f"rollback to {one.restored}" if one.restored else one.run_id or ""
        at, as_of = (
            f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if time else ""
            for time in (one.at, one.complete_at)
        )
        style = None if one.is_kept else "dim"
        code, lsn = one.code_version or "", f"{one.lsn:,}" if one.lsn else ""
        tables = str(len(one.tables))
        what += "".join(f"\n[yellow]unvalidated[/] {escape(why)}" for why in one.exceptions)
        listed.add_row(str(one.id), at, one.author, what, code, as_of, lsn, tables, style=style)
    out.print(listed)


@cli.command(rich_help_panel=BRANCHES)
def maintain(
    apply: Annotated[bool, typer.Option("--apply", help="do it, and not only say what")] = False,
) -> None:
    """Say what compaction, expiry and removal of files would do and free; --apply does it."""
    from lake.branches import maintain
    from lake.stack.program import require

    require("postgres", "minio")
    with Progress(*Progress.get_default_columns(), console=err, transient=True) as bars:
        task = bars.add_task("", total=None)
        done = maintain.maintain(
            apply=apply,
            progress=lambda what, n, of: bars.update(task, description=what, completed=n, total=of),
        )
    out.print(maintain.render(done))


Rows = Annotated[int | None, typer.Option(help="made-up loans  [default: 45000]")]
Csv = Annotated[Path | None, typer.Option(help="the real data set, instead of made-up loans")]
Seed = Annotated[int, typer.Option(help="the same seed makes the same rows")]
Rate = Annotated[float, typer.Option(help="transactions in a second")]
Mix = Annotated[str | None, typer.Option(help="of operations, as `apply=3,decide=1`")]


@cli.command(rich_help_panel=SOURCE)
def demo(
    rows: Rows = None, csv: Csv = None, seed: Seed = 7, rate: Rate = 50.0, mix: Mix = None
) -> None:
    """Set everything up and run the main job on the reference source, while that is at work."""
    from lake.demo import run, workload

    mixed = workload.parse_mix(mix) if mix else dict(workload.MIX)
    run.run(run.Options(rows, csv, seed, rate, mixed), out)


@cli.command(rich_help_panel=SOURCE)
def fill(rows: Rows = None, csv: Csv = None, seed: Seed = 7) -> None:
    """Fill the stack's source with loans, once."""
    from lake.demo import fill
    from lake.demo.run import source

    with source() as connection, Progress(console=err, transient=True) as bars:
        task = bars.add_task("loans", total=None)

        def show(done: int, of: int) -> None:
            bars.update(task, completed=done, total=of)

        filled = fill.fill(connection, rows=rows, csv=csv, seed=seed, progress=show)
    err.print(f"{filled.what}: {filled.loans:,} loans, {filled.payments:,} payments")


@cli.command(rich_help_panel=SOURCE)
def work(
    seconds: Annotated[float | None, typer.Option(help="until Ctrl-C if left out")] = None,
    seed: Seed = 7,
    rate: Rate = 50.0,
    mix: Mix = None,
) -> None:
    """Have the source work: applications, decisions, corrections, payments, deletes."""
    from lake.demo import workload
    from lake.demo.run import source

    mixed = workload.parse_mix(mix) if mix else dict(workload.MIX)
    with source() as connection:
        done = workload.run(connection, rate=rate, mix=mixed, seconds=seconds, seed=seed)
    err.print(f"{done.total:,} transactions in {done.seconds:.0f} s")


def app() -> None:
    """Run the command; what the user can mend is one line and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli()
    except GateError as error:
        err.print(f"[red]gate:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except LakeError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(2)
