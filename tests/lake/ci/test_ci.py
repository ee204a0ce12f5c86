"""`lake ci` on checkouts that somebody has edited, with the credentials that a CI job has."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from lake import settings as lake_settings
from lake.branches import branch, keys, publish
from lake.catalog import alone, connect, open_catalog
from lake.ci import run
from lake.ci.report import Check, Report, html, markdown
from lake.credentials import credentials
from lake.settings import ROOT, TRUNK

ROOMS = ("lake", "ingestion", "quality", "feature_repo", "streaming", "dbt_project", ".github")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of the project, with its one commit."""
    clone = tmp_path / "clone"
    clone.mkdir()
    ignored = shutil.ignore_patterns("target", "logs", "__pycache__", ".lake*")
    for room in ROOMS:
        shutil.copytree(lake_settings.ROOT / room, clone / room, ignore=ignored)
    for file in ("dbt_lake.py", "pyproject.toml", ".gitignore"):
        shutil.copy(lake_settings.ROOT / file, clone)
    author = ("-c", "user.name=ci", "-c", "user.email=ci@example.org")
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=clone, check=True)
    return clone


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def allowed() -> str:
    """What of the installation's credentials a job is given: docs/ci.md says how to cut it out."""
    keys.keep_ready()  # as each run does, for who makes none
    cut = credentials().model_dump(include={"roles"})
    cut["roles"] = {role: cut["roles"][role] for role in ("reader", "builder")}
    return json.dumps(cut)


