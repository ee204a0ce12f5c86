"""The models against an oracle: random histories of a few hundred loans, landed piece by piece in
hand-made bronze, built by dbt on Spark, and compared row by row with a plain replay in Python.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from dbt.cli.main import dbtRunner

from lake.branches import branch
from lake.catalog import catalog
from lake.manifest import PROJECT, copy_project
from lake.settings import on_branch
from tests.conftest import end_spark_session
from tests.dbt_project.source import (
    BRONZE,
    Change,
    Row,
    Source,
    Table,
    create_bronze,
    land,
    land_snapshot,
    message,
    whole,
)

BRANCH, SUFFIX, AFRESH = "oracle", "_oracle", "_oracle_afresh"
RULES: dict[str, Callable[[Row], bool]] = {
    "age_plausible": lambda r: 18 <= r["person_age"] <= 100,
    "employment_plausible": lambda r: r["person_emp_exp"] <= r["person_age"] - 14,
    "amount_positive": lambda r: r["loan_amnt"] > 0,
    "income_positive": lambda r: r["person_income"] > 0,
    "rate_plausible": lambda r: 0 <= r["loan_int_rate"] <= 40,
    "credit_score_in_range": lambda r: 300 <= r["credit_score"] <= 850,
    "status_known": lambda r: r["loan_status"] in (None, 0, 1),
    "burden_told": lambda r: r["loan_percent_income"] > 0,
}
WARN = {"burden_told"}
OTHERS: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "age_plausible": ("person_age between 0 and 200", lambda r: True),
    "credit_score_in_range": (
        "credit_score between 400 and 850",
        lambda r: 400 <= r["credit_score"] <= 850,
    ),
}
"""Rules that take the place of those of their names: one is looser, one tighter."""
GONE = "rate_plausible"
"""A rule that goes."""

# --- what dbt builds ------------------------------------------------------------------------------


def _build(
    target_path: Path,
    suffix: str = SUFFIX,
    project: Path = PROJECT,
    *,
    full_refresh: bool = False,
    **more: object,
) -> None:
    variables = json.dumps({"bronze": BRONZE, "layer_suffix": suffix, **more})
    where = {
        "--vars": variables,
        "--project-dir": str(project),
        "--profiles-dir": str(project),
        "--target-path": str(target_path),
        "--log-path": str(target_path),
        "--log-level-file": "none",
    }
    options = [word for pair in where.items() for word in pair]
    if full_refresh:
        options.append("--full-refresh")
    done = dbtRunner().invoke(["--quiet", "run", *options])
    messages = [node.message for node in getattr(done.result, "results", ())]
    assert done.success, done.exception or "\n".join(filter(None, messages))


def _read(name: str, suffix: str = SUFFIX) -> Table:
    layer, _, table = name.partition(".")
    rows: Table = catalog().load_table(f"{layer}{suffix}.{table}").scan().to_arrow().to_pylist()
    return rows


def _snapshots() -> dict[str, int | None]:
    return {
        ".".join(name): catalog().load_table(name).metadata.current_snapshot_id
        for layer in (f"silver{SUFFIX}", f"gold{SUFFIX}")
        for name in catalog().list_tables(layer)
    }


# --- the oracle -----------------------------------------------------------------------------------


@dataclass
class Version:
    """A version of a loan, as `silver.loans_history` should hold it."""

    op: str
    row: Row
    commit_lsn: int
    ordinal: int
    committed_at: datetime | None
    ingested_at: datetime
    valid_from: datetime
    valid_to: datetime | None = None
    rules: dict[str, Callable[[Row], bool]] = field(default_factory=lambda: RULES)

    @property
    def holds(self) -> bool:
        return all(rule(self.row) for name, rule in self.rules.items() if name not in WARN)


@dataclass
class Oracle:
    """Everything that was landed, replayed in order."""

    histories: dict[int, list[Version]] = field(default_factory=lambda: defaultdict(list))
    payments: dict[tuple[int, int], tuple[Row, int, int]] = field(default_factory=dict)
    reached: int = -1

    def take(self, loans: Table, payments: Table, lsn: int, taken_at: datetime) -> None:
        """A bulk snapshot: what it does not hold is gone."""
        held = {row["loan_id"] for row in loans}
        for row in self._current():
            if row["loan_id"] not in held:
                self._add(Version("d", row, lsn - 1, 0, None, taken_at, taken_at))
        for row in loans:
            since = min(row["updated_at"], taken_at)
            self._add(Version("r", row, lsn - 1, 0, None, taken_at, since))
        self.payments = {(p["loan_id"], p["installment"]): (p, lsn - 1, 0) for p in payments}
        self.reached = lsn - 1

    def apply(self, wal: list[Change], complete_lsn: int) -> None:
        """The changes since the last that were applied, up to a commit LSN."""
        for c in wal:
            if self.reached < c.commit_lsn <= complete_lsn:
                (self._apply_payment if c.table == "loan_payment" else self._apply_loan)(c)
        self.reached = max(self.reached, complete_lsn)

    def _apply_loan(self, c: Change) -> None:
        at = c.commit_lsn, c.ordinal, c.committed_at, c.ingested_at, c.committed_at
        gone = self._current() if c.op == "t" else []
        if c.before and (c.op == "d" or c.moves):
            gone = [c.before]
        for row in gone:
            self._add(Version("d", row, *at))
        if c.after:
            self._add(Version(c.op, c.after, *at))

    def _apply_payment(self, c: Change) -> None:
        if c.op == "t":
            self.payments.clear()
        if c.before:
            del self.payments[c.before["loan_id"], c.before["installment"]]
        if c.after:
            key = c.after["loan_id"], c.after["installment"]
            self.payments[key] = (c.after, c.commit_lsn, c.ordinal)

    def _current(self) -> Table:
        return [h[-1].row for h in self.histories.values() if h[-1].op != "d"]

    def judge_by(self, rules: dict[str, Callable[[Row], bool]]) -> None:
        """Judge all that was landed by other rules."""
        for history in self.histories.values():
            for version in history:
                version.rules = rules

    def _add(self, version: Version) -> None:
        versions = self.histories[version.row["loan_id"]]
        if versions and versions[-1].op != "d":
            version.valid_from = max(version.valid_from, versions[-1].valid_from)
            versions[-1].valid_to = version.valid_from
        if version.op == "d":
            version.valid_to = version.valid_from
        versions.append(version)

    def expected(self) -> dict[str, Table]:
        versions = [v for history in self.histories.values() for v in history]
        current = [h[-1] for h in self.histories.values() if h[-1].op != "d"]
        valid = [v for v in current if v.holds]
        return {
            "silver.loans": [v.row | _marks(v) for v in valid],
            "silver.loans_history": [self._history_row(v) for v in versions],
            "silver.loans_quarantine": [
                v.row | {"rule": name, "on_break": _on_break(name)} | _marks(v)
                for v in current
                for name, rule in v.rules.items()
                if not rule(v.row)
            ],
            "silver.loan_payments": [
                row | {"_commit_lsn": commit_lsn, "_ordinal": ordinal}
                for row, commit_lsn, ordinal in self.payments.values()
            ],
            "gold.fct_loans": [self._fact(v) for v in valid],
            "gold.agg_loan_approvals": self._approvals(valid),
            "gold.ftr_loans": self._features(),
        }

    def _history_row(self, version: Version) -> Row:
        last = self.histories[version.row["loan_id"]][-1]
        return (
            version.row
            | _marks(version)
            | {
                "op": version.op,
                "is_valid": version.holds,
                "is_current": version is last and version.op != "d",
                "valid_from": version.valid_from,
                "valid_to": version.valid_to,
            }
        )

    def _fact(self, version: Version) -> Row:
        loan_id, status = version.row["loan_id"], version.row["loan_status"]
        mine = [held for (owner, _), held in self.payments.items() if owner == loan_id]
        own = [p for p, *_ in mine]
        paid = [p for p in own if p["paid_at"] is not None]
        position = max(((*at,) for _, *at in mine), default=(None, None))
        decided = [
            v.valid_from
            for v in self.histories[loan_id]
            if v.op != "d" and v.row["loan_status"] is not None
        ]
        fact = {k: v for k, v in version.row.items() if k != "loan_status"} | _marks(version)
        return fact | {
            "is_decided": status is not None,
            "is_approved": None if status is None else status == 1,
            "decided_at": None if status is None else min(decided),
            "installments": len(own),
            "installments_paid": len(paid),
            "installments_paid_late": sum(p["paid_at"].date() > p["due_on"] for p in paid),
            "scheduled_amount": sum((p["amount"] for p in own), Decimal(0)),
            "paid_amount": sum((p["amount"] for p in paid), Decimal(0)),
            "next_due_on": min((p["due_on"] for p in own if not p["paid_at"]), default=None),
            "_payments_commit_lsn": position[0],
            "_payments_ordinal": position[1],
        }

    def _approvals(self, valid: list[Version]) -> Table:
        groups: dict[tuple[date, str], Table] = defaultdict(list)
        for v in valid:
            groups[v.row["applied_at"].date().replace(day=1), v.row["loan_intent"]].append(v.row)
        rows = []
        for (month, intent), loans in groups.items():
            approved = [loan["loan_amnt"] for loan in loans if loan["loan_status"] == 1]
            decided = sum(loan["loan_status"] is not None for loan in loans)
            rows.append(
                {
                    "applied_month": month,
                    "loan_intent": intent,
                    "applications": len(loans),
                    "decided": decided,
                    "approved": len(approved),
                    "approval_rate": len(approved) / decided if decided else None,
                    "requested_amount": sum(loan["loan_amnt"] for loan in loans),
                    "approved_amount": sum(approved, Decimal(0)),
                }
            )
        return rows

    def _features(self) -> Table:
        last: dict[tuple[int, datetime], Version] = {}
        for history in self.histories.values():
            for v in history:
                last[v.row["loan_id"], v.valid_from] = v
        return [
            {
                "loan_id": loan_id,
                "event_timestamp": at,
                "created_timestamp": v.ingested_at,
                "person_income": float(v.row["person_income"]),
                "loan_amnt": float(v.row["loan_amnt"]),
                "has_previous_default": int(v.row["previous_loan_defaults_on_file"]),
                "home_ownership": v.row["person_home_ownership"],
                "_commit_lsn": v.commit_lsn,
                "_ordinal": v.ordinal,
            }
            for (loan_id, at), v in last.items()
            if v.op != "d" and v.holds
        ]


def _on_break(rule: str) -> str:
    return "warn" if rule in WARN else "quarantine"


def _marks(version: Version) -> Row:
    return {
        "_commit_lsn": version.commit_lsn,
        "_ordinal": version.ordinal,
        "_committed_at": version.committed_at,
        "_ingested_at": version.ingested_at,
    }


def _assert_same(name: str, found: Table, expected: Table, columns: list[str]) -> None:
    def texts(rows: Table) -> Counter[str]:
        return Counter(repr({c: _plain(row[c]) for c in columns}) for row in rows)

    surplus, missing = texts(found) - texts(expected), texts(expected) - texts(found)
    differences = [*sorted(surplus)[:3], "instead of", *sorted(missing)[:3]]
    assert surplus == missing, "\n".join([name, "has", *differences])


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return value.normalize()
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def _assert_as_expected(oracle: Oracle) -> None:
    for name, rows in oracle.expected().items():
        columns = sorted(rows[0]) if rows else ["_commit_lsn"]
        _assert_same(name, _read(name), rows, columns)


# --- the proof ------------------------------------------------------------------------------------


@pytest.fixture
def branched(lake_stack: Path) -> Iterator[None]:
    """A branch of its own, with empty tables of bronze."""
    branch.create(BRANCH)
    try:
        with on_branch(BRANCH), pytest.MonkeyPatch.context() as patch:
            patch.setenv("LAKE_BRANCH", BRANCH)
            create_bronze()
            yield
    finally:
        end_spark_session()
        branch.drop(BRANCH)


def test_incremental_runs_a_full_refresh_and_a_replay_in_python_agree(
    branched: None, tmp_path: Path
) -> None:
    source, oracle = Source(random.Random(20261124)), Oracle()
    for _ in range(60):
        row = source.loan()
        source.loans[row["loan_id"]] = row
    for loan_id in list(source.loans)[:20]:
        source.payments[loan_id, 1] = source.payment(loan_id, 1)
    oracle.take([*source.loans.values()], [*source.payments.values()], *land_snapshot(source))
    _build(tmp_path)  # before anything is captured
    _assert_as_expected(oracle)

    landed = 0
    for transactions, is_full in ((40, False), (40, True), (40, False)):
        source.is_full = is_full
        source.live(transactions)
        until = len(source.wal) - source.random.randint(0, 4)  # a transaction may land in part
        complete_lsn = whole(source.wal, until)
        beat = message(complete_lsn, source.now)
        land([*(c.landed() for c in source.wal[landed:until]), beat], complete_lsn)
        landed = until
        oracle.apply(source.wal, complete_lsn)
        _build(tmp_path)
        _assert_as_expected(oracle)

    before = _snapshots()
    _build(tmp_path)
    assert _snapshots() == before, "building twice commits nothing"

    land([c.landed() for c in source.wal[landed:]], source.wal[-1].commit_lsn)
    oracle.apply(source.wal, source.wal[-1].commit_lsn)
    _build(tmp_path)
    _build(tmp_path, AFRESH)
    for name in oracle.expected():
        own_to_a_run = {"run_id", "first_seen_at"}
        columns = sorted(set(_read(name)[0]) - own_to_a_run)
        _assert_same(name, _read(name), _read(name, AFRESH), columns)

    # Taken up once more from within: each version goes on from the one before it.
    _build(tmp_path, replay_from=source.wal[len(source.wal) // 2].commit_lsn)
    _assert_as_expected(oracle)

    # The slot is lost: what happens meanwhile is seen by a new snapshot only, and lands too late.
    missed = len(source.wal)
    source.live(30)
    lsn, taken_at = land_snapshot(source)
    oracle.take([*source.loans.values()], [*source.payments.values()], lsn, taken_at)
    _build(tmp_path)
    _assert_as_expected(oracle)
    source.live(10)
    land([c.landed() for c in source.wal[missed:]], source.wal[-1].commit_lsn)
    oracle.apply(source.wal, source.wal[-1].commit_lsn)
    _build(tmp_path)
    _assert_as_expected(oracle)

    # Rules change: what was landed is judged again, versions before the new snapshot among it.
    other = _with_other_rules(tmp_path)
    _build(tmp_path, project=other, replay_from=-1)
    changed = RULES | {name: rule for name, (_, rule) in OTHERS.items()}
    oracle.judge_by({name: rule for name, rule in changed.items() if name != GONE})
    _assert_as_expected(oracle)


def _with_other_rules(where: Path) -> Path:
    """A copy of the project with other rules of `loans`."""
    copied = copy_project(where / "dbt_project")
    yml = copied / "models" / "silver" / "loans.yml"
    lines = yml.read_text().splitlines()
    for number, line in enumerate(lines):
        indent, name = line[: len(line) - len(line.lstrip())], line.strip().partition(":")[0]
        if name in OTHERS:
            lines[number] = f"{indent}{name}: {OTHERS[name][0]}"
    yml.write_text("\n".join(line for line in lines if line.strip().partition(":")[0] != GONE))
    return copied


def test_a_truncate_deletes_every_row_that_was_there_or_none_or_ends_the_build_as_declared(
    branched: None, tmp_path: Path
) -> None:
    source, oracle = Source(random.Random(20261125)), Oracle()
    for _ in range(3):
        row = source.loan()
        source.loans[row["loan_id"]] = row
    oracle.take([*source.loans.values()], [], *land_snapshot(source))
    _build(tmp_path)

    source.live(5)
    source.insert()
    before = {*source.loans}
    source.truncate_loans()
    source.insert()
    source.commit()
    source.insert()
    source.truncate_loans()
    source.truncate_loans()
    source.insert()
    complete_lsn = source.commit()
    land([c.landed() for c in source.wal], complete_lsn)

    with pytest.raises(AssertionError, match=r"run `lake ingest --again public\.loan`"):
        _build(tmp_path, project=_with_truncate("halt", tmp_path / "halt"))
    ignored = _with_truncate("ignore", tmp_path / "ignore")
    _build(tmp_path, project=ignored, suffix=AFRESH)
    versions = _read("silver.loans_history", AFRESH)
    assert before <= {row["loan_id"] for row in versions if row["is_current"]}
    _build(tmp_path)
    oracle.apply(source.wal, complete_lsn)
    _assert_as_expected(oracle)
    assert len(_read("silver.loans")) == 1
    _build(tmp_path, AFRESH, full_refresh=True)
    for name in ("silver.loans", "silver.loans_history"):
        _assert_same(name, _read(name, AFRESH), _read(name), sorted(_read(name)[0]))

    # A new snapshot may have no rows.
    source.loans.clear()
    oracle.take([], [*source.payments.values()], *land_snapshot(source))
    _build(tmp_path)
    _assert_as_expected(oracle)
    assert not _read("silver.loans")


def _with_truncate(policy: str, where: Path) -> Path:
    """A copy of the project that declares what a TRUNCATE of the loans does."""
    copied = copy_project(where / "dbt_project")
    yml = copied / "models" / "bronze" / "bronze.yml"
    key = "meta: {source_table: public.loan, key: [loan_id]"
    declared = yml.read_text()
    assert declared.count(f"{key}}}") == 1
    yml.write_text(declared.replace(f"{key}}}", f"{key}, truncate: {policy}}}"))
    return copied
