"""What the lender's people do all day: each operation is one transaction on the live source.

An operation answers whether it found something to work on. Where several changes of one key stand
in one transaction, or half of it is rolled back, it is to see that capture gets exactly the rest.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from psycopg import sql
from psycopg.rows import dict_row

from lake.demo import applicants, payments
from lake.demo.desk import Desk, Row
from lake.demo.history import micros

RULE_BREAKERS: tuple[tuple[str, Any], ...] = (
    ("person_age", 144),
    ("person_age", 12),
    ("person_emp_exp", 125),
    ("person_income", 0),
    ("loan_amnt", -500),
    ("loan_int_rate", 45),
    ("credit_score", 900),
    ("credit_score", 250),
    ("loan_status", 2),
)

REMARKS = (
    "it's paid",
    'said "tomorrow"',
    "C:\\receipts\\1",
    "Žluťoučký kůň",
    "日本語 🎉",
    "two\nlines\tand a tab",
    "'; drop table loan; --",
    "null",
    "",
)


def apply(desk: Desk) -> bool:
    """Somebody applies."""
    loan = desk.insert(desk.applicant())
    desk.highest = max(desk.highest, loan)
    desk.undecided.append(loan)
    return True


def decide(desk: Desk) -> bool:
    """An application is approved, with its schedule of payments, or refused."""
    if not desk.undecided:
        return False
    loan = desk.undecided.pop(int(desk.rng.integers(len(desk.undecided))))
    decided = desk.one(
        """
        update loan set
            loan_status = case when previous_loan_defaults_on_file then 0 else %s end,
            updated_at = now()
        where loan_id = %s and loan_status is null
        returning loan_status, loan_amnt, loan_int_rate, updated_at
        """,
        int(desk.rng.random() < 0.45),
        loan,
    )
    if decided is None:
        return False
    status, amount, rate, at = decided
    if status == 1 and amount > 0 and rate > 0:
        start = micros(at)
        one = (np.array([loan]), np.array([float(amount)]), np.array([float(rate)]))
        rows = payments.schedule(desk.rng, *one, np.array([start]), start)
        with desk.connection.cursor() as cursor:
            cursor.executemany(
                "insert into loan_payment values (%s, %s, %s, %s, %s, %s, %s, %s)",
                [tuple(row.values()) for row in rows.to_pylist()],
            )
    return True


def correct(desk: Desk) -> bool:
    """A clerk corrects one value of a loan by a little."""
    loan = desk.some_loan()
    if loan is None or loan in desk.broken:
        return False
    rng = desk.rng
    changes: Row = desk.pick(
        {"person_income": int(rng.integers(15, 200)) * 1000},
        {"loan_amnt": int(rng.integers(5, 250)) * 100},
        {"loan_int_rate": round(float(rng.uniform(5.42, 20)), 2)},
        {"credit_score": int(rng.integers(450, 750))},
        {"person_education": desk.pick(*applicants.EDUCATION)},
        {"person_home_ownership": desk.pick(*applicants.HOMES)},
    )
    return desk.update(loan, changes)


def spoil(desk: Desk) -> bool:
    """A slip of the pen: a value that breaks a rule, to be mended later."""
    loan = desk.some_loan()
    if loan is None or loan in desk.broken:
        return False
    column, value = desk.pick(*RULE_BREAKERS)
    found = desk.connection.execute(
        sql.SQL("select {} from loan where loan_id = {}").format(
            sql.Identifier(column), sql.Placeholder()
        ),
        [loan],
    ).fetchone()
    if found is None:
        return False
    desk.broken[loan] = {column: found[0]}
    return desk.update(loan, {column: value})


def mend(desk: Desk) -> bool:
    """A slip is found and mended: an age of 144 becomes 44."""
    if not desk.broken:
        return False
    loan = list(desk.broken)[int(desk.rng.integers(len(desk.broken)))]
    return desk.update(loan, desk.broken.pop(loan))


def withdraw(desk: Desk) -> bool:
    """A loan is deleted, with its payments."""
    loan = desk.some_loan()
    if loan is None:
        return False
    desk.broken.pop(loan, None)
    return desk.connection.execute("delete from loan where loan_id = %s", [loan]).rowcount == 1


def bill(desk: Desk) -> bool:
    """One more installment is added to a loan that has some."""
    key = desk.some_payment()
    if key is None:
        return False
    done = desk.connection.execute(
        """
        insert into loan_payment (loan_id, installment, due_on, amount, reference, details)
        select
            loan_id,
            installment + 1,
            due_on + 30,
            amount,
            %s::uuid,
            jsonb_build_object('note', %s::text, 'after', details)
        from loan_payment
        where loan_id = %s
        order by installment desc
        limit 1
        """,
        [*payments.uuids(desk.rng, 1), desk.pick(*REMARKS), key[0]],
    )
    return done.rowcount == 1


def pay(desk: Desk) -> bool:
    """An installment is paid; where all near it are, one is charged back."""
    key = desk.some_payment()
    if key is None:
        return False
    unpaid = desk.one(
        """
        select loan_id, installment
        from (
            select loan_id, installment, paid_at
            from loan_payment
            where loan_id >= %s
            order by loan_id, installment
            limit 50
        ) as near
        where paid_at is null
        limit 1
        """,
        key[0],
    )
    details = json.dumps({"remark": desk.pick(*REMARKS), "charged_back": unpaid is None})
    paid = "now()" if unpaid else "null"
    done = desk.connection.execute(
        f"update loan_payment set paid_at = {paid}, channel = %s, details = details || %s"
        " where loan_id = %s and installment = %s".encode(),
        [desk.pick(*payments.CHANNELS) if unpaid else None, details, *(unpaid or key)],
    )
    return done.rowcount == 1


def cancel(desk: Desk) -> bool:
    """An installment is deleted."""
    key = desk.some_payment()
    if key is None:
        return False
    statement = "delete from loan_payment where loan_id = %s and installment = %s"
    return desk.connection.execute(statement, key).rowcount == 1


def revise(desk: Desk) -> bool:
    """One key changes several times in one transaction."""
    way = desk.pick("update", "replace", "vanish")
    if way == "vanish":  # inserted and deleted at once
        loan = desk.insert(desk.applicant())
        desk.update(loan, {"credit_score": 600})
        desk.connection.execute("delete from loan where loan_id = %s", [loan])
        return True
    known = desk.some_loan()
    if known is None or known in desk.broken:
        return False
    if way == "update":
        return all(desk.update(known, {"credit_score": score}) for score in (610, 620, 630))
    with desk.connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("delete from loan where loan_id = %s returning *", [known]).fetchone()
    if row is None:
        return False
    desk.insert(row | {"credit_score": 640})
    return True


def abandon(desk: Desk) -> bool:
    """Changes that `UNDONE` has rolled back: nothing of them may be seen anywhere."""
    loan = desk.insert(desk.applicant())
    desk.connection.execute("delete from loan where loan_id = %s", [desk.some_loan()])
    desk.update(loan, {"person_income": 1})
    return True


def retry(desk: Desk) -> bool:
    """A part is undone to a savepoint and done otherwise: only the second try stands."""
    loan = desk.insert(desk.applicant())
    with desk.connection.transaction(force_rollback=True):
        desk.update(loan, {"person_age": 999})
        desk.insert(desk.applicant())
    with desk.connection.transaction():
        desk.update(loan, {"credit_score": 650})
    desk.highest = max(desk.highest, loan)
    desk.undecided.append(loan)
    return True


def rekey(desk: Desk) -> bool:
    """A loan gets a new number, and its payments with it."""
    loan = desk.some_loan()
    if loan is None:
        return False
    found = desk.one(
        "update loan set loan_id = nextval(pg_get_serial_sequence('loan', 'loan_id')),"
        " updated_at = now() where loan_id = %s returning loan_id",
        loan,
    )
    if found is None:
        return False
    desk.highest = max(desk.highest, found[0])
    if loan in desk.broken:
        desk.broken[found[0]] = desk.broken.pop(loan)
    if loan in desk.undecided:
        desk.undecided[desk.undecided.index(loan)] = found[0]
    return True


OPERATIONS: Mapping[str, Callable[[Desk], bool]] = {
    function.__name__: function
    for function in (
        *(apply, decide, correct, spoil, mend, withdraw),
        *(bill, pay, cancel),
        *(revise, abandon, retry, rekey),
    )
}

UNDONE = {"abandon"}
"""Operations whose transaction must be rolled back."""
