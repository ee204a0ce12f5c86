"""The real data set as a CSV file: read strictly, in chunks, with the source's types.

`22.0` is 22 and `Yes` is true. Nothing is repaired: values that are merely implausible stay, and a
row that does not fit the source's types ends the reading with its line.
"""

import csv
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from lake.demo.applicants import Columns
from lake.errors import LakeError

Value = int | float | bool | str
Reader = Callable[[str], Value]


class _UnfitError(ValueError):
    """A value is not what its column takes; the message says what that is."""


def _text(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise _UnfitError("text")
    return value


def _number(value: str, expected: str) -> Decimal:
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise _UnfitError(expected) from None
    if not number.is_finite():
        raise _UnfitError(expected)
    return number


def _whole(value: str) -> int:
    number = _number(value, "a whole number")
    if abs(number) >= 2**31 or number % 1:
        raise _UnfitError("a whole number")
    return int(number)


def _decimal(precision: int) -> Reader:
    def read(value: str) -> float:
        bound = 10 ** (precision - 2)
        expected = f"a number below {bound:,} with at most two decimals"
        number = _number(value, expected)
        if abs(number) >= bound or number * 100 % 1:
            raise _UnfitError(expected)
        return float(number)  # exact enough: 14 digits at most

    return read


def _yes(value: str) -> bool:
    if value not in ("Yes", "No"):
        raise _UnfitError("Yes or No")
    return value == "Yes"


def _status(value: str) -> int:
    if value not in ("0", "1"):
        raise _UnfitError("0 or 1")
    return int(value)


COLUMNS: dict[str, Reader] = {
    "person_age": _whole,
    "person_gender": _text,
    "person_education": _text,
    "person_income": _decimal(14),
    "person_emp_exp": _whole,
    "person_home_ownership": _text,
    "loan_amnt": _decimal(12),
    "loan_intent": _text,
    "loan_int_rate": _decimal(5),
    "loan_percent_income": _decimal(5),
    "cb_person_cred_hist_length": _whole,
    "credit_score": _whole,
    "previous_loan_defaults_on_file": _yes,
    "loan_status": _status,
}


def count_lines(path: Path) -> int:
    """Lines below the header: about the number of rows. Raises LakeError on an unreadable file."""
    try:
        with path.open("rb") as file:
            return max(sum(1 for _ in file) - 1, 0)
    except OSError as error:
        raise LakeError(f"{path} can't be read: {error.strerror}") from None


def read(path: Path, chunk: int) -> Iterator[Columns]:
    """The rows of `path` in its order, at most `chunk` at a time.

    Raises LakeError at the first bad line, with its number; what came before was yielded.
    """
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            _check_header(path, header)
            rows: list[list[Value]] = []
            line = reader.line_num
            for fields in reader:
                rows.append(_row(path, line + 1, header, fields))
                line = reader.line_num
                if len(rows) == chunk:
                    yield _columns(header, rows)
                    rows = []
            if rows:
                yield _columns(header, rows)
            elif line == 1:
                raise LakeError(f"{path} has a header but no rows: give the data set")
    except OSError as error:
        raise LakeError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LakeError(f"{path} is not UTF-8 text after line {line}: save it as UTF-8") from None
    except csv.Error as error:
        raise LakeError(f"{path} line {line + 1}: {error}; expected a row of CSV") from None


def _check_header(path: Path, header: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    twice = [name for name in COLUMNS if header.count(name) > 1]
    kinds = (("lacks", missing), ("has unknown", unknown), ("has twice", twice))
    faults = [f"{verb} {', '.join(map(_shown, names))}" for verb, names in kinds if names]
    if faults:
        expected = f"expected these {len(COLUMNS)} columns: {', '.join(COLUMNS)}"
        raise LakeError(f"{path} line 1: the header {' and '.join(faults)}; {expected}")


def _row(path: Path, line: int, header: list[str], fields: list[str]) -> list[Value]:
    if len(fields) != len(header):
        found = f"{len(fields)} fields" if fields else "an empty line"
        last = f"; the last is {_shown(fields[-1])}" if fields else ""
        raise LakeError(f"{path} line {line}: {found}, expected {len(header)}{last}")
    row: list[Value] = []
    for name, value in zip(header, fields, strict=True):
        try:
            row.append(COLUMNS[name](value))
        except _UnfitError as error:
            said = f"{name} is {_shown(value)}, expected {error}"
            raise LakeError(f"{path} line {line}: {said}") from None
    return row


def _shown(value: str) -> str:
    """A value as it fits on one line."""
    return ascii(value if len(value) <= 40 else value[:40] + "…") if value else "empty"


def _columns(header: list[str], rows: list[list[Value]]) -> Columns:
    listed = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {name: np.array(listed[name]) for name in COLUMNS}
