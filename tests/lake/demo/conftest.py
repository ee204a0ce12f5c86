"""An empty source database for each test, with a schema of its own on the search path."""

import os
import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo


def _admin(request: pytest.FixtureRequest, database: str | None = None) -> psycopg.Connection:
    """A superuser's connection: to LAKE_TEST_POSTGRES, where given, or to the session's stack."""
    if given := os.environ.get("LAKE_TEST_POSTGRES"):
        return psycopg.connect(make_conninfo(given, dbname=database), autocommit=True)
    from lake.stack import postgres

    request.getfixturevalue("lake_stack")
    return postgres.SOURCE.admin(database or "postgres")


@pytest.fixture
def source_connection(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """The superuser of an empty database; every statement is its own transaction."""
    name = re.sub(r"\W", "_", f"demo_{request.node.name}")[:60]
    identifier = sql.Identifier(name)
    with _admin(request) as admin:
        admin.execute(sql.SQL("drop database if exists {} with (force)").format(identifier))
        admin.execute(sql.SQL("create database {}").format(identifier))
        set_path = "alter database {} set search_path = lender, public"
        admin.execute(sql.SQL(set_path).format(identifier))
    with _admin(request, name) as connection:
        connection.execute("create schema lender")
        yield connection
    with _admin(request) as admin:
        admin.execute(sql.SQL("drop database {} with (force)").format(identifier))
