"""A source database, slot, publication and lake of each test's own, on the shared stack."""

import re
from collections.abc import Callable, Iterator

import psycopg
import pytest

from lake.manifest import Column, SourceTable
from tests.conftest import forget_settings

Declare = Callable[..., SourceTable]


@pytest.fixture
def owner(
    own_lake: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection]:
    """The source's superuser, in an empty database that the lake's settings now name."""
    from lake.stack import postgres

    name = re.sub(r"\W", "_", request.node.name)[:40]
    with postgres.SOURCE.admin() as admin:
        admin.execute(f'create database "{name}"')
    for setting, value in (
        ("LAKE_SOURCE__DATABASE", name),
        ("LAKE_SOURCE__SLOT", name.lower()),
        ("LAKE_SOURCE__PUBLICATION", name),
    ):
        monkeypatch.setenv(setting, value)
    forget_settings()
    with postgres.SOURCE.admin(name) as connection:
        yield connection
    with postgres.SOURCE.admin() as admin:
        admin.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
            " where slot_name = %s",
            [name.lower()],
        )
        admin.execute(f'drop database "{name}" with (force)')
    monkeypatch.undo()
    forget_settings()


def declared(name: str, key: tuple[str, ...], **columns: str) -> SourceTable:
    """A declaration as the dbt project would make it."""
    listed = tuple(Column(column, type_, column) for column, type_ in columns.items())
    return SourceTable(f"bronze.{name}", "public", name, key, listed)