def in_checkout(checkout: Path, *command: str, **environment: str) -> CompletedProcess[str]:
    """Run a command in a checkout, whose code comes before that of the tests."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PYTHONPATH": str(checkout), "PATH": path}
    return subprocess.run(
        command, cwd=checkout, env=os.environ | own | environment, capture_output=True, text=True
    )


def ci(checkout: Path, *options: str, **environment: str) -> CompletedProcess[str]:
    """Run `lake ci` in a checkout, where nothing is known but what opens reader and builder."""
    state = checkout / ".lake"
    state.mkdir()
    (state / "credentials.json").write_text(allowed())
    own = {"LAKE_STATE_DIR": str(state)}
    return in_checkout(checkout, "lake", "ci", *options, **own | environment)


def pointers() -> list[tuple[str, ...]]:
    """What everybody reads, but for bronze, which streams on."""
    with connect("reader") as connection:
        return connection.execute(
            "select table_namespace, table_name, metadata_location from iceberg_tables"
            " where catalog_name = 'lake' and table_namespace <> 'bronze' order by 1, 2"
        ).fetchall()


def ci_branches() -> list[str]:
    return [ref.name for ref in branch.refs() if ref.name.startswith("ci_")]


def test_a_change_of_gold_is_built_judged_and_told_by_row_and_column(
    demo: str, checkout: Path
) -> None:
    gold = checkout / "dbt_project" / "models" / "gold"
    edit(gold / "fct_loans.sql", "loan_status = 1 as is_approved", "loan_status = 0 as is_approved")
    edit(gold / "fct_loans.sql", "    next_due_on,\n    _commit_lsn,", "    _commit_lsn,")
    lines = (gold / "fct_loans.yml").read_text().splitlines(keepends=True)
    (gold / "fct_loans.yml").write_text("".join(x for x in lines if "name: next_due_on" not in x))
    before, facts = pointers(), open_catalog(TRUNK).load_table("gold.fct_loans").scan().to_arrow()
    decided = sum(facts["is_decided"].to_pylist())
    newest = publish.log(1)[0].id

    done = ci(checkout, "--keep", "--report", "told", GITHUB_RUN_ID="4711")

    assert done.returncode == 1, done.stdout + done.stderr
    assert pointers() == before
    assert publish.log(1)[0].id == newest
    (name,) = ci_branches()
    try:
        assert name.startswith("ci_4711_")
        told = (checkout / "told" / "report.md").read_text()
        changed = (
            f"| `gold.fct_loans` | changed | 0 | 0 | {decided:,} | `is_approved` {decided:,} |"
        )
        assert f"{changed} its code is another; so is its contract |" in told
        assert " it was built of other code of fct_loans |" in told
        assert "| `gold.agg_loan_approvals` | changed | 0 | 0 | " in told
        assert "gate: counts and sums are those of silver" in told
        assert "`gold.fct_loans`: column next_due_on dropped: date" in told
        assert "| `gold.fct_loans.next_due_on` | dropped |" in told
        (touched,) = [x for x in told.splitlines() if "`gold.fct_loans.is_approved` |" in x]
        assert "`gold.agg_loan_approvals.approval_rate`" in touched
        assert "loan_approval_report" in touched, "the exposure that reads what is below"
        assert "loan_approval_model" in touched
        assert "loan_approval_api" not in touched, "it uses no such column"
        assert "Failed: 0 of 2 models, 3 of " in told
        assert "meta.column_lineage" not in told
        assert f"compared with publish {newest}" in told
        assert "-dirty`" in told
        page = (checkout / "told" / "report.html").read_text()
        assert "<svg" in page
        assert "counts and sums are those of silver" in page
        assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    finally:
        branch.drop(name)


def test_a_model_and_a_test_that_fail_are_in_the_report_and_the_branch_is_gone(
    demo: str, checkout: Path
) -> None:
    models = checkout / "dbt_project" / "models"
    edit(
        models / "gold" / "ftr_loans.sql", "    credit_score,", "    credit_scores as credit_score,"
    )
    intent = "{name: loan_intent, data_type: text, "
    edit(models / "silver" / "loans.yml", intent, f"{intent}data_tests: [unique], ")
    before = pointers()
    edit(models / "exposures.yml", "      - ref('loans_quarantine')\n", "")
    edit(models / "exposures.yml", "          loans_quarantine: [loan_id, rule, on_break]\n", "")
    rules = (models / "silver" / "loans.yml").read_text()
    rules = rules[rules.index("    config:") : rules.index("    data_tests:")]
    edit(models / "silver" / "loans.yml", rules, "")  # which a quarantine is needed for
    (models / "silver" / "loans_quarantine.sql").unlink()
    (models / "silver" / "loans_quarantine.yml").unlink()
    done = ci(checkout, "--incremental")
    assert done.returncode == 1, done.stdout + done.stderr
    assert (pointers(), ci_branches()) == (before, [])
    told = (checkout / "lake-ci" / "report.md").read_text()
    assert "Failed: 3 of 4 models, 5 of 7 checks" in told
    assert "built as the next run would" in told
    assert "until a publish drops them (`--drop-undeclared`): `silver.loans_quarantine`." in told
    assert "| build: error | `gold.ftr_loans` |" in told
    assert "credit_scores" in told.split("### Lineage that can't be followed")[1]
    assert "| test: unique_loans_loan_intent | `silver.loans` | Got " in told


def test_the_workflow_of_github_says_that_nothing_is_modified(
    demo: str, checkout: Path, tmp_path: Path
) -> None:
    workflow = yaml.safe_load((checkout / ".github" / "workflows" / "lake-ci.yml").read_text())
    variables, summary = tmp_path / "env", tmp_path / "summary.md"
    runner = {"RUNNER_TEMP": tmp_path, "GITHUB_ENV": variables, "GITHUB_STEP_SUMMARY": summary}
    given = {name: str(path) for name, path in runner.items()} | {"CREDENTIALS": allowed()}
    variables.touch()
    for step in workflow["jobs"]["lake-ci"]["steps"]:
        if "run" in step:
            own = dict(line.split("=", 1) for line in variables.read_text().splitlines())
            script = 'uv() { shift 2; "$@"; }\n' + step["run"]  # what it would install is there
            done = in_checkout(checkout, "bash", "-eo", "pipefail", "-c", script, **given | own)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "building" not in done.stderr
    assert "Nothing is modified" in summary.read_text()
    assert (tmp_path / "lake-ci" / "report.html").exists()
    assert not (tmp_path / "lake").exists(), "the credentials are gone"
    assert ci_branches() == []


@pytest.mark.parametrize(
    ("host", "where", "what"),
    [
        ("github-workflows", ".github/workflows/lake-ci.yml", "(.*)"),
        ("gitlab-ci", "docs/ci.md", "```yaml\n(lake ci:.*?)```"),
    ],
)
def test_a_host_accepts_the_job_that_is_ready_for_it(
    tmp_path: Path, host: str, where: str, what: str
) -> None:
    (job,) = re.findall(what, (ROOT / where).read_text(), re.DOTALL)[:1]
    written = tmp_path / "job.yml"
    written.write_text(job)
    check = Path(sys.executable).with_name("check-jsonschema")
    options = ("--builtin-schema", f"vendor.{host}", "--data-transform", "gitlab-ci")
    done = subprocess.run([check, *options, written], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_branch_of_a_job_that_was_killed_goes_and_that_of_one_at_work_stays(
    own_lake: str,
) -> None:
    for name in ("ci_killed", "ci_at_work"):
        branch.create(name)
        branch.call("builder", "select lake.mark_branch(%s, %s)", name, "running")
    with alone("lake ci", "builder", "ci_at_work"):
        run._drop_leftovers()
        assert ci_branches() == ["ci_at_work"]


def test_what_is_found_can_not_break_the_report() -> None:
    hostile = "<script>|\n| `x"
    check = Check("gate", "silver.loans", hostile, False, hostile)
    report = replace(
        Report("ci_x", datetime(2026, 1, 1, tzinfo=UTC), hostile, None, 3, False), checks=(check,)
    )
    (row,) = [line for line in markdown(report).splitlines() if line.startswith("| gate: ")]
    assert row == "| gate: &lt;script>\\| \\| `x | `silver.loans` | &lt;script>\\| \\| `x |"
    assert "<script" not in html(report)
