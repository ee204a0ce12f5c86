"""Column-level lineage of the project's own models, against what their SQL says to a reader."""

import copy
import re
from typing import Any

import pytest
from sqlglot.tokens import Tokenizer

from lake import lineage
from lake.branches import branch
from lake.catalog import open_catalog
from lake.errors import LakeError
from lake.lineage import Column, Lineage
from lake.manifest import compiled
from lake.settings import ROOT, TRUNK, on_branch
from lake.stack import trino
from tests.conftest import lake


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The project's manifest, compiled as by a newcomer: nothing runs."""
    return compiled()


@pytest.fixture(scope="module")
def found(project: dict[str, Any]) -> Lineage:
    return lineage.lineage(project)


def test_tables_and_columns_may_be_named_by_any_word_of_sql() -> None:
    words = sorted({word.lower() for word in Tokenizer.KEYWORDS if word.isalpha()})
    for dialect, quote in (("spark", "`"), ("trino", '"')):
        node = {"resource_type": "model", "config": {"materialized": "table"}}
        tables = {word: {"columns": {word: {}}, "alias": word} for word in words}
        sources = {
            f"source.{word}": {**table, **node, "schema": "bronze"}
            for word, table in tables.items()
        }
        models = {
            f"model.{word}": {
                **table,
                **node,
                "schema": "silver",
                "compiled_code": f"select {name} from {quote}bronze{quote}.{name}",
            }
            for word, table in tables.items()
            for name in [f"{quote}{word}{quote}"]
        }
        made = {"nodes": models, "sources": sources, "metadata": {"adapter_type": dialect}}
        found = lineage.lineage(made)
        assert not found.faults
        assert found.edges == {
            (Column(f"silver.{word}", word), Column(f"bronze.{word}", word)) for word in words
        }


def column(name: str) -> Column:
    table, _, last = name.rpartition(".")
    return Column(table, last)


DIRECT = {
    "gold.fct_loans.is_approved": ["silver.loans.loan_status"],
    "gold.fct_loans.loan_id": ["silver.loans_history.loan_id"],  # by way of what was touched
    "gold.fct_loans.decided_at": ["silver.loans.loan_status", "silver.loans_history.valid_from"],
    "gold.fct_loans.next_due_on": ["silver.loan_payments.due_on", "silver.loan_payments.paid_at"],
    "gold.fct_loans.installments": [],  # a count of rows
    "gold.agg_loan_approvals.approval_rate": [
        "gold.fct_loans.is_approved",
        "gold.fct_loans.is_decided",
    ],
    "gold.ftr_loans.cred_hist_length": ["silver.loans_history.cb_person_cred_hist_length"],
    "silver.loans_quarantine.rule": [],  # names that stand in the SQL
    "silver.loans.person_age": ["silver.loans_history.person_age"],
    "silver.loans_history.person_age": [
        "bronze.changes.after",
        "bronze.changes.before",
        "bronze.loan.person_age",
    ],
    "silver.loans_history._commit_lsn": [
        "bronze.changes.commit_lsn",
        "bronze.loan._snapshot_lsn",
    ],
    "silver.loan_payments.amount": [
        "bronze.changes.after",
        "bronze.changes.before",
        "bronze.loan_payment.amount",
    ],
}


@pytest.mark.parametrize("name", DIRECT)
def test_a_column_is_made_of_what_its_sql_computes_it_from(found: Lineage, name: str) -> None:
    assert sorted(map(str, found.sources.get(column(name), ()))) == DIRECT[name]


def test_every_model_is_followed_and_all_lineage_ends_in_bronze(found: Lineage) -> None:
    assert not found.faults
    assert {origin for _, origin in found.edges} <= found.columns
    ends = {origin for _, origin in found.edges} - set(found.sources)
    assert {end.table for end in ends} == {"bronze.loan", "bronze.loan_payment", "bronze.changes"}


def test_what_is_below_a_column_is_found_through_every_layer(found: Lineage) -> None:
    below = {str(one) for one in found.below(column("bronze.loan.loan_status"))}
    assert {"silver.loans.loan_status", "gold.agg_loan_approvals.approved_amount"} <= below
    assert "gold.fct_loans.paid_amount" not in below


def test_a_column_that_is_gone_but_still_read_is_told_by_model(project: dict[str, Any]) -> None:
    without = copy.deepcopy(project)
    del without["nodes"]["model.lakehouse.loans"]["columns"]["loan_status"]
    (fault,) = lineage.lineage(without).faults.items()
    assert fault[0] == "gold.fct_loans"
    assert "loan_status" in fault[1]


def test_the_verb_prints_both_ways_and_knows_no_other_column() -> None:
    done = lake("lineage", "gold.fct_loans.is_approved")
    assert done.returncode == 0, done.stderr
    up, down = done.stdout.split("goes into")
    assert "bronze.changes.after" in up
    assert "gold.agg_loan_approvals.approval_rate" in down
    with pytest.raises(LakeError, match=r"no column .*: there is gold\.fct_loans\.is_approved"):
        lineage.tree("gold.loans.is_approved")


def test_a_run_publishes_the_lineage_and_writes_it_only_if_it_differs(
    demo: str, found: Lineage
) -> None:
    table = open_catalog(TRUNK).load_table(lineage.TABLE)
    rows = table.scan().to_arrow().to_pylist()
    assert sorted(rows, key=str) == sorted(found.rows(), key=str)
    documented = (ROOT / "docs" / "ci.md").read_text()
    (query,) = re.findall(r"^```sql\n(.*?)^```$", documented, re.MULTILINE | re.DOTALL)
    assert ["silver.loans", "loan_status"] in trino.ask(query)
    branch.create("mine")
    try:
        with on_branch("mine"):
            assert not lineage.record()
            recorded = lineage.recorded()
            assert recorded
            assert recorded.edges == found.edges
            branch.take("mine", [lineage.TABLE])
            open_catalog("mine").load_table(lineage.TABLE).delete("column_name = 'is_approved'")
            assert lineage.record()
            recorded = lineage.recorded()
            assert recorded
            assert recorded.edges == found.edges
    finally:
        branch.drop("mine")
