"""A source with a random life: its rows, its WAL, and how both are landed in hand-made bronze.

Bronze stands on the branch that the process is on, in a namespace that builders may write.
"""

import json
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
)

from lake.catalog import catalog

Row = dict[str, Any]
Table = list[Row]

BRONZE = "bronze_made"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
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
SNAPSHOT: dict[str, IcebergType] = {
    "_snapshot_lsn": LongType(),
    "_ingested_at": TimestamptzType(),
    "_unheld": StringType(),
}
CHANGES: dict[str, IcebergType] = {
    "source_table": StringType(),
    "op": StringType(),
    "commit_lsn": LongType(),
    "ordinal": LongType(),
    "lsn": LongType(),
    "xid": LongType(),
    "committed_at": TimestamptzType(),
    "ingested_at": TimestamptzType(),
    "key": StringType(),
    "before": StringType(),
    "after": StringType(),
    "unchanged": StringType(),
}
SCHEMA_CHANGES: dict[str, IcebergType] = {
    "source_table": StringType(),
    "commit_lsn": LongType(),
    "ordinal": LongType(),
    "columns": StringType(),
}
COMPLETE_LSN = "lake.complete-lsn"
CROWD: dict[str, IcebergType] = {
    "Größe": DecimalType(12, 2),
    "select": StringType(),
    "ratio": DoubleType(),
    "share": FloatType(),
    "is_told": BooleanType(),
    "day": DateType(),
    "at": TimestamptzType(),
    "local": TimestampType(),
    "raw": BinaryType(),
}
"""A table without a key, by its columns' names at the source."""
CROWD_VALUES: dict[str, tuple[object, ...]] = {
    "Größe": (None, Decimal("0.00"), Decimal("-12.50")),
    "select": (None, "", "a=1:", "é 🙂"),
    "ratio": (None, 0.1, math.inf, math.nan),
    "share": (None, 0.5),
    "is_told": (None, True),
    "day": (None, date(1, 1, 1)),
    "at": (None, BEGAN + timedelta(microseconds=10)),
    "local": (None, datetime(1969, 12, 31, 23, 59, 59)),  # noqa: DTZ001
    "raw": (None, b"\x00\xff"),
}
KEYS = {"loan": ("loan_id",), "loan_payment": ("loan_id", "installment")}
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
FIRST_ID = 2**53 + 1  # where a float would be off by one


@dataclass
class Change:
    """One change, both rows whole, and what capture lands of it.

    `is_full` is the table's REPLICA IDENTITY FULL. Without it the WAL has an old row's key alone,
    and an update leaves the columns `unchanged` out.
    """

    table: str
    op: str
    lsn: int
    commit_lsn: int
    ordinal: int
    committed_at: datetime
    ingested_at: datetime
    before: Row | None
    after: Row | None
    is_full: bool
    unchanged: tuple[str, ...] = ()

    def key_of(self, row: Row) -> Row:
        return {name: row[name] for name in KEYS[self.table]}

    @property
    def moves(self) -> bool:
        """Whether it gives its row another key."""
        return (
            self.op == "u"
            and self.before is not None
            and self.after is not None
            and self.key_of(self.before) != self.key_of(self.after)
        )

    def landed(self) -> Row:
        before, after = self.before, self.after
        if before and not self.is_full:
            before = self.key_of(before) if self.op == "d" or self.moves else None
        if after:
            after = {name: value for name, value in after.items() if name not in self.unchanged}
        row = self.after or self.before
        return {
            "source_table": f"public.{self.table}",
            "op": self.op,
            "commit_lsn": self.commit_lsn,
            "ordinal": self.ordinal,
            "lsn": self.lsn,
            "xid": self.commit_lsn % 1000,
            "committed_at": self.committed_at,
            "ingested_at": self.ingested_at,
            "key": row and self._image(self.key_of(row)),
            "before": before and self._image(before),
            "after": after and self._image(after),
            "unchanged": json.dumps(self.unchanged) if self.unchanged else None,
        }

    def _image(self, row: Row) -> str:
        texts = {name: printed(value) for name, value in row.items()}
        return json.dumps(texts, ensure_ascii=self.lsn % 2 == 0)


def printed(value: object) -> str | None:
    """A value as the text that Postgres prints; decimals here have two places, times are of UTC."""
    match value:
        case None:
            return None
        case bool():
            return "t" if value else "f"
        case Decimal():
            return f"{value:.2f}"
        case datetime():
            written = value.replace(tzinfo=None).isoformat(" ")
            written = written.rstrip("0") if "." in written else written
            return written if value.tzinfo is None else f"{written}+00"
        case float():
            return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(
                value, "NaN" if math.isnan(value) else repr(value)
            )
        case bytes():
            return f"\\x{value.hex()}"
    return str(value)


