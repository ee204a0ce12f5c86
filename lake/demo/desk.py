"""The desk at which the workload's people sit: what they know of the source, and how they reach it.

It keeps key numbers, never rows: a source of any size can be worked on.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from lake.demo import applicants

Row = dict[str, Any]

POOL = 256  # applicants drawn at a time
UNDECIDED, IMPOSSIBLE = 10_000, 1_000  # loans of these kinds that are known at most, at the start


@dataclass
class Desk:
    """What the lender's people know: where the loans are, what is undecided, what is wrong."""

    connection: psycopg.Connection
    rng: np.random.Generator
    lowest: int = 1
    highest: int = 0
    undecided: list[int] = field(default_factory=list)
    broken: dict[int, Row] = field(default_factory=dict)  # loan: the values that mend it
    waiting: list[Row] = field(default_factory=list)

    def look_around(self) -> None:
        """Find the loans, the undecided ones, and those with an impossible age."""
        low, high = self.one("select min(loan_id), max(loan_id) from loan") or (None, None)
        self.lowest, self.highest = low or 1, high or 0
        found = self.connection.execute(
            "select loan_id from loan where loan_status is null order by loan_id limit %s",
            [UNDECIDED],
        )
        self.undecided = [loan for (loan,) in found]
        found = self.connection.execute(
            "select loan_id, person_age, person_emp_exp from loan where person_age > 100"
            " order by loan_id limit %s",
            [IMPOSSIBLE],
        )
        for loan, age, worked in found:
            slip = 100 if age >= 118 else 80
            mended = {"person_age": age - slip, "person_emp_exp": max(worked - slip, 0)}
            self.broken[loan] = mended

    def one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """The first row of a statement, or None."""
        return self.connection.execute(statement.encode(), values).fetchone()

    def some_loan(self) -> int | None:
        """A loan, about evenly drawn; None where there are none."""
        start = int(self.rng.integers(self.lowest, self.highest + 1)) if self.highest else 0
        for lowest in (start, 0):
            statement = "select loan_id from loan where loan_id >= %s order by loan_id limit 1"
            if found := self.one(statement, lowest):
                return int(found[0])
        return None

    def some_payment(self) -> tuple[int, int] | None:
        """The first installment there is of some loan."""
        loan = self.some_loan() or 0
        for lowest in (loan, 0):
            found = self.one(
                "select loan_id, installment from loan_payment where loan_id >= %s"
                " order by loan_id, installment limit 1",
                lowest,
            )
            if found:
                return found[0], found[1]
        return None

    def applicant(self) -> Row:
        """The next in the queue, whose application is undecided."""
        if not self.waiting:
            drawn = applicants.draw(self.rng, POOL)
            drawn.pop("loan_status")
            rows = zip(*(column.tolist() for column in drawn.values()), strict=True)
            self.waiting = [dict(zip(drawn, row, strict=True)) for row in rows]
        return self.waiting.pop()

    def insert(self, row: Row) -> int:
        """Insert a loan; answers its number."""
        statement = sql.SQL("insert into loan ({}) values ({}) returning loan_id").format(
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        )
        found = self.connection.execute(statement, list(row.values())).fetchone()
        assert found is not None
        return int(found[0])

    def update(self, loan: int, changes: Row) -> bool:
        """Change a loan; its share of the income follows. Answers whether it was there."""
        sets = [sql.SQL("{} = {}").format(sql.Identifier(c), sql.Placeholder()) for c in changes]
        statement = sql.SQL("update loan set {}, updated_at = now() where loan_id = {}").format(
            sql.SQL(", ").join(sets), sql.Placeholder()
        )
        done = self.connection.execute(statement, [*changes.values(), loan])
        if {"person_income", "loan_amnt"} & changes.keys():
            self.connection.execute(
                "update loan set loan_percent_income = round(loan_amnt / person_income, 2)"
                " where loan_id = %s and person_income >= 100 and loan_amnt > 0"
                " and loan_amnt / person_income < 900",
                [loan],
            )
        return done.rowcount == 1

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]
