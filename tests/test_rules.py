"""Rules are changed over real data: what they touch is judged again, on either engine."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lake import lag
from lake.branches import publish
from lake.catalog import open_catalog
from lake.demo.run import source
from lake.manifest import copy_project
from lake.settings import TRUNK
from lake.stack import trino
from tests.conftest import lake

BURDEN = "{condition: loan_percent_income > 0, on_break: warn}"
MANY = "".join(
    f"\n          many_{n}: {{condition: loan_id > {-n}, on_break: warn}}" for n in range(60)
)
OF_THE_RUN = ("run_id", "first_seen_at")


def project(where: Path, **edits: str) -> str:
    """A copy of the project in which rules of `loans` are others."""
    copied = copy_project(where / "dbt_project")
    yml = copied / "models" / "silver" / "loans.yml"
    text = yml.read_text()
    for name, rule in edits.items():
        text, edited = re.subn(rf"(?m)^( +{name}: ).*$", rf"\g<1>{rule}", text)
        assert edited == 1, name
    yml.write_text(text)
    return str(copied)


def rows(table: str) -> pa.Table:
    found: pa.Table = open_catalog(TRUNK).load_table(table).scan().to_arrow()
    keys = [
        (name, "ascending")
        for name in ("loan_id", "_commit_lsn", "_ordinal", "rule", "event_timestamp")
    ]
    found = found.sort_by([key for key in keys if key[0] in found.column_names])
    return found.select([name for name in found.column_names if name not in OF_THE_RUN])


def let_in_people_of_120() -> None:
    """The real dirt may be mended by now: that is what the source's desk does all day."""
    with source() as connection:
        connection.execute(
            "update loan set person_age = 120 where loan_id in"
            " (select loan_id from loan where person_age between 30 and 60 limit 5)"
        )
    lag.catch_up()
    done = lake("run")
    assert done.returncode == 0, done.stderr


def test_changed_rules_are_applied_to_all_that_was_landed_and_changed_back_again(
    demo: str, tmp_path: Path
) -> None:
    tables = ("loans", "loans_history", "loans_quarantine")
    layers = {"gold.fct_loans", "gold.ftr_loans", *(f"silver.{name}" for name in tables)}
    let_in_people_of_120()
    before = {table: rows(table) for table in layers}
    dirty = pc.greater(before["silver.loans_quarantine"]["person_age"], 100)
    assert pc.sum(dirty).as_py() > 0
    assert pc.min(before["silver.loans"]["credit_score"]).as_py() < 500

    other = project(
        tmp_path,
        burden_told=f"{BURDEN}{MANY}",
        age_plausible="person_age between 18 and 150",
        credit_score_in_range="credit_score between 500 and 850",
    )
    done = lake("run", "--target", "trino", LAKE_PROJECT_DIR=other)
    assert done.returncode == 0, done.stderr
    assert "6 of 8 tables, 6 of them anew" in done.stderr, "neither payments nor dates"
    assert "warn: silver.loans_quarantine: expected that burden_told" in done.stderr
    for table in ("silver.loans", "gold.fct_loans", "gold.ftr_loans"):
        changed = rows(table)
        assert 100 < pc.max(changed["person_age"]).as_py() <= 150, f"{table}: came back"
        assert pc.min(changed["credit_score"]).as_py() >= 500, f"{table}: have left"
    history = rows("silver.loans_history").to_pandas()
    assert (history["is_valid"] <= history["credit_score"].between(500, 850)).all()
    kept_out = rows("silver.loans_quarantine").filter(
        (pc.field("rule") == "age_plausible") & (pc.field("person_age") <= 150)
    )
    assert pc.sum(pc.greater_equal(kept_out["person_age"], 18)).as_py() in (0, None)

    done = lake("replay", "loans")
    assert done.returncode == 0, done.stderr
    for table, expected in before.items():
        assert rows(table).equals(expected), table


def test_every_publish_of_a_run_has_its_results(demo: str) -> None:
    runs = [one.run_id for one in publish.log() if (one.run_id or "").startswith("run_")]
    found = trino.ask("select distinct run_id, kind from quality.results")
    kinds = {name: {kind for run, kind in found if run == name} for name in runs}
    assert runs
    for name, of_the_run in kinds.items():
        assert {"model", "expectation", "volume"} <= of_the_run, name