@dataclass
class Crowd:
    """A table without a key, and its WAL: rows by how often they are there."""

    random: random.Random
    lsn: int = 1_000
    rows: Counter[tuple[object, ...]] = field(default_factory=Counter)
    wal: Table = field(default_factory=list)
    pool: list[tuple[object, ...]] = field(default_factory=list)

    def live(self, transactions: int) -> int:
        """That many transactions; returns the LSN of the last commit."""
        r = self.random
        for _ in range(transactions):
            self.lsn += r.randint(8, 400)
            for ordinal in range(1, r.randint(2, 6)):
                self._log(ordinal, r.choice("ccuud" if r.random() < 0.97 else "t"))
        return self.lsn

    def __post_init__(self) -> None:
        """Draw few rows, so that most are there more than once; one has no value at all."""
        self.pool = [
            tuple(self.random.choice(values) for values in CROWD_VALUES.values()) for _ in range(12)
        ]
        self.pool.append((None,) * len(CROWD))

    def _log(self, ordinal: int, op: str) -> None:
        before = self.random.choice([*self.rows]) if self.rows and op in "ud" else None
        if before is None and op in "ud":
            op = "c"
        after = self.random.choice(self.pool) if op in "cu" else None
        if after and before and self.random.random() < 0.2:
            after = before  # an update that changes nothing
        if op == "t":
            self.rows.clear()
        self.rows.update({before: -1} if before else {})
        self.rows.update({after: 1} if after else {})
        self.rows = +self.rows
        at = BEGAN + timedelta(seconds=self.lsn)
        self.wal.append(
            dict.fromkeys(CHANGES)
            | {
                "source_table": "public.crowd",
                "op": op,
                "commit_lsn": self.lsn,
                "ordinal": ordinal,
                "committed_at": at,
                "ingested_at": at,
                "before": before and self._image(before),
                "after": after and self._image(after),
            }
        )

    def _image(self, row: tuple[object, ...]) -> str:
        return json.dumps(dict(zip(CROWD, map(printed, row), strict=True)))

    def clear_but(self, copies: int) -> None:
        """Delete rows one by one until so many are left, in transactions of their own."""
        while self.rows.total() > copies:
            self.lsn += 1
            self._log(1, "d")

    def snapshot(self) -> Table:
        """Its rows as a bulk load lands them now."""
        self.lsn += 1
        marks: Row = {"_snapshot_lsn": self.lsn, "_ingested_at": BEGAN}
        names = [lake_name(name) for name in CROWD]
        rows = [dict(zip(names, row, strict=True)) | marks for row in self.rows.elements()]
        return rows or [marks | {"_unheld": "{}"}]


def lake_name(name: str) -> str:
    """The name in the lake of a column of CROWD."""
    return name.replace("Größe", "size")


def message(commit_lsn: int, at: datetime) -> Row:
    """A heartbeat as it is landed."""
    return dict.fromkeys(CHANGES) | {
        "source_table": "message",
        "op": "m",
        "commit_lsn": commit_lsn,
        "ordinal": 1,
        "lsn": commit_lsn,
        "committed_at": at,
        "ingested_at": at,
        "key": '{"prefix": "lake.heartbeat"}',
        "after": '{"content": "\\\\x"}',
    }


