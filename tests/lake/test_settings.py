"""What is set wrongly is told in a line, whole."""

import pytest

from lake.stack.program import compilers
from tests.conftest import lake


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LAKE_HEAP__SPARK", "many", r"String should match pattern '^\d+[mgMG]$'"),
        ("LAKE_PORTS__TRINO", "x", "Input should be a valid integer"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, value: str, said: str) -> None:
    done = lake("status", **{name: value})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"setting {name} = '{value}': {said}" in line


@pytest.mark.parametrize(("heap", "is_small"), [("800m", True), ("2047M", True), ("2g", False)])
def test_a_server_with_a_small_heap_has_one_compiler(heap: str, is_small: bool) -> None:
    assert ("-XX:TieredStopAtLevel=1" in compilers(heap)) is is_small
