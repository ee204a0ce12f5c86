"""The live workload does what it is told, at the rate it is told, and counts it rightly."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest

from lake.demo import workload
from lake.demo.fill import fill
from lake.demo.operations import OPERATIONS
from lake.demo.workload import MIX, Summary, parse_mix, run
from lake.errors import LakeError

Rows = list[tuple[Any, ...]]
FAST = 100_000.0


@pytest.fixture
def source(source_connection: psycopg.Connection) -> psycopg.Connection:
    fill(source_connection, rows=2000, seed=3)
    return source_connection


def done(source: psycopg.Connection, name: str, times: int = 20) -> Summary:
    """Do one operation a number of times."""
    summary = run(source, rate=FAST, mix={name: 1}, count=times)
    assert summary.operations == {name: times}
    return summary


def loans(source: psycopg.Connection) -> dict[Any, tuple[Any, ...]]:
    return {row[0]: row for row in source.execute("select * from loan").fetchall()}


def installments(source: psycopg.Connection) -> dict[Any, tuple[Any, ...]]:
    found = source.execute("select * from loan_payment").fetchall()
    return {row[:2]: row for row in found}


def bad_loans(source: psycopg.Connection) -> int:
    found = source.execute(
        """
        select count(*) from loan where not (
            person_age between 18 and 100
            and person_emp_exp <= person_age - 14
            and loan_amnt > 0
            and person_income > 0
            and loan_int_rate between 0 and 40
            and credit_score between 300 and 850
            and coalesce(loan_status, 0) in (0, 1)
        )
        """
    ).fetchone()
    assert found is not None
    return int(found[0])


def test_every_operation_is_in_the_mix_and_the_other_way_round() -> None:
    assert set(MIX) == set(OPERATIONS)


def test_an_application_is_a_new_undecided_loan(source: psycopg.Connection) -> None:
    before = loans(source)
    done(source, "apply")
    after = loans(source)
    new = [row for loan, row in after.items() if loan not in before]
    assert len(new) == 20
    assert {row[14] for row in new} == {None}


def test_a_decision_is_made_once_and_approval_brings_a_schedule(
    source: psycopg.Connection,
) -> None:
    before, scheduled = loans(source), set(installments(source))
    done(source, "decide")
    changed = [row for loan, row in loans(source).items() if row != before[loan]]
    assert len(changed) == 20
    assert {before[row[0]][14] for row in changed} == {None}
    approved = {row[0] for row in changed if row[14] == 1}
    assert approved
    assert {loan for loan, _ in set(installments(source)) - scheduled} == approved


def test_a_correction_keeps_every_rule(source: psycopg.Connection) -> None:
    before, bad = loans(source), bad_loans(source)
    done(source, "correct")
    after = loans(source)
    assert 10 < sum(after[loan] != row for loan, row in before.items()) <= 20
    assert bad_loans(source) == bad


def test_a_spoiled_loan_breaks_a_rule_until_it_is_mended(source: psycopg.Connection) -> None:
    source.execute("update loan set person_age = 144, person_emp_exp = 125 where loan_id = 5")
    source.execute("delete from loan where person_age > 90 and loan_id <> 5")
    before = loans(source)
    summary = run(source, rate=FAST, mix={"spoil": 1}, count=30)
    spoiled = summary.operations["spoil"]
    assert spoiled > 20
    assert summary.spoiled == bad_loans(source) == spoiled + 1
    after = loans(source)
    assert sum(after[loan] != row for loan, row in before.items()) == spoiled


def test_an_impossible_age_is_mended(source: psycopg.Connection) -> None:
    source.execute("update loan set person_age = 30, person_emp_exp = 5 where person_age > 90")
    source.execute("update loan set person_age = 144, person_emp_exp = 125 where loan_id = 5")
    done(source, "mend", 1)
    mended = source.execute("select person_age, person_emp_exp from loan where loan_id = 5")
    assert mended.fetchone() == (44, 25)


def test_spoiled_loans_get_their_own_values_back(source: psycopg.Connection) -> None:
    before = loans(source)
    summary = run(source, rate=FAST, mix={"spoil": 1, "mend": 3}, count=100)
    wrong = [
        loan for loan, row in loans(source).items() if row[1:-1] != before.get(loan, row)[1:-1]
    ]
    assert summary.operations["mend"] > 10
    assert len(wrong) <= summary.spoiled


def test_a_withdrawn_loan_goes_with_its_payments(source: psycopg.Connection) -> None:
    before = loans(source)
    done(source, "withdraw")
    gone = set(before) - set(loans(source))
    assert len(gone) == 20
    assert not gone & {loan for loan, _ in installments(source)}


def test_payments_are_billed_paid_and_cancelled(source: psycopg.Connection) -> None:
    before = installments(source)
    done(source, "bill")
    billed = installments(source)
    assert len(billed) == len(before) + 20
    done(source, "pay")
    paid = installments(source)
    changed = [key for key, row in paid.items() if row[4] != billed[key][4]]
    assert 0 < len(changed) <= 20
    done(source, "cancel")
    assert len(installments(source)) == len(paid) - 20


def test_details_hold_text_that_is_hard_to_quote(source: psycopg.Connection) -> None:
    done(source, "pay", 60)
    remarks = {
        remark
        for (remark,) in source.execute(
            "select details ->> 'remark' from loan_payment where details ? 'remark'"
        )
    }
    assert {"日本語 🎉", 'said "tomorrow"', "two\nlines\tand a tab"} <= remarks


def test_several_changes_of_one_key_stand_in_one_transaction(source: psycopg.Connection) -> None:
    before = loans(source)
    done(source, "revise")
    after = loans(source)
    assert set(after) == set(before)
    changed = [after[loan] for loan in before if after[loan] != before[loan]]
    assert {row[12] for row in changed} == {630, 640}


def test_what_is_abandoned_leaves_nothing(source: psycopg.Connection) -> None:
    before = loans(source), installments(source)
    done(source, "abandon")
    assert (loans(source), installments(source)) == before


def test_only_the_second_try_after_a_savepoint_stands(source: psycopg.Connection) -> None:
    before = loans(source)
    done(source, "retry")
    new = [row for loan, row in loans(source).items() if loan not in before]
    assert [row[12] for row in new] == [650] * 20
    assert not [row for row in new if row[1] == 999]


def test_a_new_number_takes_the_payments_along(source: psycopg.Connection) -> None:
    before, paid = loans(source), installments(source)
    done(source, "rekey", 40)
    after = loans(source)
    moved = set(after) - set(before)
    assert moved
    assert len(after) == len(before)
    assert {loan for loan, _ in installments(source)} <= set(after)
    assert len(installments(source)) == len(paid)
    assert {row[1:-1] for row in after.values()} == {row[1:-1] for row in before.values()}


def test_the_whole_mix_runs_at_the_rate_asked_for(source: psycopg.Connection) -> None:
    began = time.monotonic()
    summary = run(source, rate=20, seconds=3)
    assert 2.9 < time.monotonic() - began < 3.5
    assert summary.total == pytest.approx(60, abs=3)
    assert summary.rate == pytest.approx(20, rel=0.1)
    assert len(summary.operations) >= 8


def test_a_slow_source_gets_no_pause_and_the_time_holds(source: psycopg.Connection) -> None:
    summary = run(source, rate=FAST, seconds=0.5)
    assert 0.5 <= summary.seconds < 2
    assert 10 < summary.rate < FAST


def test_it_stops_at_once_when_told(source: psycopg.Connection) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    summary = run(source, rate=0.5, stop=stop)
    assert summary.total == 1
    assert summary.seconds < 1


def test_the_same_seed_does_the_same(source: psycopg.Connection) -> None:
    ends: list[Rows] = []
    for _ in range(2):
        with source.transaction(force_rollback=True):
            run(source, rate=FAST, count=200, seed=9)
            columns = "loan_id, person_age, loan_amnt, credit_score, loan_status"
            loan = source.execute(f"select {columns} from loan order by 1".encode()).fetchall()
            paid = source.execute("select loan_id, reference from loan_payment order by 1, 2")
            ends.append(loan + paid.fetchall())
            source.execute("select setval('loan_loan_id_seq', 2000)")
    assert ends[0] == ends[1]


def test_a_source_without_rows_is_worked_on_too(source_connection: psycopg.Connection) -> None:
    fill(source_connection, rows=1)
    source_connection.execute("delete from loan")
    summary = run(source_connection, rate=FAST, count=300)
    assert summary.total == 300
    assert summary.operations["apply"] > 60


def test_two_workloads_share_a_source(source: psycopg.Connection) -> None:
    summaries: list[Summary] = []

    def work() -> None:
        # The same seed, so that both go for the same rows.
        with psycopg.connect(source.info.dsn, password=source.info.password or None) as own:
            summaries.append(run(own, rate=FAST, count=400))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [summary.total for summary in summaries] == [400, 400]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": 0}, "the rate 0 makes no sense"),
        ({"rate": float("nan")}, "the rate nan makes no sense"),
        ({"seconds": -1}, "-1 seconds make no sense"),
        ({"count": -1}, "-1 operations make no sense"),
        ({"seed": -1}, "the seed -1 is negative"),
        ({"mix": {"dance": 1}}, "`dance`, which is no operation: one of apply"),
        ({"mix": {"apply": -1, "decide": 2}}, "weighs apply as -1"),
        ({"mix": {"apply": 0}}, "the mix is empty"),
        ({"mix": {}}, "the mix is empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    source_connection: psycopg.Connection, options: Mapping[str, object], said: str
) -> None:
    with pytest.raises(LakeError) as raised:
        run(source_connection, **options)  # type: ignore[arg-type]
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_source_without_tables_is_named(source_connection: psycopg.Connection) -> None:
    with pytest.raises(LakeError, match="fill it first, with `lake demo`"):
        run(source_connection, seconds=1)


def test_a_source_that_goes_away_is_one_clear_line(source: psycopg.Connection) -> None:
    def end() -> None:
        with psycopg.connect(source.info.dsn, password=source.info.password or None) as other:
            other.execute("select pg_terminate_backend(%s)", [source.info.backend_pid])

    threading.Timer(0.3, end).start()
    with pytest.raises(LakeError, match="the workload ended, the source said: ") as raised:
        run(source, seconds=5)
    assert len(str(raised.value).splitlines()) == 1


def test_a_mix_is_read_from_text() -> None:
    assert parse_mix("apply=3, decide=0.5") == {"apply": 3.0, "decide": 0.5}


@pytest.mark.parametrize("text", ["", "apply", "apply=", "apply=much", "apply=1,,decide=1"])
def test_a_mix_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(LakeError, match="is no part of a mix: write it as"):
        parse_mix(text)


def test_the_standard_mix_passes_its_own_check(source: psycopg.Connection) -> None:
    assert run(source, mix=workload.MIX, seconds=0).total == 0
