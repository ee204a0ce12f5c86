"""Applications in time: reproducible at any scale, decided and paid no later than the end."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lake.demo import applicants, history
from lake.demo.history import CHUNK, UNTIL, generator

COUNT = 2 * CHUNK + 5_000


def loans(count: int = COUNT, seed: int = 1, until: datetime = UNTIL) -> pa.Table:
    return pa.concat_tables(batch.loans for batch in history.made(count, seed, until))


def payments(count: int = COUNT, seed: int = 1, until: datetime = UNTIL) -> pa.Table:
    return pa.concat_tables(batch.payments for batch in history.made(count, seed, until))


def test_the_same_seed_and_end_give_the_same_rows() -> None:
    assert loans().equals(loans())
    assert payments().equals(payments())


def test_another_seed_gives_other_rows() -> None:
    assert not loans(1000).equals(loans(1000, seed=2))


def test_each_chunk_has_other_applicants() -> None:
    first, second = (batch.loans["person_income"] for batch in history.made(2 * CHUNK))
    assert not first.equals(second)


def test_a_larger_scale_begins_with_the_same_applicants() -> None:
    small, large = loans(CHUNK + 10), loans(COUNT)
    columns = [name for name in applicants.draw(generator(1), 1) if name != "loan_status"]
    assert large.select(columns).slice(0, CHUNK + 10).equals(small.select(columns))


def test_another_end_moves_all_times_with_it() -> None:
    later = loans(1000, until=UNTIL + timedelta(days=3))
    moved = pc.subtract(later["applied_at"], loans(1000)["applied_at"])
    assert set(moved.to_pylist()) == {timedelta(days=3)}


def test_an_end_means_the_same_in_every_time_zone() -> None:
    assert loans(100, until=UNTIL.astimezone(None)).equals(loans(100))


def test_loans_are_numbered_in_the_order_of_their_application() -> None:
    made = loans()
    assert made["loan_id"].to_pylist() == list(range(1, COUNT + 1))
    applied = made["applied_at"].to_pylist()
    assert applied == sorted(applied)
    assert UNTIL - timedelta(days=730) <= applied[0]
    assert applied[-1] <= UNTIL


def test_the_newest_few_per_cent_are_undecided() -> None:
    made = loans().to_pandas()
    undecided = made["loan_status"].isna()
    assert 0.03 < undecided.mean() < 0.05
    assert (made.loc[undecided, "updated_at"] == made.loc[undecided, "applied_at"]).all()
    assert made.loc[undecided, "applied_at"].median() > UNTIL - timedelta(days=60)


def test_nothing_is_updated_before_its_application_or_after_the_end() -> None:
    made = loans().to_pandas()
    assert (made["updated_at"] >= made["applied_at"]).all()
    assert (made["updated_at"] <= UNTIL).all()


def test_every_approved_loan_is_paid_in_installments_and_no_other() -> None:
    made, paid = loans().to_pandas(), payments().to_pandas()
    approved = made.loc[made["loan_status"] == 1, "loan_id"]
    assert set(paid["loan_id"]) == set(approved)
    assert not paid.duplicated(["loan_id", "installment"]).any()


def test_applications_that_were_read_keep_their_values_and_decisions() -> None:
    chunks = [applicants.draw(generator(1, chunk), size) for chunk, size in ((0, CHUNK), (1, 7))]
    given = pa.concat_tables(batch.loans for batch in history.given(iter(chunks), 1))
    expected = pd.concat(map(pd.DataFrame, chunks), ignore_index=True)
    assert given.select(list(expected)).to_pandas().equals(expected)
    times = given.select(["applied_at", "updated_at"]).to_pandas()
    assert (times["applied_at"] <= times["updated_at"]).all()
    assert (times["updated_at"] <= UNTIL).all()


def test_micros_are_exact() -> None:
    assert history.micros(datetime(2026, 11, 1, 0, 0, 0, 123457, UTC)) == 1793491200123457
