"""A gold of a few loans, on a branch of its own, so that no other test sees or builds it."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from feature_repo import features
from feature_repo.connections import registry
from lake.branches import branch
from lake.catalog import catalog
from lake.settings import on_branch

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")
FEATURES = pa.schema(
    {
        "loan_id": pa.int64(),
        "event_timestamp": TIME,
        "created_timestamp": TIME,
        "person_age": pa.int32(),
        "person_income": pa.float64(),
        "person_emp_exp": pa.int32(),
        "loan_amnt": pa.float64(),
        "loan_int_rate": pa.float64(),
        "loan_percent_income": pa.float64(),
        "cred_hist_length": pa.int32(),
        "credit_score": pa.int32(),
        "has_previous_default": pa.int32(),
        "person_gender": pa.string(),
        "person_education": pa.string(),
        "home_ownership": pa.string(),
        "loan_intent": pa.string(),
    }
)
LOANS = pa.schema(
    {
        "loan_id": pa.int64(),
        "is_decided": pa.bool_(),
        "is_approved": pa.bool_(),
        "decided_at": TIME,
    }
)


def version(loan_id: int, at: datetime, **changed: Any) -> dict[str, Any]:
    """A row of `gold.ftr_loans`."""
    return {
        "loan_id": loan_id,
        "event_timestamp": at,
        "created_timestamp": at,
        "person_age": 30,
        "person_income": 50_000.0 + loan_id,
        "person_emp_exp": 5,
        "loan_amnt": 10_000.0,
        "loan_int_rate": 11.5,
        "loan_percent_income": 0.2,
        "cred_hist_length": 4,
        "credit_score": 600,
        "has_previous_default": 0,
        "person_gender": "female",
        "person_education": "Master",
        "home_ownership": "RENT",
        "loan_intent": "MEDICAL",
    } | changed


def land(*versions: dict[str, Any]) -> None:
    """Publish rows of `gold.ftr_loans`."""
    rows = pa.Table.from_pylist(list(versions), schema=FEATURES)
    catalog().load_table("gold.ftr_loans").append(rows)


def exist(*loan_ids: int, decided_at: datetime = NOON, approved: bool = True) -> None:
    """Publish loans of `gold.fct_loans`."""
    row = {"is_decided": True, "is_approved": approved, "decided_at": decided_at}
    rows = pa.Table.from_pylist([row | {"loan_id": i} for i in loan_ids], schema=LOANS)
    catalog().load_table("gold.fct_loans").append(rows)


def forget(project: str) -> None:
    """Remove a project from the registry and the online store; Feast's teardown removes all."""
    client = features._online_store().client(features.store().config)
    for key in client.scan_iter(f"*{project}*"):
        client.delete(key)
    with psycopg.connect(**registry()) as connection:
        tables = connection.execute(
            "select table_name from information_schema.columns where column_name = 'project_id'"
        ).fetchall()
        for (table,) in tables:
            connection.execute(
                sql.SQL("delete from {} where project_id = %s").format(sql.Identifier(table)),
                [project],
            )


NUMBERS = itertools.count(1)
"""Feast remembers a project by its name, even one that is gone."""


@pytest.fixture
def gold(own_lake: str) -> Iterator[str]:
    """Three loans, online; yields the name of their branch."""
    name = f"features_{next(NUMBERS)}"
    branch.create(name)
    with on_branch(name):
        catalog().create_table("gold.ftr_loans", FEATURES)
        catalog().create_table("gold.fct_loans", LOANS)
        land(*(version(loan, NOON) for loan in (1, 2, 3)))
        exist(1, 2, 3)
        features.materialize()
        yield name
        forget(name)
