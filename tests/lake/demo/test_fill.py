"""The source is filled once, whole or not at all, with the rows that were asked for."""

import csv
from decimal import Decimal
from pathlib import Path
from unittest.mock import Mock

import psycopg
import pyarrow as pa
import pytest

from lake.demo import history
from lake.demo.fill import fill
from lake.errors import LakeError
from tests.conftest import REAL_CSV
from tests.lake.demo.test_csv_file import HEADER, ROW, changed, written

Rows = list[tuple[object, ...]]


def count(connection: psycopg.Connection, table: str) -> int:
    found = connection.execute(f"select count(*) from {table}".encode()).fetchone()
    assert found is not None
    return int(found[0])


def tables(connection: psycopg.Connection) -> Rows:
    return connection.execute(
        "select table_name from information_schema.tables where table_schema = 'lender'"
    ).fetchall()


def test_made_up_rows_arrive_as_they_were_made(source_connection: psycopg.Connection) -> None:
    filling = fill(source_connection, rows=3000, seed=5)
    assert (filling.fresh, filling.loans) == (True, 3000)
    (batch,) = history.made(3000, seed=5)
    for table, made in (("loan", batch.loans), ("loan_payment", batch.payments)):
        columns = {"reference": "replace(reference::text, '-', '')", "details": "null"}
        chosen = ", ".join(columns.get(name, name) for name in made.column_names)
        found = source_connection.execute(f"select {chosen} from {table} order by 1, 2".encode())
        if "details" in made.column_names:
            at = made.column_names.index("details")
            made = made.set_column(at, "details", pa.nulls(made.num_rows))
        expected = [tuple(row.values()) for row in made.to_pylist()]
        for got, wanted in zip(found, expected, strict=True):
            assert [float(v) if hasattr(v, "as_tuple") else v for v in got] == list(wanted)


def test_details_arrive_whole(source_connection: psycopg.Connection) -> None:
    fill(source_connection, rows=3000, seed=5)
    (batch,) = history.made(3000, seed=5)
    for loan, installment, details in zip(
        *(batch.payments[name].to_pylist() for name in ("loan_id", "installment", "details")),
        strict=True,
    ):
        same = source_connection.execute(
            "select details = %s::jsonb from loan_payment where loan_id = %s and installment = %s",
            [details, loan, installment],
        ).fetchone()
        assert same == (True,)


def test_many_chunks_arrive_whole_and_progress_is_told(
    source_connection: psycopg.Connection,
) -> None:
    progress = Mock()
    rows = history.CHUNK + 1
    filling = fill(source_connection, rows=rows, progress=progress)
    assert count(source_connection, "loan") == rows == filling.loans
    assert count(source_connection, "loan_payment") == filling.payments
    assert [call.args for call in progress.call_args_list] == [(history.CHUNK, rows), (rows, rows)]


def test_the_next_loan_gets_the_next_number(source_connection: psycopg.Connection) -> None:
    fill(source_connection, rows=10)
    again = f"insert into loan ({HEADER}) select {HEADER} from loan limit 1 returning loan_id"
    inserted = source_connection.execute(again.encode()).fetchone()
    assert inserted == (11,)


def test_filling_twice_goes_on_with_what_is_there(source_connection: psycopg.Connection) -> None:
    first = fill(source_connection, rows=20)
    for again in (fill(source_connection), fill(source_connection, rows=20)):
        assert not again.fresh
        assert (again.what, again.loans, again.payments) == (
            first.what,
            first.loans,
            first.payments,
        )


def test_other_rows_than_those_there_are_refused(
    source_connection: psycopg.Connection, tmp_path: Path
) -> None:
    fill(source_connection, rows=20)
    for wish in ({"rows": 21}, {"rows": 20, "seed": 8}, {"csv": written(tmp_path, HEADER, ROW)}):
        with pytest.raises(LakeError, match="lake down --wipe") as raised:
            fill(source_connection, **wish)
        assert len(str(raised.value).splitlines()) == 1
    assert count(source_connection, "loan") == 20


