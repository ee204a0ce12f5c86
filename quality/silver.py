"""Silver is right: keys hold, rules hold, and what breaks one is in quarantine, nowhere else.

Keys, rules and what a history must be are the contract's, for every model. By hand: the words the
source uses, and how tables hang together. Of what breaks a rule that warns or stops the run, the
quarantine tells.
"""

from lake.contract import Rule
from lake.manifest import Model, models
from lake.rules import rules
from quality.suite import Expectation, Suite, between, keys, no_row, none, one_of, present


def suite() -> Suite:
    declared = {model.name: model for model in models("silver")}
    by_hand, judged = _by_hand(), keys("silver")
    for name, model in declared.items():
        expected = judged[f"silver.{name}"]
        if model.history_of:
            expected += _history(declared[model.history_of])
        if model.quarantine_of:
            of = declared[model.quarantine_of]
            expected += _quarantined(of)
            judged[f"silver.{of.name}"] += _kept_out(of, name)
        expected += [*_held(name), *by_hand.get(f"silver.{name}", ())]
    return judged


def _history(current: Model) -> list[Expectation]:
    """What holds of a history of the rows that are in `current`."""
    named, position = ", ".join(current.key), "_commit_lsn, _ordinal"
    return [
        none(
            "a row has at most one current version",
            f"select {named} from {{batch}} where is_current group by {named} having count(*) > 1",
        ),
        no_row(
            "no version ends before it begins",
            "valid_to < valid_from",
            *current.key,
            "valid_from",
            "valid_to",
        ),
        none(
            f"a current version that holds the rules is among the {current.name}, and no other",
            f"select {named}, {position} from "
            f"(select {named}, {position}, true as is_version from {{batch}} "
            "where is_current and is_valid) as versions "
            f"full join (select {named}, {position}, true as is_held "
            f"from silver_{current.name}) as held "
            f"using ({named}, {position}) where is_version is null or is_held is null",
        ),
    ]


def _by_hand() -> Suite:
    return {
        "silver.loans": [
            present("loan_amnt"),
            present("_commit_lsn"),
            one_of("person_gender", "female", "male"),
            one_of(
                "person_education", "High School", "Associate", "Bachelor", "Master", "Doctorate"
            ),
            one_of("person_home_ownership", "RENT", "OWN", "MORTGAGE", "OTHER"),
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
    }


def _held(model: str) -> list[Expectation]:
    """No row of a model breaks a rule of it that keeps rows out."""
    return [
        no_row(_words(name, rule), f"not ({literal})")
        for name, rule in rules(model).items()
        if rule.on_break != "warn"
        for literal in [rule.condition.replace("{", "{{").replace("}", "}}")]
    ]


def _kept_out(model: Model, quarantine: str) -> list[Expectation]:
    """No row that is kept out of a model is in it."""
    named = ", ".join(model.key)
    return [
        none(
            f"no row in quarantine is among the {model.name}",
            f"select {named} from {{batch}} left semi join (select * from "
            f"silver_{quarantine} where on_break <> 'warn') as kept_out using ({named})",
        )
    ]


def _quarantined(of: Model) -> list[Expectation]:
    """What holds of a model's quarantine, and what it tells of rules that warn or stop the run."""
    declared = rules(of.name)
    return [
        one_of("rule", *declared),
        *(
            no_row(
                _words(name, rule),
                f"rule = '{name}'",
                *of.key,
                warns=rule.on_break == "warn",
            )
            for name, rule in declared.items()
            if rule.on_break != "quarantine"
        ),
    ]


def _words(name: str, rule: Rule) -> str:
    return f"{name}: {rule.condition}"
