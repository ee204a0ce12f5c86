"""Seeds: files of CSV in the project that become tables, each value checked before anything runs.

An engine would round a number that has too many digits, and make null of what it can't read.
"""

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lake.types import canonical, decimal_digits

if TYPE_CHECKING:
    import _csv

LARGEST = 2**20
"""So many bytes a file has at most: of a larger one dbt notices no change of its rows."""
_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?")
_ZONE = re.compile(r"[+-]\d\d(:\d\d)?")
_ENDLESS = ("NaN", "Infinity", "-Infinity")


def mistakes(
    path: Path, types: Mapping[str, str], delimiter: str = ","
) -> Iterator[tuple[int, str]]:
    """The mistakes of a file, by line. `types` are the declared ones, by column."""
    if path.stat().st_size > LARGEST:
        said = f"a seed has at most {LARGEST >> 20} MiB"
        yield 1, f"{said}; a larger table is the source's, or a file's"
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _of_lines(csv.reader(file, delimiter=delimiter, strict=True), types)
    except UnicodeDecodeError as error:
        yield 1, f"no UTF-8: {error.reason} at byte {error.start}"


def _of_lines(lines: "_csv.Reader", types: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    try:
        names: list[str] = next(lines, [])
        if sorted(names) != sorted(types):
            said = f"its columns are {', '.join(names) or 'none'}"
            yield 1, f"{said}, and its .yml declares {', '.join(types) or 'none'}"
            return
        tells = [_wrong(types[name]) for name in names]
        for values in lines:
            if len(values) != len(names):
                yield lines.line_num, f"{len(values)} values for {len(names)} columns"
                continue
            for name, value, tell in zip(names, values, tells, strict=True):
                if not is_null(value) and (said := tell(value)):
                    yield lines.line_num, f"{name}: {said}"
                if "\r" in value:
                    yield lines.line_num, f"{name}: a carriage return, which dbt would read as \\n"
    except csv.Error as error:
        yield lines.line_num, f"no CSV: {error}"


def is_null(value: str) -> bool:
    """Whether dbt takes a text for null."""
    return value.strip().lower() in ("", "null")


def _wrong(declared: str) -> Callable[[str], str]:
    """A function that says why a text is no value of the declared type; empty where it is one."""
    declared, known = " ".join(declared.lower().split()), canonical(declared)
    if decimal := decimal_digits(known):
        return partial(_no_decimal, declared, *decimal)
    return partial(_no_value, declared, _READS.get(known, str))


def _no_value(declared: str, read: Callable[[str], object], value: str) -> str:
    try:
        read(value)
    except (ValueError, OverflowError):
        return f"`{value}` is no {declared}"
    return ""


def _no_decimal(declared: str, digits: int, scale: int, value: str) -> str:
    number = _NUMBER.fullmatch(value)
    if not number or number.group(2):
        return f"`{value}` is no {declared}"
    whole, _, fraction = value.removeprefix("-").partition(".")
    fits = len(whole.lstrip("0")) <= digits - scale and len(fraction.rstrip("0")) <= scale
    return "" if fits else f"`{value}` has more digits than {declared}"


def _integer(bits: int, value: str) -> None:
    if not re.fullmatch(r"-?\d+", value) or not -(2 ** (bits - 1)) <= int(value) < 2 ** (bits - 1):
        raise ValueError


def _float(largest: float, value: str) -> None:
    if value in _ENDLESS:
        return
    if not _NUMBER.fullmatch(value) or math.isinf(float(value)) or abs(float(value)) > largest:
        raise ValueError


def _boolean(value: str) -> None:
    if value.lower() not in ("true", "false"):
        raise ValueError


def _date(value: str) -> None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        raise ValueError
    date.fromisoformat(value)


def _bytes(value: str) -> None:
    if not re.fullmatch(r"\\x([0-9a-fA-F]{2})*", value):
        raise ValueError


def _time(value: str, *, zoned: bool) -> None:
    time = _TIME.match(value)
    rest = value[time.end() :] if time else value
    if not time or bool(_ZONE.fullmatch(rest)) != zoned or (rest and not zoned):
        raise ValueError
    datetime.fromisoformat(value)


_READS: dict[str, Callable[[str], object]] = {
    "smallint": partial(_integer, 16),
    "integer": partial(_integer, 32),
    "bigint": partial(_integer, 64),
    "real": partial(_float, 3.4028234e38),
    "double precision": partial(_float, math.inf),
    "boolean": _boolean,
    "date": _date,
    "bytea": _bytes,
    "timestamp without time zone": partial(_time, zoned=False),
    "timestamp with time zone": partial(_time, zoned=True),
}
"""For each canonical type, a function that raises for a text of no such value. Others are text."""