def test_rows_of_somebody_else_are_left_alone(source_connection: psycopg.Connection) -> None:
    fill(source_connection, rows=20)
    source_connection.execute("comment on table loan is null")
    assert fill(source_connection).what == "rows of its own"
    with pytest.raises(LakeError, match="holds rows of its own"):
        fill(source_connection, rows=20)


def test_a_source_that_lost_all_its_rows_is_not_filled_again(
    source_connection: psycopg.Connection,
) -> None:
    fill(source_connection, rows=20)
    source_connection.execute("delete from loan")
    assert not fill(source_connection).fresh
    assert count(source_connection, "loan") == 0


def test_a_csv_file_arrives_with_the_types_of_the_source(
    source_connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = written(tmp_path, HEADER, ROW, changed("previous_loan_defaults_on_file", "Yes"))
    filling = fill(source_connection, csv=path)
    assert (filling.fresh, filling.loans) == (True, 2)
    found = source_connection.execute(
        "select loan_id, person_age, previous_loan_defaults_on_file, loan_status from loan"
        " order by loan_id"
    ).fetchall()
    assert found == [(1, 22, False, 1), (2, 22, True, 1)]
    assert not fill(source_connection, csv=path).fresh
    assert not fill(source_connection).fresh


def test_a_changed_csv_file_is_refused(
    source_connection: psycopg.Connection, tmp_path: Path
) -> None:
    fill(source_connection, csv=written(tmp_path, HEADER, ROW))
    with pytest.raises(LakeError, match=r"holds the CSV file loans\.csv"):
        fill(source_connection, csv=written(tmp_path, HEADER, ROW, ROW))


def test_a_bad_row_leaves_nothing_not_even_the_tables(
    source_connection: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CHUNK", 2)
    path = written(tmp_path, HEADER, *[ROW] * 5, changed("loan_amnt", "much"))
    with pytest.raises(LakeError, match=r"line 7: loan_amnt is 'much'"):
        fill(source_connection, csv=path)
    assert tables(source_connection) == []
    assert fill(source_connection, rows=5).fresh


def test_a_refusal_by_postgres_is_one_line_and_leaves_nothing(
    source_connection: psycopg.Connection,
) -> None:
    source_connection.execute("create type payment_channel as enum ()")
    with pytest.raises(LakeError, match=r"could not be filled: type .* already exists") as raised:
        fill(source_connection, rows=5)
    assert len(str(raised.value).splitlines()) == 1
    assert tables(source_connection) == []


def test_one_table_without_the_other_is_refused(source_connection: psycopg.Connection) -> None:
    source_connection.execute("create table loan (loan_id bigint primary key)")
    with pytest.raises(LakeError, match="no table loan_payment"):
        fill(source_connection, rows=5)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"rows": 0}, "0 rows"),
        ({"rows": 5, "csv": Path("loans.csv")}, "leave out their number"),
        ({"csv": Path("nowhere.csv")}, "nowhere.csv can't be read: No such file"),
        ({"csv": Path("/")}, "/ can't be read: Is a directory"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"until": history.UNTIL.replace(tzinfo=None)}, "has no time zone"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_before_anything_is_done(
    source_connection: psycopg.Connection, wish: dict[str, object], said: str
) -> None:
    with pytest.raises(LakeError, match=said):
        fill(source_connection, **wish)  # type: ignore[arg-type]
    assert tables(source_connection) == []


@pytest.mark.skipif(not REAL_CSV.exists(), reason="no real data set beside the checkout")
def test_the_real_data_set_arrives_value_for_value(source_connection: psycopg.Connection) -> None:
    filling = fill(source_connection, csv=REAL_CSV)
    found = source_connection.execute(f"select {HEADER} from loan order by loan_id".encode())
    with REAL_CSV.open(newline="") as file:
        expected = list(csv.reader(file))[1:]
    assert filling.loans == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        for value, text in zip(got, wanted, strict=True):
            if isinstance(value, bool):
                assert text == ("Yes" if value else "No")
            elif isinstance(value, str):
                assert text == value
            else:
                assert value == Decimal(text)
