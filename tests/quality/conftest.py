"""A small lake in Spark's memory, whole and right, for a test to break in one place."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from lake.manifest import manifest
from quality import frames
from quality.finding import Report
from quality.gate import judge

Rows = dict[str, list[dict[str, Any]]]
Break = Callable[[Rows], None]
DECIDED = datetime(2026, 5, 1, tzinfo=UTC)
LOANS = 40

LOAN = (
    "loan_id bigint, person_age int, person_gender string, person_education string, "
    "person_income decimal(14,2), person_emp_exp int, person_home_ownership string, "
    "loan_amnt decimal(12,2), loan_intent string, loan_int_rate decimal(5,2), "
    "loan_percent_income decimal(5,2), credit_score int, loan_status int, "
    "_commit_lsn bigint, _ordinal bigint"
)
SCHEMAS = {
    "silver.loans": LOAN,
    "silver.loans_history": f"{LOAN}, is_current boolean, is_valid boolean, "
    "valid_from timestamp, valid_to timestamp",
    "silver.loans_quarantine": f"{LOAN}, rule string, on_break string",
    "silver.loan_payments": "loan_id bigint, installment int, amount decimal(12,2), channel string",
    "gold.fct_loans": f"{LOAN}, age_band string, income_band string, is_decided boolean, "
    "is_approved boolean, decided_at timestamp, scheduled_amount decimal(18,2), "
    "paid_amount decimal(18,2)",
    "gold.agg_loan_approvals": "applied_month date, loan_intent string, applications bigint, "
    "decided bigint, approved bigint, approval_rate double, requested_amount decimal(18,2)",
    "gold.dim_dates": "date_day date",
    "bronze.loan": "loan_id bigint, _snapshot_lsn bigint",
    "bronze.loan_payment": "loan_id bigint, installment int, _snapshot_lsn bigint",
    "bronze.changes": "source_table string, commit_lsn bigint, ordinal bigint, "
    "ingested_at timestamp, op string, has_key boolean, is_since_snapshot boolean",
    "bronze.columns": "source_table string, column string, declared string, found string",
    "bronze.rows": "source_table string, in_source bigint, in_bronze bigint, trouble string",
    "bronze.tables": "source_table string, trouble string",
    "bronze.unheld": "source_table string, column string, found bigint",
    "bronze.capture": "wal_status string, bytes_behind bigint",
}


BROKEN = {"person_age": 144, "rule": "age_plausible", "on_break": "quarantine"}


def loan(number: int) -> dict[str, Any]:
    return {
        "loan_id": number,
        "person_age": 30,
        "person_gender": "female",
        "person_education": "Master",
        "person_income": Decimal(50_000),
        "person_emp_exp": 5,
        "person_home_ownership": "RENT",
        "loan_amnt": Decimal(4_000 + 250 * number),
        "loan_intent": "MEDICAL",
        "loan_int_rate": Decimal(11),
        "loan_percent_income": Decimal("0.10"),
        "credit_score": 600,
        "loan_status": int(number % 5 == 0),
        "_commit_lsn": 1_000,
        "_ordinal": number,
    }


def rows() -> Rows:
    """The rows of every frame but those that are made of others."""
    loans = [loan(number) for number in range(1, LOANS + 1)]
    held = {"is_current": True, "is_valid": True, "valid_from": DECIDED, "valid_to": None}
    approved = sum(one["loan_status"] for one in loans)
    return {
        "silver.loans": loans,
        "silver.loans_history": [one | held for one in loans],
        "silver.loans_quarantine": [loan(99) | BROKEN],
        "silver.loan_payments": [
            {"loan_id": number, "installment": 1, "amount": Decimal(10), "channel": "card"}
            for number in (1, 2, 99)
        ],
        "gold.fct_loans": [
            one
            | {
                "age_band": "30-39",
                "income_band": "middle",
                "is_decided": True,
                "is_approved": one["loan_status"] == 1,
                "decided_at": DECIDED,
                "scheduled_amount": Decimal(10),
                "paid_amount": Decimal(0),
            }
            for one in loans
        ],
        "gold.agg_loan_approvals": [
            {
                "applied_month": date(2026, 5, 1),
                "loan_intent": "MEDICAL",
                "applications": LOANS,
                "decided": LOANS,
                "approved": approved,
                "approval_rate": approved / LOANS,
                "requested_amount": sum(one["loan_amnt"] for one in loans),
            }
        ],
        "gold.dim_dates": [{"date_day": date(2026, 5, day)} for day in (1, 2)],
        "gold.ftr_loans": [
            one | {"event_timestamp": DECIDED, "created_timestamp": DECIDED} for one in loans
        ],
        "bronze.loan": [{"loan_id": number, "_snapshot_lsn": 500} for number in (1, 2)],
        "bronze.loan_payment": [{"loan_id": 1, "installment": 1, "_snapshot_lsn": 500}],
        "bronze.changes": [
            {
                "source_table": "public.loan",
                "commit_lsn": 501,
                "ordinal": 1,
                "ingested_at": datetime.now(UTC) - timedelta(seconds=5),
                "op": "u",
                "has_key": True,
                "is_since_snapshot": True,
            },
            {  # before its table's snapshot was taken anew
                "source_table": "public.loan_payment",
                "commit_lsn": 499,
                "ordinal": 1,
                "ingested_at": DECIDED,
                "op": "u",
                "has_key": False,
                "is_since_snapshot": False,
            },
        ],
        "bronze.columns": [
            {
                "source_table": "bronze.loan",
                "column": "loan_id",
                "declared": "bigint",
                "found": "bigint",
            }
        ],
        "bronze.rows": [
            {"source_table": "public.loan", "in_source": 2, "in_bronze": 2, "trouble": None}
        ],
        "bronze.tables": [],
        "bronze.unheld": [],
        "bronze.capture": [{"wal_status": "reserved", "bytes_behind": 100}],
    }


def schema(name: str) -> str:
    if name != "gold.ftr_loans":
        return SCHEMAS[name]
    words = {**frames.ICEBERG, "double precision": "decimal(14,2)"}
    declared = manifest()["nodes"]["model.lakehouse.ftr_loans"]["columns"].values()
    return ", ".join(f"{c['name']} {words.get(c['data_type'], 'string')}" for c in declared)


def frame(name: str, found: Sequence[dict[str, Any]]) -> DataFrame:
    return frames.spark().createDataFrame(found, schema(name))


@pytest.fixture(scope="session")
def session(lake_stack: Path) -> Iterator[SparkSession]:
    """The session; it ends before the server does, for which it would wait for minutes."""
    opened = frames.spark()
    yield opened
    opened.stop()


@pytest.fixture
def judged(session: SparkSession) -> Callable[..., Report]:
    """Judge one layer of the small lake, after it was broken."""

    def run(layer: str, broken: Break | None = None) -> Report:
        data = rows()
        if broken:
            broken(data)
        made = {
            name: frame(name, found)
            for name, found in data.items()
            if name.startswith((layer, "silver" if layer == "gold" else layer))
        }
        return judge({layer: made})

    return run
