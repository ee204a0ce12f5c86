"""Gold adds up to silver, and looks like the business that it describes.

Keys are the contract's, for every model. Totals are silver's. By hand: the ranges in which a
lender's figures have been so far; a figure outside is a change of the business, or a fault, and
somebody should say which.
"""

from lake.manifest import table_nodes
from quality.suite import Expectation, Suite, between, expect, keys, no_row, none, one_of


def suite() -> Suite:
    by_hand = _by_hand()
    return {name: [*found, *by_hand.get(name, ())] for name, found in keys("gold").items()}


def _by_hand() -> Suite:
    return {
        "gold.fct_loans": [
            _adds_up("count(*)", "sum(loan_amnt)", "count_if(is_decided)", "count_if(is_approved)"),
            one_of("age_band", "under 30", "30-39", "40-49", "50-59", "60 and over"),
            one_of("income_band", "low", "middle", "high"),
            no_row(
                "a loan is approved or refused when it is decided, and only then",
                "is_decided <> (is_approved is not null) or is_decided <> (decided_at is not null)",
                "loan_id",
            ),
            no_row(
                "no more is paid than was scheduled", "paid_amount > scheduled_amount", "loan_id"
            ),
            none(
                "the quartiles of loan_amnt are near 5, 8 and 12 thousand",
                "select * from (select percentile_approx(loan_amnt, array(0.25, 0.5, 0.75)) as q "
                "from {batch}) where not (q[0] between 3000 and 7000 "
                "and q[1] between 6000 and 11000 and q[2] between 9000 and 17000)",
            ),
            none(
                "loan_int_rate is 8 to 14 % on average",
                "select avg(loan_int_rate) as average from {batch} "
                "having avg(loan_int_rate) not between 8 and 14",
            ),
        ],
        "gold.agg_loan_approvals": [
            _adds_up("sum(applications)", "sum(requested_amount)", "sum(decided)", "sum(approved)"),
            between("approval_rate", 0, 1),
            none(
                "between 10 % and 40 % of the decided are approved",
                "select sum(approved) / sum(decided) as approval_rate from {batch} "
                "having sum(approved) / sum(decided) not between 0.1 and 0.4",
            ),
        ],
        "gold.ftr_loans": [
            expect(
                "ExpectTableColumnsToMatchSet",
                "the declared features, and no label",
                column_set=_declared("ftr_loans"),
            ),
            no_row(
                "no feature is of the future",
                "event_timestamp > created_timestamp + interval 5 minutes",
                "loan_id",
                "event_timestamp",
            ),
            none(
                "every loan has features",
                "select loan_id from gold_fct_loans left anti join {batch} using (loan_id)",
            ),
        ],
    }


def _adds_up(loans: str, amount: str, decided: str, approved: str) -> Expectation:
    """Four sums of a table of gold are those of silver."""

    def tall(name: str, table: str, *sums: str) -> str:
        named = zip(sums, ("loans", "amount", "decided", "approved"), strict=True)
        wide = ", ".join(f"cast({of} as decimal(38, 2)) as {measure}" for of, measure in named)
        return (
            f"(select * from (select {wide} from {table}) unpivot include nulls "
            f"({name} for measure in (loans, amount, decided, approved)))"
        )

    silver = ("count(*)", "sum(loan_amnt)", "count(loan_status)", "count_if(loan_status = 1)")
    return none(
        "counts and sums are those of silver",
        "select * from "
        + tall("in_gold", "{batch}", loans, amount, decided, approved)
        + " join "
        + tall("in_silver", "silver_loans", *silver)
        + " using (measure) where not (in_gold <=> in_silver)",
    )


def _declared(name: str) -> list[str]:
    """The columns of a model, as its contract has them; none of a model that there isn't."""
    (columns,) = [node["columns"] for node in table_nodes().values() if node["name"] == name] or [
        ()
    ]
    return list(columns)