@dataclass
class Source:
    """A source database with a random life, and the WAL of it."""

    random: random.Random
    is_full: bool = False
    lsn: int = 1_000
    now: datetime = BEGAN
    loans: dict[int, Row] = field(default_factory=dict)
    payments: dict[tuple[int, int], Row] = field(default_factory=dict)
    wal: list[Change] = field(default_factory=list)
    transaction: list[Change] = field(default_factory=list)
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
        common = [self.insert, self._update, self._break, self._pay] * 4
        rare = [self._delete, self._rename, self._rename, self._note, self._move_payment]
        for _ in range(transactions):
            for _ in range(self.random.randint(1, 5)):
                statement = self.random.choice(common + rare)
                (statement if self.loans else self.insert)()
            if self.random.random() < 0.03:
                self.truncate_payments()
            self.commit()

    def commit(self) -> int:
        """Commit what was written; returns the commit's LSN. The clock may have been set back."""
        self.now += timedelta(milliseconds=self.random.choice([0, 1, 60_000, 60_000, -20_000]))
        commit_lsn = self._advance()
        for ordinal, change in enumerate(self.transaction, 1):
            change.commit_lsn, change.ordinal = commit_lsn, ordinal
            change.committed_at, change.ingested_at = self.now, self.now + timedelta(seconds=1)
        self.wal += self.transaction
        self.transaction = []
        return commit_lsn

    def _advance(self) -> int:
        self.lsn += self.random.randint(8, 400)
        return self.lsn

    def _log(self, table: str, op: str, before: Row | None, after: Row | None) -> None:
        unchanged: tuple[str, ...] = ()
        if before and after and not self.is_full:
            same = [n for n, value in after.items() if value == before[n] and n not in KEYS[table]]
            long = [n for n in same if isinstance(after[n], str)]
            unchanged = tuple(n for n in long if self.random.random() < 0.5)
        images = before, after, self.is_full, unchanged
        change = Change(table, op, self._advance(), 0, 0, self.now, self.now, *images)
        self.transaction.append(change)

    def _write_loan(self, before: Row | None, after: Row) -> None:
        self.loans[after["loan_id"]] = after
        self._log("loan", "u" if before else "c", before, after)

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
            self._log("loan_payment", "d", self.payments.pop(key), None)
        self._log("loan", "d", self.loans.pop(loan_id), None)

    def _rename(self) -> None:
        """Give a loan another key, perhaps one that a loan had before."""
        before = self.loans.pop(self.random.choice(list(self.loans)))
        had = [c.before["loan_id"] for c in self.wal if c.before and c.table == "loan"]
        free = [loan_id for loan_id in had if loan_id not in self.loans]
        loan_id = self.random.choice(free) if free and self.random.random() < 0.5 else None
        self._write_loan(before, before | {"loan_id": loan_id or self.loan()["loan_id"]})

    def _pay(self) -> None:
        key = self.random.choice(list(self.loans)), self.random.randint(1, 3)
        before = self.payments.get(key)
        if before and self.random.random() < 0.3:
            self._log("loan_payment", "d", self.payments.pop(key), None)
            return
        self.payments[key] = after = self.payment(*key)
        self._log("loan_payment", "u" if before else "c", before, after)

    def _note(self) -> None:
        """Update a payment in one column, and leave its texts as they are."""
        if self.payments:
            key = self.random.choice(list(self.payments))
            before, paid = self.payments[key], {"paid_at": self.now}
            self.payments[key] = before | paid
            self._log("loan_payment", "u", before, before | paid)

    def _move_payment(self) -> None:
        """Give a payment another number, which is part of its key."""
        for key in self.random.sample(list(self.payments), min(3, len(self.payments))):
            other = key[0], self.random.randint(1, 6)
            if other not in self.payments:
                before = self.payments.pop(key)
                self.payments[other] = after = before | {"installment": other[1]}
                self._log("loan_payment", "u", before, after)

    def truncate_payments(self) -> None:
        self.payments.clear()
        self._log("loan_payment", "t", None, None)

    def truncate_loans(self) -> None:
        """Truncate the loans, and nothing else: no foreign key is kept here."""
        self.loans.clear()
        self._log("loan", "t", None, None)

    def snapshot(self) -> tuple[int, datetime]:
        """Where and when a bulk snapshot is taken: it holds what was committed below that LSN."""
        self.now += timedelta(minutes=1)
        return self._advance(), self.now


def _schema(columns: dict[str, IcebergType]) -> Schema:
    return Schema(
        *(NestedField(i, name, kind) for i, (name, kind) in enumerate(columns.items(), 1))
    )


def create_bronze(tables: dict[str, dict[str, IcebergType]] | None = None) -> None:
    """Make the tables of bronze, empty; `tables` beside those of the project."""
    catalog().create_namespace_if_not_exists(BRONZE)
    by_table = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "source_table"))
    catalog().create_table(f"{BRONZE}.changes", _schema(CHANGES), partition_spec=by_table)
    catalog().create_table(f"{BRONZE}.schema_changes", _schema(SCHEMA_CHANGES))
    for name, columns in {"loan": LOAN, "loan_payment": PAYMENT, **(tables or {})}.items():
        catalog().create_table(f"{BRONZE}.{name}", _schema(columns | SNAPSHOT))


def append(name: str, rows: Table) -> None:
    """Land rows in a table of bronze."""
    table = catalog().load_table(f"{BRONZE}.{name}")
    table.append(pa.Table.from_pylist(rows, schema=table.schema().as_arrow()))


def land(rows: Table, complete_lsn: int | None) -> None:
    """Land changes, and up to where all are whole, in one commit."""
    table = catalog().load_table(f"{BRONZE}.changes")
    with table.transaction() as transaction:
        transaction.append(pa.Table.from_pylist(rows, schema=table.schema().as_arrow()))
        if complete_lsn is not None:
            transaction.set_properties({COMPLETE_LSN: str(complete_lsn)})


def whole(wal: list[Change], landed: int) -> int:
    """The commit LSN up to which all is landed, where so many changes of a WAL are."""
    return wal[landed].commit_lsn - 1 if landed < len(wal) else wal[-1].commit_lsn


def land_snapshot(source: Source) -> tuple[int, datetime]:
    """Land a bulk snapshot of the source as it is; returns its LSN, and when it was taken."""
    lsn, taken_at = source.snapshot()
    marks = {"_snapshot_lsn": lsn, "_ingested_at": taken_at}
    append("loan", [row | marks for row in source.loans.values()] or [marks])
    append("loan_payment", [row | marks for row in source.payments.values()] or [marks])
    return lsn, taken_at
