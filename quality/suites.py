"""The suites of all layers: a suite's fingerprint, and the tables that its queries read."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from json import dumps
from pathlib import Path

from quality import bronze, gold, silver
from quality.suite import Expectation, Suite, view_of

_NOW = re.compile(
    r"\b(current_(date|time|timestamp)|now|unix_timestamp|rand|uuid)\b", re.IGNORECASE
)


def suites(layer: str) -> Suite:
    """What is expected of each table of a layer, by its name."""
    return {"bronze": bronze.suite, "silver": silver.suite, "gold": gold.suite}[layer]()


def fingerprint(expectations: Sequence[Expectation]) -> str:
    """Of all that decides what is found on given rows."""
    expected = dumps([asdict(one) for one in expectations], sort_keys=True, default=str)
    return sha256(f"{expected} {_judges()}".encode()).hexdigest()[:16]


def read_beside(expectations: Sequence[Expectation], tables: Sequence[str]) -> set[str]:
    """Which of the tables are read by what is expected of another one."""
    words = {word for one in expectations for word in re.findall(r"\w+", _sql(one))}
    return {table for table in tables if view_of(table) in words}


def goes_by_the_clock(expectations: Sequence[Expectation]) -> bool:
    """Whether the same rows may be right today, and wrong tomorrow."""
    return any(_NOW.search(_sql(one)) for one in expectations)


def _sql(of: Expectation) -> str:
    return f"{of.query} {of.where}"


@lru_cache
def _judges() -> str:
    """The code that judges: ours, and the version of Great Expectations."""
    ours = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
    return sha256(ours.encode()).hexdigest() + version("great_expectations")
