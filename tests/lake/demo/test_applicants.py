"""The drawn applicants look like the real ones: each column, and how the columns hang together."""

import numpy as np
import pandas as pd
import pytest

from lake.demo import applicants
from lake.demo.history import generator
from tests.conftest import REAL_CSV

COUNT = 45_000
MEASURES = [
    "person_age",
    "person_income",
    "person_emp_exp",
    "loan_amnt",
    "loan_int_rate",
    "loan_percent_income",
    "cb_person_cred_hist_length",
    "credit_score",
]
LABELS = ["person_gender", "person_education", "person_home_ownership", "loan_intent"]


@pytest.fixture(scope="module")
def drawn() -> pd.DataFrame:
    return pd.DataFrame(applicants.draw(generator(11), COUNT))


@pytest.fixture(scope="module")
def real() -> pd.DataFrame:
    if not REAL_CSV.exists():
        pytest.skip(f"no {REAL_CSV.name} beside the checkout")
    frame = pd.read_csv(REAL_CSV)
    frame["previous_loan_defaults_on_file"] = frame["previous_loan_defaults_on_file"] == "Yes"
    return frame


def test_the_share_of_income_is_the_amount_over_the_income(drawn: pd.DataFrame) -> None:
    share = np.round(drawn["loan_amnt"] / drawn["person_income"], 2)
    assert (share == drawn["loan_percent_income"]).all()


def test_nobody_with_a_default_on_file_is_approved(drawn: pd.DataFrame) -> None:
    defaulted = drawn["previous_loan_defaults_on_file"]
    assert drawn.loc[defaulted, "loan_status"].sum() == 0
    assert 0.35 < drawn.loc[~defaulted, "loan_status"].mean() < 0.55


def test_a_handful_of_rows_are_dirty(drawn: pd.DataFrame) -> None:
    old = drawn[drawn["person_age"] > 90]
    assert 2 <= len(old) <= 25
    assert (old["person_emp_exp"] > 60).all()
    assert drawn["person_income"].max() > 5_000_000


def test_one_applicant_can_be_drawn() -> None:
    assert {len(column) for column in applicants.draw(generator(11), 1).values()} == {1}


@pytest.mark.parametrize("column", MEASURES)
def test_quantiles_are_near_the_real_ones(
    column: str, drawn: pd.DataFrame, real: pd.DataFrame
) -> None:
    for at, tolerance in ((0.05, 0.15), (0.25, 0.1), (0.5, 0.1), (0.75, 0.1), (0.95, 0.1)):
        found, expected = float(drawn[column].quantile(at)), float(real[column].quantile(at))
        slack = max(tolerance * expected, 0.011 if expected < 1 else 1.0)
        assert abs(found - expected) <= slack, at


@pytest.mark.parametrize("column", LABELS)
def test_labels_are_as_frequent_as_the_real_ones(
    column: str, drawn: pd.DataFrame, real: pd.DataFrame
) -> None:
    found = drawn[column].value_counts(normalize=True)
    expected = real[column].value_counts(normalize=True)
    assert set(found.index) == set(expected.index)
    assert (found - expected).abs().max() < 0.02


def test_columns_hang_together_as_the_real_ones_do(drawn: pd.DataFrame, real: pd.DataFrame) -> None:
    columns = [*MEASURES, "previous_loan_defaults_on_file", "loan_status"]
    found, expected = (frame[columns].astype(float).corr("spearman") for frame in (drawn, real))
    assert (found - expected).abs().to_numpy().max() < 0.1


@pytest.mark.parametrize("column", ["person_home_ownership", "loan_intent"])
def test_approval_depends_on_the_label_as_in_the_real_data(
    column: str, drawn: pd.DataFrame, real: pd.DataFrame
) -> None:
    found = drawn.groupby(column)["loan_status"].mean()
    expected = real.groupby(column)["loan_status"].mean()
    common = real[column].value_counts().loc[lambda counts: counts > 1000].index
    assert (found - expected)[common].abs().max() < 0.06


def test_approvals_and_defaults_are_as_frequent_as_the_real_ones(
    drawn: pd.DataFrame, real: pd.DataFrame
) -> None:
    for column in ("loan_status", "previous_loan_defaults_on_file"):
        assert abs(drawn[column].mean() - real[column].mean()) < 0.015
