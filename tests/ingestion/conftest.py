"""A source database, slot, publication and lake of each test's own, on the shared stack."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from lake import source
from lake.manifest import Column, SourceTable
from lake.settings import settings
from tests.conftest import forget_settings
from tests.pgoutput import Change, decoded

Declare = Callable[..., SourceTable]


@contextmanager
def own_source(named_after: str) -> Iterator[psycopg.Connection]:
    """The source's superuser, in an empty database that the lake's settings name in the block."""
    from lake.stack import postgres

    name = re.sub(r"\W", "_", named_after)[:40]
    with postgres.SOURCE.admin() as admin:
        admin.execute(f'create database "{name}"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKE_SOURCE__DATABASE", name)
        patch.setenv("LAKE_SOURCE__SLOT", name.lower())
        patch.setenv("LAKE_SOURCE__PUBLICATION", name)
        forget_settings()
        try:
            with postgres.SOURCE.admin(name) as connection:
                yield connection
        finally:
            with postgres.SOURCE.admin() as admin:
                admin.execute(
                    "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                    " where slot_name = %s",
                    [name.lower()],
                )
                admin.execute(f'drop database "{name}" with (force)')
    forget_settings()


@pytest.fixture
def owner(own_lake: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """The source's superuser, in a database of the test's own."""
    with own_source(request.node.name) as connection:
        yield connection


def in_wal() -> list[Change]:
    """All changes that the slot has, in the order of commits; they stay there."""
    with source.connect() as connection:
        rows = connection.execute(
            "select data from pg_logical_slot_peek_binary_changes(%s, null, null,"
            " 'proto_version', '1', 'publication_names', %s)",
            [settings().source.slot, f'"{settings().source.publication}"'],
        ).fetchall()
    return list(decoded(data for (data,) in rows))


def declared(name: str, key: tuple[str, ...], /, **columns: str) -> SourceTable:
    """A declaration as the dbt project would make it."""
    listed = tuple(Column(column, type_, column) for column, type_ in columns.items())
    return SourceTable(f"bronze.{name}", "public", name, key, listed)
