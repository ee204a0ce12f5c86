"""Silver is right: keys hold, rules hold, and what breaks one is in quarantine, nowhere else.

Keys and rules are the contract's. By hand: the words the source uses, and how tables hang together.
"""

from lake.manifest import manifest, source_tables
from quality.suite import Suite, between, key, none, one_of, present


def suite() -> Suite:
    keys = {table.name: table.key for table in source_tables()}
    rules = manifest()["nodes"]["model.lakehouse.loans"]["config"]["meta"]["rules"]
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
        "silver.loans_quarantine": [
            *key("loan_id", "rule"),
            one_of("rule", *rules),
        ],
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
