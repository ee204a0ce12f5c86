"""Silver is right: keys hold, rules hold, and what breaks one is in quarantine, nowhere else.

Of what breaks a rule that warns or stops the run, the quarantine tells.
Keys and rules are the contract's. By hand: the words the source uses, and how tables hang together.
"""

from collections.abc import Sequence

from great_expectations.expectations.expectation import Expectation

from lake.manifest import source_tables
from lake.rules import Rule, rules
from quality.suite import Suite, between, key, none, one_of, present


def suite() -> Suite:
    keys = {table.name: table.key for table in source_tables()}
    return {
        "silver.loans": [
            *key(*keys["loan"]),
            present("loan_amnt"),
            present("_lsn"),
            one_of("person_gender", "female", "male"),
            one_of(
                "person_education", "High School", "Associate", "Bachelor", "Master", "Doctorate"
            ),
            one_of("person_home_ownership", "RENT", "OWN", "MORTGAGE", "OTHER"),
            *_held("loans"),
            *_kept_out("loans", keys["loan"]),
        ],
        "silver.loan_payments": [
            *key(*keys["loan_payment"]),
            between("amount", 0, None, "amount is not negative"),
            one_of("channel", "card", "transfer", "cash"),
            none(
                "every payment is of a loan that is known, if only in quarantine",
                "select loan_id, installment from {batch} "
                "left anti join silver_loans using (loan_id) "
                "left anti join silver_loans_quarantine using (loan_id)",
            ),
        ],
        "silver.loans_quarantine": _quarantined("loans", keys["loan"]),
        "silver.loans_history": [
            *key("loan_id", "_lsn"),
            none(
                "a loan has at most one current version",
                "select loan_id from {batch} where is_current group by loan_id having count(*) > 1",
            ),
            none(
                "no version ends before it begins",
                "select loan_id, valid_from, valid_to from {batch} where valid_to < valid_from",
            ),
            none(
                "a current version that holds the rules is among the loans, and no other",
                "select coalesce(versions.loan_id, loans.loan_id) as loan_id from "
                "(select loan_id, _lsn from {batch} where is_current and is_valid) as versions "
                "full join silver_loans as loans "
                "on versions.loan_id = loans.loan_id and versions._lsn = loans._lsn "
                "where versions.loan_id is null or loans.loan_id is null",
            ),
        ],
    }


def _held(model: str) -> list[Expectation]:
    """No row of a model breaks a rule that keeps it out."""
    return [
        none(_words(rule), f"select * from {{batch}} where not coalesce({rule.condition}, true)")
        for rule in rules(model)
        if rule.on_break != "warn"
    ]


def _kept_out(model: str, key_: Sequence[str]) -> list[Expectation]:
    """No row that is kept out of a model is in it."""
    named = ", ".join(key_)
    return [
        none(
            f"no row in quarantine is among the {model}",
            f"select {named} from {{batch}} left semi join (select * from "
            f"silver_{model}_quarantine where on_break <> 'warn') as kept_out using ({named})",
        )
    ]


def _quarantined(model: str, key_: Sequence[str]) -> list[Expectation]:
    """What holds of a model's quarantine, and what it tells of rules that warn or stop the run."""
    declared, named = rules(model), ", ".join(key_)
    return [
        *key(*key_, "rule"),
        one_of("rule", *(rule.name for rule in declared)),
        *(
            none(
                _words(rule),
                f"select {named} from {{batch}} where rule = '{rule.name}'",
                warns=rule.on_break == "warn",
            )
            for rule in declared
            if rule.on_break != "quarantine"
        ),
    ]


def _words(rule: Rule) -> str:
    return f"{rule.name}: {rule.condition}"
