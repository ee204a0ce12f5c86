"""What is not as declared is found before anything is copied, and told with its mend."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ingestion.source import inspect, set_up
from lake import credentials, source
from lake.errors import LakeError
from lake.stack import postgres
from tests.conftest import forget_settings, free_ports
from tests.ingestion.conftest import declared

LOAN = declared("loan", ("loan_id",), loan_id="bigint", amount="decimal(12, 2)")


def faults(*tables: object) -> str:
    with source.connect() as connection, pytest.raises(LakeError) as raised:
        inspect(connection, list(tables))  # type: ignore[arg-type]
    return str(raised.value)


@pytest.fixture
def loan(owner: psycopg.Connection) -> psycopg.Connection:
    owner.execute("create table loan (loan_id bigint primary key, amount numeric(12, 2))")
    owner.execute("alter table loan replica identity full")
    owner.execute("grant select on loan to capture")
    return owner


def test_a_source_as_declared_is_taken_with_the_columns_nobody_declared(
    loan: psycopg.Connection,
) -> None:
    loan.execute("alter table loan add column remark text")
    with source.connect() as connection:
        (table,) = inspect(connection, [LOAN])
    assert [column.name for column in table.columns] == ["loan_id", "amount", "remark"]


def test_a_missing_table_is_named(loan: psycopg.Connection) -> None:
    assert "public.nowhere" in faults(declared("nowhere", ("id",), id="int"))


def test_a_missing_column_is_named(loan: psycopg.Connection) -> None:
    said = faults(declared("loan", ("loan_id",), loan_id="bigint", rate="int"))
    assert "public.loan.rate" in said


def test_another_type_is_named_with_the_one_to_declare(loan: psycopg.Connection) -> None:
    said = faults(declared("loan", ("loan_id",), loan_id="bigint", amount="bigint"))
    assert "public.loan.amount is declared as bigint, but the source has numeric(12,2)" in said


def test_a_key_that_is_not_unique_is_refused(loan: psycopg.Connection) -> None:
    said = faults(declared("loan", ("amount",), loan_id="bigint", amount="numeric(12,2)"))
    assert "keyed by (amount)" in said


def test_a_table_that_does_not_log_whole_rows_is_refused_with_the_statement(
    loan: psycopg.Connection,
) -> None:
    loan.execute("alter table loan replica identity default")
    assert "alter table public.loan replica identity full" in faults(LOAN)


def test_an_external_owner_is_told_to_let_capture_read(loan: psycopg.Connection) -> None:
    loan.execute("revoke select on loan from capture")
    with source.connect() as connection:
        tables = inspect(connection, [LOAN])
        with pytest.raises(LakeError, match=r'grant select on "public"\."loan" to "capture"'):
            set_up(connection, tables, None)
        set_up(connection, tables, postgres.source_owner())
        assert inspect(connection, [LOAN])[0].readable


def test_every_fault_is_told_at_once(loan: psycopg.Connection) -> None:
    loan.execute("alter table loan replica identity default")
    assert len(faults(LOAN, declared("nowhere", ("id",), id="int")).splitlines()) == 2


@pytest.fixture
def plain_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A second Postgres, of an installation of its own, that was not set up for capture."""
    monkeypatch.setenv("LAKE_STATE_DIR", str(tmp_path))
    for name, port in free_ports().items():
        monkeypatch.setenv(name, port)
    forget_settings()
    credentials.generate()
    postgres.SOURCE.configure()
    program = postgres.SOURCE.program()
    server = subprocess.Popen([*program.command, "-c", "wal_level=replica"])
    try:
        while not program.ready():
            assert server.poll() is None
            time.sleep(0.05)
        postgres.create_source()
        yield
    finally:
        server.terminate()
        server.wait()
        monkeypatch.undo()
        forget_settings()


def test_wal_level_must_be_logical(plain_postgres: None) -> None:
    assert "wal_level is replica" in faults()


def test_an_unreachable_source_is_one_clear_line(
    owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_SOURCE__PORT", "1")
    forget_settings()
    with pytest.raises(LakeError, match=r"127\.0\.0\.1:1/.*refused") as raised:
        source.connect()
    assert len(str(raised.value).splitlines()) == 1


def test_wrong_credentials_are_one_clear_line(
    owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_SOURCE__PASSWORD", "wrong")
    forget_settings()
    with pytest.raises(LakeError, match="password authentication failed") as raised:
        source.connect()
    assert len(str(raised.value).splitlines()) == 1
