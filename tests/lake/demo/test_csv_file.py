"""A CSV file is taken as it is or refused with the line, the column, the value, the expectation."""

from pathlib import Path

import pytest

from lake.demo import csv_file
from lake.errors import LakeError

HEADER = ",".join(csv_file.COLUMNS)
ROW = "22.0,female,Master,71948.0,0,RENT,35000.0,PERSONAL,16.02,0.49,3.0,561,No,1"


def written(folder: Path, *lines: str) -> Path:
    path = folder / "loans.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def fault(path: Path) -> str:
    with pytest.raises(LakeError) as raised:
        list(csv_file.read(path, chunk=2))
    said = str(raised.value)
    assert len(said.splitlines()) == 1
    assert "loans.csv" in said
    return said


def changed(column: str, value: str) -> str:
    values = dict(zip(csv_file.COLUMNS, ROW.split(","), strict=True))
    return ",".join((values | {column: value}).values())


def test_values_have_the_types_of_the_source(tmp_path: Path) -> None:
    (columns,) = csv_file.read(written(tmp_path, HEADER, ROW), chunk=10)
    (age, gender, *_) = (column.tolist()[0] for column in columns.values())
    assert (age, gender) == (22, "female")
    assert columns["person_age"].dtype.kind == "i"
    assert columns["previous_loan_defaults_on_file"].tolist() == [False]
    assert columns["loan_int_rate"].tolist() == [16.02]


def test_dirt_stays_in(tmp_path: Path) -> None:
    dirty = changed("person_age", "144.0"), changed("loan_amnt", "-5")
    (columns,) = csv_file.read(written(tmp_path, HEADER, *dirty), chunk=10)
    assert columns["person_age"].tolist() == [144, 22]
    assert columns["loan_amnt"].tolist() == [35000, -5]


def test_rows_come_in_chunks_and_in_order(tmp_path: Path) -> None:
    rows = [changed("credit_score", str(score)) for score in range(5)]
    chunks = list(csv_file.read(written(tmp_path, HEADER, *rows), chunk=2))
    assert [chunk["credit_score"].tolist() for chunk in chunks] == [[0, 1], [2, 3], [4]]


def test_columns_may_stand_in_another_order_after_a_byte_order_mark(tmp_path: Path) -> None:
    names, values = HEADER.split(","), ROW.split(",")
    path = written(tmp_path, "\ufeff" + ",".join(names[::-1]), ",".join(values[::-1]))
    (columns,) = csv_file.read(path, chunk=2)
    assert list(columns) == names
    assert columns["person_income"].tolist() == [71948]


@pytest.mark.parametrize(
    ("column", "value", "shown", "expected"),
    [
        ("person_age", "young", "'young'", "a whole number"),
        ("person_age", "22.5", "'22.5'", "a whole number"),
        ("person_age", "", "empty", "a whole number"),
        ("person_emp_exp", "3000000000", "'3000000000'", "a whole number"),
        ("credit_score", "inf", "'inf'", "a whole number"),
        ("person_income", "nan", "'nan'", "a number below 1,000,000,000,000"),
        ("loan_amnt", "1e11", "'1e11'", "a number below 10,000,000,000"),
        ("loan_int_rate", "1000", "'1000'", "a number below 1,000 "),
        ("loan_int_rate", "11.015", "'11.015'", "a number below 1,000 with at most two decimals"),
        ("loan_intent", " ", "' '", "text"),
        ("person_gender", "fe\0male", r"'fe\x00male'", "text"),
        ("previous_loan_defaults_on_file", "yes", "'yes'", "Yes or No"),
        ("previous_loan_defaults_on_file", "", "empty", "Yes or No"),
        ("loan_status", "2", "'2'", "0 or 1"),
        ("loan_status", "", "empty", "0 or 1"),
    ],
)
def test_a_bad_value_is_named_with_its_place_and_what_is_expected(
    tmp_path: Path, column: str, value: str, shown: str, expected: str
) -> None:
    said = fault(written(tmp_path, HEADER, ROW, ROW, changed(column, value), ROW))
    assert f"line 4: {column} is {shown}, expected {expected}" in said


def test_a_long_value_is_shown_cut(tmp_path: Path) -> None:
    assert len(fault(written(tmp_path, HEADER, changed("person_age", "x\n" * 9999)))) < 400


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (ROW.rpartition(",")[0], "13 fields"),
        (ROW + ",7", "15 fields, expected 14; the last is '7'"),
        ("", "an empty line"),
    ],
)
def test_a_row_of_another_length_is_named(tmp_path: Path, row: str, found: str) -> None:
    said = fault(written(tmp_path, HEADER, ROW, row, ROW))
    assert f"line 3: {found}" in said


def test_lines_are_counted_where_a_value_has_several(tmp_path: Path) -> None:
    two_lines = changed("loan_intent", '"PERS\nONAL"')
    said = fault(written(tmp_path, HEADER, two_lines, changed("person_age", "x")))
    assert "line 4: person_age" in said


def test_a_quote_that_does_not_end_is_named(tmp_path: Path) -> None:
    assert "line 3:" in fault(written(tmp_path, HEADER, ROW, changed("loan_intent", '"PERS'), ROW))


def test_the_header_is_checked_before_any_row(tmp_path: Path) -> None:
    header = HEADER.replace("person_age", "age").replace("loan_status", "credit_score")
    said = fault(written(tmp_path, header, "bad"))
    assert "line 1" in said
    assert "lacks 'person_age', 'loan_status'" in said
    assert "has unknown 'age'" in said
    assert "has twice 'credit_score'" in said


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    assert "has a header but no rows" in fault(written(tmp_path, HEADER))


def test_an_empty_file_lacks_the_header(tmp_path: Path) -> None:
    path = tmp_path / "loans.csv"
    path.touch()
    assert "line 1: the header lacks" in fault(path)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loans.csv"
    path.write_bytes(f"{HEADER}\n{changed('loan_intent', 'für')}\n".encode("latin-1"))
    assert "is not UTF-8" in fault(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "can't be read: No such file" in fault(tmp_path / "loans.csv")
