"""Runs that are killed at each of their steps: the lake is as before or as after, never between."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lake.branches import branch, diff, publish
from lake.catalog import alone, connect
from lake.manifest import PROJECT, copy_project
from lake.settings import environment
from tests.conftest import lake

# What the killed process does first: it replaces one step by one that kills it there.
STEPS = {
    "before its branch is marked as a run's": "branch.call = killed",
    "before it builds": "build.dbt = killed",
    "while it builds": "build.dbt = killed_amid",
    "after it has built": "run._trace = killed",
    "after it was judged": "publish.publish = killed",
    "in its publish, before that is committed": "branch.call = uncommitted",
    "after its publish, before it has cleaned up": "branch.drop = print; branch.end = killed",
}
SCRIPT = """
import os, signal, threading, time
from lake import build, catalog, run
from lake.branches import branch, diff, publish
from lake.manifest import dbt
from lake.settings import settings
from quality import gate

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def killed_amid(*arguments, **named):
    def watch():
        taken = "select 1 from lake.bases where taken is not null and ref = %s"
        with catalog.connect("reader") as connection:
            while not connection.execute(taken, [settings().branch]).fetchone():
                time.sleep(0.02)
        killed()

    threading.Thread(target=watch, daemon=True).start()
    dbt(*arguments, **named)

call = branch.call

def uncommitted(role, query, *arguments):
    if "lake.publish" not in query and "lake.rollback" not in query:
        return call(role, query, *arguments)
    with catalog.connect(role) as connection, connection.transaction():
        connection.execute(query, arguments)
        killed()

"""


def do(*lines: str) -> int:
    """Run lines after the script's own, in a process of its own; returns how it ended."""
    script = textwrap.dedent(SCRIPT) + "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | environment())
    return done.returncode


def pointers() -> list[tuple[str, ...]]:
    """What everybody reads: each table of silver and gold, and where it is."""
    with connect("reader") as connection:
        return connection.execute(
            "select table_namespace, table_name, metadata_location from iceberg_tables"
            " where catalog_name = 'lake' and table_namespace in ('silver', 'gold') order by 1, 2"
        ).fetchall()


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_any_step_leaves_the_lake_as_before_or_as_after(
    demo: str, step: str
) -> None:
    before, log = pointers(), publish.log()
    select = ["--select", "agg_loan_approvals", "--full-refresh"]
    ended = do(STEPS[step], f"run.run({select!r}, print)")
    assert ended == -signal.SIGKILL
    if step.startswith("after its publish"):
        moved = [table[:2] for table in pointers() if table not in before]
        assert moved == [("gold", "agg_loan_approvals")]
        assert publish.log()[1:] == log
    else:
        assert pointers() == before
        assert publish.log() == log


def test_the_next_run_works_and_cleans_up_after_those_that_were_killed(demo: str) -> None:
    ended = do(STEPS["before it builds"], "run.run(['--all'], print)")
    assert ended == -signal.SIGKILL
    assert any(ref.name.startswith("run_") for ref in branch.refs())
    done = lake("run", "--select", "agg_loan_approvals", "--full-refresh")
    assert done.returncode == 0, done.stderr
    assert "its run was killed" in done.stderr
    assert not [ref for ref in branch.refs() if ref.name.startswith("run_")]
    assert publish.log(1)[0].tables == ["gold.agg_loan_approvals"]


def test_a_rollback_killed_before_it_is_committed_has_not_happened(demo: str) -> None:
    before, log = pointers(), publish.log()
    assert do("branch.call = uncommitted", "publish.rollback(1)") == -signal.SIGKILL
    assert (pointers(), publish.log()) == (before, log)
    newest = log[0].id
    assert publish.rollback(1) == newest + 1
    assert publish.rollback(newest) == newest + 2
    assert pointers() == before


def test_a_run_beside_a_run_is_told_to_wait(demo: str) -> None:
    with alone("lake run", "builder"):
        done = lake("run")
    assert done.returncode == 2
    assert "a `lake run` is at work" in done.stderr


def dbt(*arguments: str, on: str, project: Path = PROJECT) -> "subprocess.CompletedProcess[str]":
    """Run dbt as an analyst does, on a branch."""
    return subprocess.run(
        [Path(sys.executable).with_name("dbt"), *arguments],
        cwd=project,
        env=os.environ | environment() | {"LAKE_BRANCH": on},
        capture_output=True,
        text=True,
    )


def test_nobody_builds_on_what_everybody_reads(demo: str) -> None:
    before = pointers()
    done = lake("build")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "lake branch create" in done.stderr
    plain = dbt("run", on="lake")
    assert plain.returncode == 2
    assert "`lake` is not built on" in plain.stdout
    assert pointers() == before


