"""A source database of each test's own, and a branch of the shared lake."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from lake.branches import branch
from lake.settings import settings
from lake.stack import postgres
from tests.conftest import forget_settings
from tests.lake.verify.made import Made

Make = Callable[..., Made]
BRANCH = "verified"


@pytest.fixture
def owner(
    lake_stack: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[psycopg.Connection]:
    """The source's superuser, in an empty database that the lake's settings now name."""
    name = re.sub(r"\W", "_", request.node.name)[:40].lower()
    with postgres.SOURCE.admin() as admin:
        admin.execute(f'create database "{name}"')
    monkeypatch.setenv("LAKE_SOURCE__DATABASE", name)
    forget_settings()
    with postgres.SOURCE.admin(name) as connection:
        yield connection
    with postgres.SOURCE.admin() as admin:
        admin.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
            " where database = %s",
            [name],
        )
        admin.execute(f'drop database "{name}" with (force)')
    monkeypatch.undo()
    forget_settings()


@pytest.fixture
def make(owner: psycopg.Connection) -> Iterator[Make]:
    """Makes a table of the source, whose lake is to be made on a branch."""
    branch.create(BRANCH)

    def made(name: str, key: tuple[str, ...], /, **columns: str) -> Made:
        table = Made(owner, BRANCH, name, columns, key)
        table.create()
        return table

    assert settings().branch == "lake"
    try:
        yield made
    finally:
        branch.drop(BRANCH)
