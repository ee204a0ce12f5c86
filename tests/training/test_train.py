"""What is learned, from which loans, and from which columns."""

import numpy as np
import pandas as pd
import pytest

from lake.errors import LakeError
from training import train

DECIDED = 1000


@pytest.fixture
def frame() -> pd.DataFrame:
    """Decided loans: the bigger the income, the more are approved; more so of owners."""
    random = np.random.default_rng(3)
    income = random.uniform(20_000, 120_000, DECIDED)
    owns = random.random(DECIDED) < 0.4
    approved = income + 30_000 * owns + random.normal(0, 10_000, DECIDED) > 80_000
    return pd.DataFrame(
        {
            "loan_id": np.arange(DECIDED),
            "event_timestamp": pd.Timestamp("2026-05-01", tz="UTC")
            + pd.to_timedelta(random.permutation(DECIDED), "h"),
            "loan_status": approved.astype("int32"),
            "person_income": income,
            "home_ownership": np.where(owns, "OWN", "RENT"),
            "person_gender": np.where(approved, "female", "male"),
        }
    )


def test_a_model_is_judged_by_decisions_that_came_after_those_it_learned_from(
    frame: pd.DataFrame,
) -> None:
    early, late = train.split(frame)
    assert len(early) + len(late) == DECIDED
    assert len(late) == DECIDED * train.HELD_OUT
    assert early["event_timestamp"].max() < late["event_timestamp"].min()


@pytest.mark.parametrize(
    ("cut", "said"), [("index < 400", "too few"), ("loan_status == 1", "all approved")]
)
def test_what_teaches_nothing_is_refused(frame: pd.DataFrame, cut: str, said: str) -> None:
    taught = pd.concat([frame, frame]).query(cut) if "status" in cut else frame.query(cut)
    with pytest.raises(LakeError, match=said):
        train.split(taught)


def test_a_model_learns_from_numbers_and_from_words(frame: pd.DataFrame) -> None:
    early, late = train.split(frame)

    def scored(*features: str) -> float:
        model = train.pipeline(early[[*features]]).fit(early[[*features]], early["loan_status"])
        return train.judge(model, late).roc_auc

    assert scored("person_income", "home_ownership") > scored("person_income") + 0.02
    assert scored("person_income") > 0.8


def test_a_word_never_seen_and_a_number_that_is_missing_are_answered(frame: pd.DataFrame) -> None:
    features = frame[["person_income", "home_ownership"]]
    model = train.pipeline(features).fit(features, frame["loan_status"])
    odd = pd.DataFrame(
        {"person_income": [None, 50_000.0], "home_ownership": ["CASTLE", None]}, dtype="object"
    )
    assert ((model.predict_proba(odd) > 0) & (model.predict_proba(odd) < 1)).all()


def test_nothing_is_learned_from_what_may_not_decide(frame: pd.DataFrame) -> None:
    assert "person_gender" in train.FORBIDDEN
    assert "person_gender" not in train.features_of(frame)
    assert train.features_of(frame) == ["person_income", "home_ownership"]
