"""A source with a random life: its rows, its WAL, and how both are landed in hand-made bronze.

Bronze stands on the branch that the process is on, in a namespace that builders may write.
"""

import json
import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import (
    BooleanType,
    DateType,
    DecimalType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from lake.catalog import catalog

Row = dict[str, Any]
Table = list[Row]

BRONZE = "bronze_made"
LOAN: dict[str, IcebergType] = {
    "loan_id": LongType(),
    "person_age": IntegerType(),
    "person_gender": StringType(),
    "person_education": StringType(),
    "person_income": DecimalType(14, 2),
    "person_emp_exp": IntegerType(),
    "person_home_ownership": StringType(),
    "loan_amnt": DecimalType(12, 2),
    "loan_intent": StringType(),
    "loan_int_rate": DecimalType(5, 2),
    "loan_percent_income": DecimalType(5, 2),
    "cb_person_cred_hist_length": IntegerType(),
    "credit_score": IntegerType(),
    "previous_loan_defaults_on_file": BooleanType(),
    "loan_status": IntegerType(),
    "applied_at": TimestamptzType(),
    "updated_at": TimestamptzType(),
}
PAYMENT: dict[str, IcebergType] = {
    "loan_id": LongType(),
    "installment": IntegerType(),
    "due_on": DateType(),
    "amount": DecimalType(12, 2),
    "paid_at": TimestamptzType(),
    "channel": StringType(),
    "reference": StringType(),
    "details": StringType(),
}
SNAPSHOT: dict[str, IcebergType] = {"_snapshot_lsn": LongType(), "_ingested_at": TimestamptzType()}
CHANGES: dict[str, IcebergType] = {
    "source_table": StringType(),
    "lsn": LongType(),
    "prior_commit_lsn": LongType(),
    "committed_at": TimestamptzType(),
    "ingested_at": TimestamptzType(),
    "envelope": StringType(),
}
BREAKS: Table = [
    {"person_age": 144},
    {"person_age": 21, "person_emp_exp": 30},
    {"loan_amnt": Decimal("0.00")},
    {"person_income": Decimal("-1.00")},
    {"loan_int_rate": Decimal("40.01")},
    {"credit_score": 851},
    {"loan_status": 7},
    {"person_age": 17, "person_emp_exp": 90, "credit_score": 0},
]
TEXTS = [
    "RENT",
    "",
    "q\"u\\o'te",
    "é 🙂 \u2028",
    "tab\tnew\nline\x01\x7f",
    "null",
    "{}",
    '"op":"d"}',
]
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
FIRST_ID = 2**53 + 1  # where a float would be off by one


@dataclass
class Change:
    """One change, and what capture lands of it."""

    table: str
    op: str
    lsn: int
    prior_commit_lsn: int
    committed_at: datetime
    ingested_at: datetime
    before: Row | None
    after: Row | None

    @property
    def row(self) -> Row:
        row = self.before if self.op == "d" else self.after
        assert row is not None
        return row

    def landed(self) -> Row:
        image = {"before": _wire(self.before), "after": _wire(self.after)}
        tail = {"source": {"lsn": self.lsn, "schema": "public"}, "op": self.op, "ts_ms": 1}
        return {
            "source_table": f"public.{self.table}",
            "lsn": self.lsn,
            "prior_commit_lsn": self.prior_commit_lsn,
            "committed_at": self.committed_at,
            "ingested_at": self.ingested_at,
            "envelope": json.dumps(image | tail, ensure_ascii=self.lsn % 2 == 0),
        }


def _wire(row: Row | None) -> Row | None:
    """A row image as Debezium writes it."""
    return None if row is None else {name: _wire_value(value) for name, value in row.items()}


def _wire_value(value: object) -> object:
    match value:
        case Decimal():
            return str(value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case date():
            return (value - date(1970, 1, 1)).days
    return value


@dataclass
class Source:
    """A source database with a random life, and the WAL of it."""

    random: random.Random
    lsn: int = 1_000
    commit_lsn: int = 1_000
    now: datetime = BEGAN
    loans: dict[int, Row] = field(default_factory=dict)
    payments: dict[tuple[int, int], Row] = field(default_factory=dict)
    wal: list[Change] = field(default_factory=list)
    next_id: int = FIRST_ID

    def loan(self) -> Row:
        self.next_id += 1
        r = self.random
        return {
            "loan_id": self.next_id,
            "person_age": r.randint(40, 90),
            "person_gender": r.choice(TEXTS),
            "person_education": r.choice(TEXTS),
            "person_income": Decimal(r.randint(1, 10**14 - 1)) / 100,
            "person_emp_exp": r.randint(0, 20),
            "person_home_ownership": r.choice(TEXTS),
            "loan_amnt": Decimal(r.randint(1, 10**9)) / 100,
            "loan_intent": r.choice(["MEDICAL", "VENTURE"]),
            "loan_int_rate": Decimal(r.randint(0, 4000)) / 100,
            "loan_percent_income": Decimal(r.randint(0, 99)) / 100,
            "cb_person_cred_hist_length": r.randint(0, 30),
            "credit_score": r.randint(300, 850),
            "previous_loan_defaults_on_file": r.random() < 0.5,
            "loan_status": r.choice([None, 0, 1]),
            "applied_at": BEGAN - timedelta(days=r.randint(0, 90), microseconds=r.randint(0, 9)),
            "updated_at": self.now,
        }

    def payment(self, loan_id: int, installment: int) -> Row:
        r = self.random
        return {
            "loan_id": loan_id,
            "installment": installment,
            "due_on": date(1969, 12, 31) + timedelta(days=r.randint(0, 40_000)),
            "amount": Decimal(r.randint(0, 10**9)) / 100,
            "paid_at": r.choice([None, self.now - timedelta(days=r.randint(0, 20_000))]),
            "channel": r.choice([None, "card"]),
            "reference": f"{r.getrandbits(128):032x}",
            "details": json.dumps({"note": r.choice(TEXTS)}),
        }

    def live(self, transactions: int) -> None:
        """That many transactions, of one to five statements."""
        for _ in range(transactions):
            self.now += timedelta(milliseconds=self.random.choice([0, 1, 60_000]))
            for _ in range(self.random.randint(1, 5)):
                self.random.choice(
                    [self.insert, self._update, self._break, self._pay] * 3
                    + [self._delete, self._rename]
                )()
            self.commit_lsn = self._advance()

    def _advance(self) -> int:
        self.lsn += self.random.randint(8, 400)
        return self.lsn

    def _log(self, table: str, op: str, before: Row | None, after: Row | None, lsn: int) -> None:
        landed_at = self.now + timedelta(seconds=1)
        self.wal.append(Change(table, op, lsn, self.commit_lsn, self.now, landed_at, before, after))

    def _write_loan(self, before: Row | None, after: Row) -> None:
        self.loans[after["loan_id"]] = after
        self._log("loan", "u" if before else "c", before, after, self._advance())

    def insert(self) -> None:
        self._write_loan(None, self.loan())

    def _update(self) -> None:
        before = self.random.choice(list(self.loans.values()))
        self._write_loan(before, self.loan() | {"loan_id": before["loan_id"]})  # mends, too

    def _break(self) -> None:
        before = self.random.choice(list(self.loans.values()))
        self._write_loan(before, before | self.random.choice(BREAKS) | {"updated_at": self.now})

    def _delete(self) -> None:
        loan_id = self.random.choice(list(self.loans))
        for key in [key for key in self.payments if key[0] == loan_id]:
            self._log("loan_payment", "d", self.payments.pop(key), None, self._advance())
        self._log("loan", "d", self.loans.pop(loan_id), None, self._advance())

    def _rename(self) -> None:
        """A key change: a delete and an insert at one LSN."""
        before = self.loans.pop(self.random.choice(list(self.loans)))
        after = before | {"loan_id": self.loan()["loan_id"]}
        self.loans[after["loan_id"]] = after
        lsn = self._advance()
        self._log("loan", "d", before, None, lsn)
        self._log("loan", "c", None, after, lsn)

    def _pay(self) -> None:
        key = self.random.choice(list(self.loans)), self.random.randint(1, 3)
        before = self.payments.get(key)
        if before and self.random.random() < 0.3:
            self._log("loan_payment", "d", self.payments.pop(key), None, self._advance())
            return
        self.payments[key] = after = self.payment(*key)
        self._log("loan_payment", "u" if before else "c", before, after, self._advance())

    def truncate(self) -> None:
        """Truncate the loans; what the source holds of them is of no matter then."""
        self._log("loan", "t", None, None, self._advance())

    def snapshot(self) -> tuple[int, datetime]:
        """Where and when a bulk snapshot of it is taken."""
        self.now += timedelta(minutes=1)
        self.commit_lsn = self._advance()
        return self.commit_lsn, self.now


def _schema(columns: dict[str, IcebergType]) -> Schema:
    return Schema(
        *(NestedField(i, name, kind) for i, (name, kind) in enumerate(columns.items(), 1))
    )


def create_bronze() -> None:
    """Make the tables of bronze, empty."""
    catalog().create_namespace_if_not_exists(BRONZE)
    by_table = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "source_table"))
    catalog().create_table(f"{BRONZE}.changes", _schema(CHANGES), partition_spec=by_table)
    catalog().create_table(f"{BRONZE}.loan", _schema(LOAN | SNAPSHOT))
    catalog().create_table(f"{BRONZE}.loan_payment", _schema(PAYMENT | SNAPSHOT))


def append(name: str, rows: Table) -> None:
    """Land rows in a table of bronze."""
    table = catalog().load_table(f"{BRONZE}.{name}")
    table.append(pa.Table.from_pylist(rows, schema=table.schema().as_arrow()))


def land_snapshot(source: Source) -> tuple[int, datetime]:
    """Land a bulk snapshot of the source as it is; returns its LSN, and when it was taken."""
    lsn, taken_at = source.snapshot()
    marks = {"_snapshot_lsn": lsn, "_ingested_at": taken_at}
    append("loan", [row | marks for row in source.loans.values()] or [marks])
    append("loan_payment", [row | marks for row in source.payments.values()] or [marks])
    return lsn, taken_at