def test_a_model_that_is_added_during_a_run_waits_for_the_next(
    demo: str, edited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_PROJECT_DIR", str(edited))
    files = {
        "later.sql": "{{ config(materialized='table') }}\nselect 1 as id",
        "later.yml": "models: [{name: later, description: Later., data_tests: [{is_key: "
        "{arguments: {columns: [id]}}}], columns: [{name: id, data_type: integer}]}]",
    }
    ended = do(
        "def add(say):",
        f"    for name, text in {files!r}.items():",
        "        (settings().project_dir / 'models' / 'gold' / name).write_text(text)",
        "run._trace = add",
        "run.run(['--select', 'agg_loan_approvals', '--full-refresh'], print)",
    )
    assert ended == 0
    assert (edited / "models" / "gold" / "later.sql").exists()
    assert publish.log(1)[0].tables == ["gold.agg_loan_approvals"]


def test_a_key_that_a_run_doubles_is_not_published(demo: str, edited: Path) -> None:
    before = pointers()
    model = edited / "models" / "gold" / "agg_loan_approvals.sql"
    doubled = f"select twice.* from (\n{model.read_text()}\n) as twice cross join (values (1), (2))"
    model.write_text(doubled)
    only = ("--full-refresh", "--select", "agg_loan_approvals", "--project-dir", str(edited))
    done = lake("run", *only)
    assert done.returncode == 1, done.stderr
    assert "(applied_month, loan_intent) is unique" in done.stdout + done.stderr
    assert pointers() == before
    for ref in branch.refs():
        if ref.name.startswith("run_"):
            branch.drop(ref.name)


@contextmanager
def branch_mine() -> Iterator[None]:
    """An analyst's branch `mine`, of the lake as it is now."""
    branch.create("mine")
    try:
        yield
    finally:
        branch.drop("mine")


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """A copy of the project in which an analyst has edited one model of gold."""
    copied = copy_project(tmp_path / "dbt_project")
    model = copied / "models" / "gold" / "ftr_loans.sql"
    model.write_text(f"{model.read_text()}\n-- edited\n")
    return copied


def test_what_is_modified_is_told_by_what_is_published(demo: str, edited: Path) -> None:
    assert lake("run", "--full-refresh", "--select", "agg_loan_approvals").returncode == 0
    with branch_mine():
        only = ("build", "--select", "state:modified+", "--full-refresh")
        done = lake("--branch", "mine", *only)
        assert done.returncode == 0, done.stdout
        assert "Nothing to do" in done.stdout
        done = lake("--branch", "mine", *only, "--project-dir", str(edited))
        assert done.returncode == 0, done.stdout
        (table,) = diff.diff("mine").tables
        assert (table.name, table.rows) == ("gold.ftr_loans", diff.Rows()), "and has the same rows"


@pytest.mark.parametrize("target", ["spark", "trino"])
def test_a_misspelt_column_is_told_in_a_few_lines(demo: str, edited: Path, target: str) -> None:
    model = edited / "models" / "gold" / "agg_loan_approvals.sql"
    model.write_text(model.read_text().replace("sum(decided)", "sum(decidedd)"))
    with branch_mine():
        one = ("--select", "agg_loan_approvals", "--target", target, "--project-dir", str(edited))
        done = lake("--branch", "mine", "build", "--exclude-resource-type", "unit_test", *one)
        assert done.returncode == 2
        told = done.stdout.partition("Completed with 1 error")[2]
        assert "decidedd" in told
        assert len(told.splitlines()) < 15, told
        assert "QueryContextLogger" not in done.stderr


@pytest.mark.parametrize("target", ["spark", "trino"])
def test_a_contract_bends_no_number(demo: str, edited: Path, target: str) -> None:
    model = edited / "models" / "gold" / "fct_loans.sql"
    exact, finer = "cast(paid_amount as decimal(18, 2))", "cast(paid_amount as decimal(18, 4))"
    assert exact in model.read_text()
    model.write_text(model.read_text().replace(exact, finer))
    with branch_mine():
        one = ("--select", "fct_loans", "--full-refresh", "--target", target)
        done = lake("--branch", "mine", "build", *one, "--project-dir", str(edited))
        assert done.returncode == 2
        told = done.stdout.partition("enforced contract")[2]
        assert "paid_amount" in told
        assert "(18,4)" in told.replace(" ", "").lower()


@pytest.mark.parametrize("target", ["spark", "trino"])
def test_plain_dbt_builds_on_a_branch_and_nowhere_else(demo: str, target: str) -> None:
    before = pointers()
    with branch_mine():
        one = ("--select", "agg_loan_approvals", "--full-refresh")
        built = dbt("build", "--target", target, *one, on="mine")
        assert built.returncode == 0, built.stdout
        assert pointers() == before
        (mine,) = [ref for ref in branch.refs() if ref.name == "mine"]
        assert mine.changed == 1
