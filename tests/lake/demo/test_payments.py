"""Payment schedules: what is due, what came in, and values that are hard to carry unharmed."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from lake.demo import payments
from lake.demo.history import UNTIL, generator, micros

COUNT = 4_000
START = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    loans = np.arange(1, COUNT + 1)
    table = payments.schedule(
        generator(3),
        loans,
        np.full(COUNT, 12_000.0),
        np.full(COUNT, 12.0),
        np.full(COUNT, micros(START)),
        micros(UNTIL),
    )
    frame: pd.DataFrame = table.to_pandas()
    return frame


def test_installments_count_from_one_without_a_gap(rows: pd.DataFrame) -> None:
    by_loan = rows.groupby("loan_id")["installment"]
    assert (by_loan.min() == 1).all()
    assert (by_loan.max() == by_loan.count()).all()
    assert set(by_loan.max()) == set(payments.TERMS)


def test_one_is_due_each_month_also_after_the_31st(rows: pd.DataFrame) -> None:
    first = sorted(rows.loc[rows["installment"] == 1, "due_on"].astype(str).unique())
    second = sorted(rows.loc[rows["installment"] == 2, "due_on"].astype(str).unique())
    assert (first, second) == (["2026-02-28"], ["2026-03-28"])


def test_the_amounts_pay_back_the_loan_with_its_interest(rows: pd.DataFrame) -> None:
    paid = rows.groupby("loan_id")["amount"].agg(["sum", "count"])
    for term, amount in ((3, 4080.27), (12, 1066.19)):
        assert paid.loc[paid["count"] == term, "sum"].iloc[0] == pytest.approx(term * amount)


def test_nothing_is_known_to_be_paid_after_the_end(rows: pd.DataFrame) -> None:
    paid = rows["paid_at"].dropna()
    assert (paid <= UNTIL).all()
    due = pd.to_datetime(rows["due_on"], utc=True)
    long_due = rows[due < UNTIL - timedelta(days=60)]
    assert 0.01 < long_due["paid_at"].isna().mean() < 0.05
    assert rows.loc[due > UNTIL + timedelta(days=5), "paid_at"].isna().all()


def test_what_is_paid_came_by_a_channel(rows: pd.DataFrame) -> None:
    paid = rows["paid_at"].notna()
    assert set(rows.loc[paid, "channel"]) == set(payments.CHANNELS)
    assert 0.7 < rows.loc[~paid, "channel"].isna().mean() < 0.9


def test_references_are_version_4_uuids_and_differ(rows: pd.DataFrame) -> None:
    assert rows["reference"].is_unique
    assert {UUID(reference).version for reference in rows["reference"]} == {4}


def test_details_are_json_of_every_kind(rows: pd.DataFrame) -> None:
    details = [json.loads(text) for text in rows["details"]]
    assert {str(found["payer"]) for found in details} == {str(p) for p in payments.PAYERS}
    assert {type(found["note"]) for found in details} == {type(note) for note in payments.NOTES}
    assert details[1]["plan"] == {"installment": 2, "of": details[0]["plan"]["of"], "rate": 12.0}


def test_no_loans_have_no_payments() -> None:
    nothing = np.array([])
    table = payments.schedule(generator(3), *(nothing.astype(int), nothing, nothing, nothing), 0)
    assert table.num_rows == 0
