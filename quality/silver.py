"""Silver is right: keys hold, rules hold, and what breaks one is in quarantine, nowhere else.

Keys, rules and what a history must be are the contract's, for every model. By hand: the words the
source uses, and how tables hang together. Of what breaks a rule that warns or stops the run, the
quarantine tells.
"""

from collections.abc import Sequence

from great_expectations.expectations.expectation import Expectation

from lake.manifest import models
from lake.rules import Rule, rules
from quality.suite import Suite, between, keys, none, one_of, present


def suite() -> Suite:
    keyed = {model.name: model.key for model in models("silver")}
    histories = {
        f"silver.{model.name}": _history(model.history_of, keyed)
        for model in models("silver")
        if model.history_of
    }
    by_hand = _by_hand(keyed)
    return {
        name: [*found, *histories.get(name, ()), *by_hand.get(name, ())]
        for name, found in keys("silver").items()
    }


def _history(current: str, keyed: dict[str, tuple[str, ...]]) -> list[Expectation]:
    """What holds of a history of the rows that are in `current`."""
    named = ", ".join(keyed[current])
    return [
        none(
            "a row has at most one current version",
            f"select {named} from {{batch}} where is_current group by {named} having count(*) > 1",
        ),
        none(
            "no version ends before it begins",
            f"select {named}, valid_from, valid_to from {{batch}} where valid_to < valid_from",
        ),
        none(
            f"a current version that holds the rules is among the {current}, and no other",
            f"select {named}, _lsn from "
            f"(select {named}, _lsn, true as is_version from {{batch}} "
            "where is_current and is_valid) as versions "
            f"full join (select {named}, _lsn, true as is_held from silver_{current}) as held "
            f"using ({named}, _lsn) where is_version is null or is_held is null",
        ),
    ]


def _by_hand(keyed: dict[str, tuple[str, ...]]) -> Suite:
    return {
        "silver.loans": [
            present("loan_amnt"),
            present("_lsn"),
            one_of("person_gender", "female", "male"),
            one_of(
                "person_education", "High School", "Associate", "Bachelor", "Master", "Doctorate"
            ),
            one_of("person_home_ownership", "RENT", "OWN", "MORTGAGE", "OTHER"),
            *_held("loans"),
            *_kept_out("loans", keyed["loans"]),
        ],
        "silver.loan_payments": [
            between("amount", 0, None, "amount is not negative"),
            one_of("channel", "card", "transfer", "cash"),
            none(
                "every payment is of a loan that is known, if only in quarantine",
                "select loan_id, installment from {batch} "
                "left anti join silver_loans using (loan_id) "
                "left anti join silver_loans_quarantine using (loan_id)",
            ),
        ],
        "silver.loans_quarantine": _quarantined("loans", keyed["loans"]),
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
