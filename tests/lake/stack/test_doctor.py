"""What the doctor and the status say of positions, and of tables that are not captured."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from lake import catalog, lag
from lake.credentials import credentials
from lake.errors import LakeError
from lake.lag import Lag, Position
from lake.source import inspection
from lake.source.inspection import Trouble
from lake.stack import doctor, status, supervisor
from lake.stack.status import Status
from tests.lake.branches.conftest import published

HIDDEN = Trouble("public.loan", "hides rows", ("alter role capture bypassrls",))
MISSED = Trouble(
    "public.loan", "was not published", ("alter publication a", "b"), misses_changes=True
)
NEW = Trouble("public.loan", "is not published", ("alter …",), is_routine=True)
GONE = Trouble("public.loan", "is declared, but the source has no such table")


def answers(value: object) -> Callable[[], object]:
    return lambda: value


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [
        (HIDDEN, "run `alter role capture bypassrls` as a superuser, then `lake ingest`"),
        (
            MISSED,
            "run `alter publication a; b` as the owner of the publication, "
            "then `lake ingest --again public.loan`",
        ),
        (NEW, "run `lake ingest`"),
        (GONE, "correct its declaration, then run `lake ingest`"),
    ],
)
def test_a_table_that_is_not_captured_is_a_finding_with_what_to_do(
    trouble: Trouble, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "suspended", answers((trouble,)))
    (found,) = doctor._tables()
    assert (found.well, found.remedy) == (False, remedy)
    assert found.detail == f"public.loan {trouble.what}"


@pytest.mark.parametrize(("seconds", "well"), [(5, True), (600, False)])
def test_changes_that_do_not_arrive_are_a_finding(
    seconds: int, well: bool, lake_stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = Position(7, datetime.now(UTC) - timedelta(seconds=seconds))
    monkeypatch.setattr(lag, "captured", answers(reached))
    monkeypatch.setattr(lag, "built", answers(None))
    monkeypatch.setattr(supervisor, "running", answers(True))
    bronze, gold = doctor._completeness()
    assert (bronze.well, gold.well) == (well, True)
    assert bronze.detail.startswith("complete up to ")
    assert f"{seconds} s ago" in bronze.detail


def test_the_status_says_as_of_when_bronze_and_gold_are_and_what_is_suspended() -> None:
    now = datetime.now(UTC)
    reached = Lag(107, Position(100, now), Position(90, now - timedelta(seconds=69)))
    shown = Status([], reached, [str(HIDDEN)], [], [])
    console = Console(record=True, width=200)
    console.print(status.render(shown), highlight=False)
    text = console.export_text()
    assert "bronze is complete up to" in text
    assert "0 s ago, 7 bytes behind" in text
    assert "gold is the source as of" in text
    assert "69 s ago" in text
    run = "run `alter role capture bypassrls` as a superuser, then `lake ingest`"
    assert f"suspended: public.loan hides rows: {run}" in text


def test_a_source_that_can_not_be_asked_suspends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise LakeError("the source is not there")

    monkeypatch.setattr(inspection, "suspended", refuse)
    assert status.suspended() == []
    (found,) = doctor._tables()
    assert (found.well, found.detail) == (False, "the source is not there")


def test_a_table_that_can_not_be_read_is_named_and_the_others_are_shown(own_lake: str) -> None:
    published(a=[1], b=[2])
    with catalog._connect(catalog.OWNER, credentials().catalog_password) as owner:
        owner.execute(
            "update iceberg_tables set metadata_location = 's3://lake/warehouse/gone.json'"
            " where catalog_name = 'lake' and table_name = 'a'"
        )
    a, b = (one for one in status.tables() if one.name.startswith("silver."))
    assert (a.name, b.name, b.rows) == ("silver.a", "silver.b", 1)
    assert "gone.json" in a.trouble
    (found,) = doctor._unreadable()
    assert not found.well
    assert found.what == "silver.a"
