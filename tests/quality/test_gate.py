"""Each suite passes what is right and, where one thing is broken, says which."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from lake.errors import LakeError
from lake.settings import settings
from quality import gx
from quality.finding import Report
from quality.gate import validate
from quality.suite import between, key, one_of, present
from tests.quality.conftest import BROKEN, Break, Rows, loan

Judged = Callable[..., Report]


def put(table: str, row: int = 0, **values: Any) -> Break:
    """Give one row of a table other values."""

    def change(data: Rows) -> None:
        data[table][row] |= values

    return change


def copy(table: str) -> Break:
    """Have the last row of a table twice."""

    def change(data: Rows) -> None:
        data[table].append(dict(data[table][-1]))

    return change


def drop(table: str, row: int) -> Break:
    """Lose one row of a table."""

    def change(data: Rows) -> None:
        del data[table][row]

    return change


def quarantine_a_valid_loan(data: Rows) -> None:
    data["silver.loans_quarantine"].append(loan(3) | BROKEN)


def break_a_rule_that_warns(data: Rows) -> None:
    data["silver.loans_quarantine"] += [
        loan(number) | {"rule": "burden_told", "on_break": "warn"} for number in range(5, 10)
    ]


def lose_the_parent_of_a_payment(data: Rows) -> None:
    data["silver.loan_payments"][0]["loan_id"] = 77


def keep_two_current_versions(data: Rows) -> None:
    data["silver.loans_history"].append(data["silver.loans_history"][0] | {"_ordinal": 5_000})


def refuse_all(data: Rows) -> None:
    for row in data["silver.loans"]:
        row["loan_status"] = 0
    for row in data["gold.fct_loans"]:
        row |= {"is_approved": False}
    data["gold.agg_loan_approvals"][0] |= {"approved": 0, "approval_rate": 0.0}


def lend_ten_times_as_much(data: Rows) -> None:
    for table in ("silver.loans", "gold.fct_loans"):
        for row in data[table]:
            row["loan_amnt"] *= 10
    data["gold.agg_loan_approvals"][0]["requested_amount"] *= 10


HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)
CASES: list[tuple[str, Break, str]] = [
    ("bronze.loan", copy("bronze.loan"), "loan_id is unique"),
    ("bronze.loan", put("bronze.loan", loan_id=None), "loan_id is present"),
    ("bronze.columns", put("bronze.columns", found="int"), "declared column is there"),
    ("bronze.rows", put("bronze.rows", in_bronze=1), "as many rows as at the source"),
    ("bronze.capture", put("bronze.capture", wal_status="lost"), "wal_status is a known one"),
    ("bronze.capture", put("bronze.capture", bytes_behind=2**40), "capture keeps up"),
    ("bronze.changes", put("bronze.changes", ingested_at=HOUR_AGO), "landed in the last"),
    ("bronze.changes", put("bronze.changes", op="x"), "op is a known one"),
    ("bronze.changes", put("bronze.changes", has_key=False), "declared key"),
    ("silver.loans", put("silver.loans", person_gender="x"), "person_gender is a known one"),
    ("silver.loans", put("silver.loans", person_age=144), "age_plausible"),
    ("silver.loans", put("silver.loans", credit_score=900), "credit_score_in_range"),
    ("silver.loans", quarantine_a_valid_loan, "no row in quarantine"),
    ("silver.loan_payments", copy("silver.loan_payments"), "(loan_id, installment) is unique"),
    ("silver.loan_payments", lose_the_parent_of_a_payment, "every payment is of a loan"),
    ("silver.loan_payments", put("silver.loan_payments", amount=Decimal(-1)), "not negative"),
    ("silver.loans_quarantine", put("silver.loans_quarantine", rule="x"), "rule is a known one"),
    ("silver.loans_history", keep_two_current_versions, "at most one current version"),
    ("silver.loans_history", drop("silver.loans_history", 1), "among the loans, and no other"),
    (
        "silver.loans_history",
        put("silver.loans_history", valid_to=HOUR_AGO - timedelta(days=900)),
        "no version ends before it begins",
    ),
    ("gold.fct_loans", drop("gold.fct_loans", 1), "counts and sums are those of silver"),
    ("gold.fct_loans", put("gold.fct_loans", loan_amnt=Decimal(1)), "counts and sums"),
    ("gold.agg_loan_approvals", put("gold.agg_loan_approvals", decided=1), "counts and sums"),
    ("gold.fct_loans", put("gold.fct_loans", age_band="?"), "age_band is a known one"),
    ("gold.fct_loans", put("gold.fct_loans", decided_at=None), "when it is decided"),
    ("gold.fct_loans", put("gold.fct_loans", paid_amount=Decimal(11)), "no more is paid"),
    ("gold.fct_loans", lend_ten_times_as_much, "quartiles of loan_amnt"),
    ("gold.agg_loan_approvals", refuse_all, "between 10 % and 40 %"),
    ("gold.agg_loan_approvals", put("gold.agg_loan_approvals", approval_rate=1.5), "0 and 1"),
    ("gold.ftr_loans", copy("gold.ftr_loans"), "(loan_id, event_timestamp) is unique"),
    ("gold.ftr_loans", drop("gold.ftr_loans", 2), "every loan has features"),
    ("gold.dim_dates", copy("gold.dim_dates"), "date_day is unique"),
    (
        "gold.ftr_loans",
        put("gold.ftr_loans", event_timestamp=datetime(2030, 1, 1, tzinfo=UTC)),
        "no feature is of the future",
    ),
]


@pytest.mark.parametrize("layer", ["bronze", "silver", "gold"])
def test_a_layer_that_is_right_passes(judged: Judged, layer: str) -> None:
    report = judged(layer)
    assert [str(failure) for failure in report.failures] == []
    assert len(report.findings) > 10
    assert all(finding.expectation for finding in report.findings)


@pytest.mark.parametrize("seed", range(3))
def test_what_breaks_an_expectation_is_what_great_expectations_itself_finds(
    session: SparkSession, seed: int
) -> None:
    chance = random.Random(seed)
    names = [None, "", "it's", "back\\slash", "{brace}", "é", *"abc"]
    rows = [
        (chance.choice([None, *range(30)]), chance.choice([None, 1, 2]), chance.choice(names))
        for _ in range(chance.choice([0, 1, 8, 40]))
    ]
    frame = session.createDataFrame(rows, "a int, b int, `a name` string")
    frame.createOrReplaceTempView("silver_made")
    few = [name for name in names if name is not None and chance.random() < 0.7]
    ours = [
        *key("a"),
        *key("a", "b"),
        present("a name"),
        one_of("a name", *few),
        one_of("a name"),
        between("a", 3, None),
        between("a", None, 25),
        between("a", 0, 29),
    ]
    theirs = [replace(one, where="", query="") for one in ours]
    found, wanted = (
        [(one.expectation, one.status) for one in gx.judge("silver.made", suite, frame)]
        for suite in (ours, theirs)
    )
    assert found == wanted
    own = replace(one_of("a name", "a"), where="")
    (told,) = gx.judge("silver.made", [own], frame)
    others = [name for _, _, name in rows if name not in (None, "a")]
    assert (told.value or 0) == len(others)
    assert ("rows, as " in told.observed) == bool(others)


@pytest.mark.parametrize("layer", ["bronze", "silver"])
def test_a_table_may_be_empty(judged: Judged, layer: str) -> None:
    def empty(data: Rows) -> None:
        for table in ("bronze.loan", "bronze.loan_payment", "silver.loan_payments"):
            data[table].clear()

    report = judged(layer, empty)
    assert [str(failure) for failure in report.failures] == []


@pytest.mark.parametrize("layer", ["bronze", "silver", "gold"])
def test_all_that_is_broken_is_named_each_in_a_line(judged: Judged, layer: str) -> None:
    breaks = [entry for entry in CASES if entry[0].startswith(layer)]

    def all_of_them(data: Rows) -> None:
        for _, broken, _ in breaks:
            broken(data)

    failures = judged(layer, all_of_them).failures
    unnamed = [
        (table, words)
        for table, _, words in breaks
        if not any(f.table == table and words in f.expectation for f in failures)
    ]
    assert unnamed == []
    assert all("\n" not in str(f) and "an error" not in f.observed for f in failures)


@pytest.mark.parametrize(
    ("table", "broken", "line"),
    [
        (
            "bronze.columns",
            put("bronze.columns", found=None),
            "bronze.columns: expected that every declared column is there, in its type; "
            "found 1 rows, as source_table bronze.loan, column loan_id, "
            "declared bigint, found None",
        ),
        (
            "silver.loan_payments",
            put("silver.loan_payments", channel="barter"),
            "silver.loan_payments: expected that channel is a known one; "
            "found 1 of 3 rows, as barter",
        ),
    ],
)
def test_one_broken_value_is_one_line(judged: Judged, table: str, broken: Break, line: str) -> None:
    report = judged(table.partition(".")[0], broken)
    assert [str(failure) for failure in report.failures] == [line]


def test_a_rule_that_warns_is_told_of_and_stops_nothing(judged: Judged) -> None:
    report = judged("silver", break_a_rule_that_warns)
    report.enforce()
    assert [str(warning) for warning in report.warnings] == [
        "silver.loans_quarantine: expected that burden_told: loan_percent_income > 0; "
        "found 5 rows, as loan_id 5; loan_id 6; loan_id 7"
    ]
    (warning,) = report.warnings
    assert (warning.result.status, warning.result.value) == ("warn", 5)


def test_a_suspended_table_and_values_that_types_can_t_hold_are_told_and_stop_nothing(
    judged: Judged,
) -> None:
    def ail(data: Rows) -> None:
        trouble = "public.log has no key: run `alter table public.log replica identity full`"
        data["bronze.tables"].append({"source_table": "public.log", "trouble": trouble})
        data["bronze.unheld"].append({"source_table": "public.loan", "column": "day", "found": 3})
        data["bronze.rows"][0] |= {"in_source": None, "in_bronze": None, "trouble": "not now"}

    report = judged("bronze", ail)
    report.enforce()
    assert sorted(str(warning).partition("; found ")[2] for warning in report.warnings) == [
        "1 rows, as source_table public.loan, column day, found 3",
        "1 rows, as trouble not now",
        "1 rows, as trouble public.log has no key: "
        "run `alter table public.log replica identity full`",
    ]


def test_data_docs_are_a_local_site_for_each_table_of_when_it_was_judged_last(
    judged: Judged,
) -> None:
    def pages(table: str) -> list[str]:
        site = settings().state_dir.joinpath("data_docs", *table.split("."))
        return [page.read_text() for page in site.glob("validations/**/*.html")]

    judged("bronze", put("bronze.rows", in_bronze=1))
    judged("silver")
    index = (settings().state_dir / "data_docs" / "index.html").read_text()
    assert all(f"{one}/index.html" in index for one in ("bronze/rows", "silver/loan_payments"))
    bronze, silver = pages("bronze.rows"), pages("silver.loan_payments")
    assert any("as many rows as at the source" in page for page in bronze)
    assert any("every payment is of a loan" in page for page in silver)
    judged("bronze")
    assert len(pages("bronze.rows")) == len(bronze), "the last pages, and no older ones"
    assert pages("silver.loan_payments") == silver


def test_a_layer_that_is_not_one_is_refused(lake_stack: Path) -> None:
    with pytest.raises(LakeError, match="there is no layer `tin`"):
        validate(["tin"])
