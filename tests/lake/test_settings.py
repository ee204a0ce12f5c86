"""What is set wrongly is told in a line, whole."""

from pathlib import Path

import pytest

from lake.settings import Settings, settings
from lake.stack import trino
from tests.conftest import lake


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LAKE_HEAP__SPARK", "many", r"String should match pattern '^\d+[mgMG]$'"),
        ("LAKE_PORTS__TRINO", "x", "Input should be a valid integer"),
        ("LAKE_PORTS__TRNO", "18080", "Extra inputs are not permitted"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, value: str, said: str) -> None:
    done = lake("status", **{name: value})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"setting {name} = '{value}': {said}" in line


def test_a_directory_is_the_same_by_whichever_path_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("state_dir", "project_dir", "cache_dir"):
        monkeypatch.setenv(f"LAKE_{name.upper()}", "of/mine")
        assert getattr(Settings(), name) == tmp_path / "of" / "mine"


@pytest.mark.parametrize(("heap", "is_small"), [("800m", True), ("2047m", True), ("2g", False)])
def test_a_small_trino_has_one_compiler(
    heap: str, is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings(), "heap", Settings.model_validate({"heap": {"trino": heap}}).heap)
    assert ("-XX:TieredStopAtLevel=1" in trino._compilers()) is is_small
