"""The dbt project by dbt's own commands, and MetricFlow's, on a lake that the demo has filled."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

from feature_repo import features
from lake.branches import branch
from lake.demo import report
from lake.manifest import changed_at, copy_project, manifest
from lake.settings import TRUNK, environment
from lake.stack import trino


@pytest.fixture(scope="module")
def pinned(demo: str) -> str:
    """The last publish, which stays as it is."""
    return branch.pin()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, for what is made in it."""
    return copy_project(tmp_path_factory.mktemp("commands") / "dbt_project")


def run(project: Path, target: str, on: str, command: str, *arguments: str) -> str:
    """What a command says, in the folder of the project."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command)), *arguments],
        env=os.environ | environment() | {"LAKE_BRANCH": on, "DBT_TARGET": target},
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("target", ["spark", "trino"])
def test_the_docs_know_every_table_and_who_depends_on_it(
    pinned: str, target: str, project: Path
) -> None:
    run(project, target, pinned, "dbt", "docs", "generate", "--quiet")
    made = project / "target"
    found, declared = (
        json.loads((made / f"{n}.json").read_text()) for n in ("catalog", "manifest")
    )
    for part in ("sources", "nodes"):
        tables = {
            name: [*map(str.lower, node["columns"])]
            for name, node in declared[part].items()
            if node["resource_type"] in ("source", "model")
        }
        for name, columns in tables.items():
            assert columns, name
            assert {*columns} <= {*found[part][name]["columns"]}, name
    assert (made / "index.html").exists()
    for name in ("features", "model", "api"):
        exposed = declared["exposures"][f"exposure.lakehouse.loan_approval_{name}"]
        assert "model.lakehouse.ftr_loans" in exposed["depends_on"]["nodes"]


def test_an_exposure_of_some_columns_uses_these_and_no_others() -> None:
    told = {
        exposure["name"]: exposure["config"]["meta"]["columns"]
        for exposure in manifest()["exposures"].values()
    }
    used = {}
    for query in (report.APPROVALS, report.QUARANTINED):
        parsed = sqlglot.parse_one(query, dialect="trino")
        (table,) = parsed.find_all(exp.Table)
        selected = parsed.expressions
        used[table.name] = {column.name for one in selected for column in one.find_all(exp.Column)}
    assert {name: {*columns} for name, columns in told["loan_approval_report"].items()} == used
    assert {*told["loan_approval_model"]["fct_loans"]} == {"is_decided", *features.DECIDED}


def test_what_is_edited_while_dbt_is_at_work_is_newer_than_the_manifest_that_it_writes(
    project: Path,
) -> None:
    read = changed_at(project)
    run(project, "spark", TRUNK, "dbt", "parse", "--quiet")
    assert (project / "target" / "manifest.json").stat().st_mtime == read


def test_an_exposure_is_traced_to_the_source(pinned: str, project: Path) -> None:
    select = ["--select", "+exposure:loan_approval_features", "--quiet"]
    listed = run(project, "spark", pinned, "dbt", "ls", *select).split()
    assert "source:lakehouse.bronze.loan" in listed
    assert "lakehouse.gold.ftr_loans" in listed


def test_the_source_is_fresh(demo: str, project: Path) -> None:
    run(project, "spark", TRUNK, "dbt", "source", "freshness", "--quiet")
    (judged,) = json.loads((project / "target" / "sources.json").read_text())["results"]
    assert (judged["unique_id"], judged["status"]) == ("source.lakehouse.bronze.changes", "pass")


def test_metricflow_accepts_the_metrics_and_answers_as_gold_does(
    pinned: str, project: Path, tmp_path: Path
) -> None:
    def asked(*arguments: str) -> str:
        return run(project, "trino", pinned, "mf", *arguments)

    run(project, "trino", pinned, "dbt", "parse", "--quiet")
    errors = re.findall(r"ERRORS: (\d+)", asked("validate-configs"))
    assert set(errors) == {"0"}
    answer = tmp_path / "answer.csv"
    metrics = "applications,approved,approval_rate,requested_amount,repaid_share"
    asked("query", "--metrics", metrics, "--group-by", "loan__loan_intent", "--csv", str(answer))
    found: dict[str, list[Any]] = {
        row.pop("loan__loan_intent"): [float(row[name]) for name in metrics.split(",")]
        for row in csv.DictReader(answer.open())
    }
    expected = trino.ask(
        "select loan_intent, count(*), count_if(is_approved),"
        " cast(count_if(is_approved) as double) / count_if(is_decided), sum(loan_amnt),"
        " cast(sum(paid_amount) as double) / sum(scheduled_amount)"
        f" from {pinned}.gold.fct_loans group by loan_intent"
    )
    assert len(found) == len(expected) > 1
    for purpose, *figures in expected:
        assert found[purpose] == pytest.approx([float(figure) for figure in figures])
    monthly = ("--group-by", "metric_time__month", "--csv", str(answer))
    asked("query", "--metrics", "applications", *monthly)
    total = sum(int(row["applications"]) for row in csv.DictReader(answer.open()))
    assert total == sum(int(row[1]) for row in expected)
