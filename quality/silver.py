"""Silver is right: keys hold, rules hold, and what breaks one is in quarantine, nowhere else.

Keys, rules and what a history must be are the contract's, for every model. By hand: the words the
source uses, and how tables hang together.
"""

from great_expectations.expectations.expectation import Expectation

from lake.manifest import Model, manifest, models
from quality.suite import Suite, between, key, none, one_of, present


def suite() -> Suite:
    keyed = {model.name: model.key for model in models("silver")}
    declared = {f"silver.{model.name}": _declared(model, keyed) for model in models("silver")}
    by_hand = _by_hand()
    return {name: [*found, *by_hand.get(name, ())] for name, found in declared.items()}


def _declared(model: Model, keyed: dict[str, tuple[str, ...]]) -> list[Expectation]:
    """What the contract alone says of a model."""
    unique = key(*model.key) if model.key else []
    return [*unique, *(_history(model.history_of, keyed) if model.history_of else ())]


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


def _by_hand() -> Suite:
    rules = manifest()["nodes"]["model.lakehouse.loans"]["config"]["meta"]["rules"]
    return {
        "silver.loans": [
            present("loan_amnt"),
            present("_lsn"),
            one_of("person_gender", "female", "male"),
            one_of(
                "person_education", "High School", "Associate", "Bachelor", "Master", "Doctorate"
            ),
            one_of("person_home_ownership", "RENT", "OWN", "MORTGAGE", "OTHER"),
            *(
                none(f"{name}: {rule}", f"select * from {{batch}} where not coalesce({rule}, true)")
                for name, rule in rules.items()
            ),
            none(
                "no loan in quarantine is among the loans",
                "select loan_id from {batch} "
                "left semi join silver_loans_quarantine using (loan_id)",
            ),
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
        "silver.loans_quarantine": [
            one_of("rule", *rules),
        ],
    }
