"""What is not as declared is found before anything is copied, and told with its remedy."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ingestion.source import prepare
from lake import credentials, source
from lake.errors import LakeError
from lake.manifest import Column, SourceTable
from lake.settings import settings
from lake.source.inspection import Inspection, Trouble, inspect
from lake.stack import postgres
from tests.conftest import forget_settings, free_ports
from tests.ingestion.conftest import declared

LOAN = declared("loan", ("loan_id",), loan_id="bigint", amount="decimal(12, 2)")
THING = declared("thing", ("id",), id="int", b="int")


def look(*tables: SourceTable) -> Inspection:
    with source.connect() as connection:
        return inspect(connection, tables)


def set_up(*tables: SourceTable) -> Inspection:
    """The stack's own source, set up as the lake itself may."""
    with source.connect() as connection:
        found = inspect(connection, tables)
        return prepare(connection, tables, found, postgres.source_owner())


def troubles(*tables: SourceTable) -> list[Trouble]:
    """What ails the tables once all that is routine is done."""
    found = look(*tables)
    with postgres.SOURCE.admin(settings().source.database) as owner:
        for statement in found.setup:
            owner.execute(statement.encode())
    return list(look(*tables).troubles)


def assert_remedy_helps(owner: psycopg.Connection, table: SourceTable) -> None:
    """The table has one trouble, its remedy can be pasted, and then there is none."""
    (trouble,) = troubles(table)
    assert trouble.remedy, trouble
    for statement in trouble.remedy:
        owner.execute(statement.encode())
    assert troubles(table) == []
    owner.execute(f"update {table.qualified} set b = 2".encode())  # which the source still can


@pytest.fixture
def loan(owner: psycopg.Connection) -> psycopg.Connection:
    owner.execute("create table loan (loan_id bigint primary key, amount numeric(12, 2))")
    return owner


def test_a_source_as_declared_is_taken_with_the_columns_nobody_declared(
    loan: psycopg.Connection,
) -> None:
    loan.execute('alter table loan add "Remark" text, add remark text, add _unheld int')
    loan.execute("alter table loan drop amount, add amount numeric(12, 2)")
    (table,) = set_up(LOAN).tables
    assert {column.source_name: column.name for column in table.columns} == {
        "loan_id": "loan_id",
        "Remark": "remark_2",
        "remark": "remark",
        "_unheld": "source_unheld",
        "amount": "amount",
    }


def test_what_is_declared_and_not_there_is_named(loan: psycopg.Connection) -> None:
    loan.execute("create table thing (id int primary key, b int)")
    found = set_up(
        declared("nowhere", ("id",), id="int"),
        declared("loan", ("loan_id",), loan_id="bigint", rate="int"),
        THING,
    )
    assert {trouble.table for trouble in found.troubles} == {"public.nowhere", "public.loan"}
    said = "\n".join(map(str, found.troubles))
    assert "public.nowhere is declared, but the source has no such table" in said
    assert "public.loan has no column rate, which is declared: take it out of the project" in said


def test_another_type_is_named_with_the_one_to_declare(loan: psycopg.Connection) -> None:
    (trouble,) = troubles(declared("loan", ("loan_id",), loan_id="bigint", amount="bigint"))
    assert "public.loan.amount is declared as bigint, but the source has numeric(12,2)" in str(
        trouble
    )


def test_one_table_s_trouble_is_its_own(loan: psycopg.Connection) -> None:
    loan.execute("create table thing (id int, b int)")
    found = set_up(LOAN, THING)
    assert [table.declared for table in found.tables] == [LOAN]
    assert {trouble.table for trouble in found.troubles} == {"public.thing"}
    published = loan.execute("select tablename from pg_publication_tables").fetchall()
    assert published == [("loan",)], "an update of the other would fail at the source"


@pytest.mark.parametrize(
    "made",
    [
        "create table thing (id int primary key, b int);"
        " alter table thing replica identity nothing",
        "create table thing (id int not null unique, b int)",
        "create table thing (id int not null, b int primary key);"
        " create unique index on thing (id)",
        "create table thing (id int unique, b int); alter table thing replica identity full",
        "create table thing (id int not null unique deferrable, b int)",
        "create unlogged table thing (id int primary key, b int)",
        "create table thing (id int primary key, b int, c int generated always as (b) virtual);"
        " alter table thing replica identity full",
        "create table thing (id int, b int, primary key (id)) partition by range (id);"
        ' create table "Part" partition of thing for values from (0) to (9);'
        ' alter table "Part" replica identity nothing',
    ],
)
def test_a_keyed_table_whose_changes_would_not_have_their_key_is_told_how(
    owner: psycopg.Connection, made: str
) -> None:
    owner.execute(made.encode())
    assert_remedy_helps(owner, THING)


@pytest.mark.parametrize(
    "made",
    [
        "create table thing (id int, b int)",
        "create table thing (id int unique, b int)",
        "create table thing (id int, b int, c int generated always as (b * 2) stored)",
        "create table thing (id int, b int) partition by range (id);"
        " create table half partition of thing for values from (0) to (9) partition by range (b);"
        " create table part partition of half for values from (0) to (9)",
    ],
)
def test_whole_rows_are_asked_for_only_where_there_is_no_key(
    owner: psycopg.Connection, made: str
) -> None:
    owner.execute(made.encode())
    owner.execute("insert into thing values (1, 1)")
    assert_remedy_helps(owner, declared("thing", (), id="int", b="int"))


@pytest.mark.parametrize(
    "made",
    [
        "create table thing (id int primary key, b int)",
        "create table thing (id int not null unique, b int); "
        "alter table thing replica identity using index thing_id_key",
        "create table thing (b int, id int primary key, c int generated always as (b * 2) stored)",
        "create table thing (id int primary key, b int) partition by range (id);"
        " create table part partition of thing for values from (0) to (9)",
    ],
)
def test_nothing_is_asked_of_a_table_with_a_key(owner: psycopg.Connection, made: str) -> None:
    owner.execute(made.encode())
    found = set_up(THING)
    assert found.troubles == ()
    owner.execute("insert into thing (id, b) values (1, 1)")
    owner.execute("update thing set b = 2")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("create view thing as select 1 as id, 2 as b", "is a view"),
        ("create materialized view thing as select 1 as id, 2 as b", "is a materialized view"),
        (
            "create extension postgres_fdw; create server s foreign data wrapper postgres_fdw;"
            " create foreign table thing (id int, b int) server s",
            "is a foreign table",
        ),
        ("create table thing (id int, b int)", "give it a primary key, or declare `key: []`"),
        (
            "create table thing (id int, b int primary key)",
            "is keyed by (id), but nothing there makes it unique: declare (b)",
        ),
        (
            "create table thing (id int primary key, b int generated always as (id) virtual)",
            "leave public.thing.b out of the project",
        ),
    ],
)
def test_what_can_t_be_captured_is_refused_with_the_reason(
    owner: psycopg.Connection, made: str, said: str
) -> None:
    owner.execute(made.encode())
    (trouble,) = troubles(THING)
    assert said in str(trouble)
    assert trouble.remedy == ()


def test_a_table_without_a_key_that_has_a_virtual_column_is_refused(
    owner: psycopg.Connection,
) -> None:
    owner.execute("create table thing (id int, b int, c int generated always as (b) virtual)")
    (trouble,) = troubles(declared("thing", (), id="int", b="int"))
    assert "give it a primary key" in str(trouble)


def test_a_key_that_there_is_must_be_declared(loan: psycopg.Connection) -> None:
    (trouble,) = troubles(declared("loan", (), loan_id="bigint", amount="numeric(12,2)"))
    assert str(trouble) == "public.loan is declared without a key, but has one: declare (loan_id)"


def test_a_partition_and_its_parent_are_not_both_declared(owner: psycopg.Connection) -> None:
    owner.execute(
        "create table thing (id int primary key, b int) partition by range (id);"
        " create table part partition of thing for values from (0) to (9)"
    )
    part = declared("part", ("id",), id="int", b="int")
    assert troubles(part) == []
    (trouble,) = troubles(THING, part)
    assert str(trouble).startswith("public.part is a partition of public.thing, which is declared")


def test_row_level_security_that_hides_rows_is_noticed(loan: psycopg.Connection) -> None:
    set_up(LOAN)
    loan.execute("alter table loan enable row level security")
    (trouble,) = troubles(LOAN)
    assert str(trouble) == (
        "public.loan has row-level security, which hides rows from capture: "
        "run `alter role capture bypassrls` as a superuser, then `lake ingest`"
    )
    loan.execute("alter role capture bypassrls")
    try:
        assert troubles(LOAN) == []
    finally:
        loan.execute("alter role capture nobypassrls")


@pytest.mark.parametrize(
    ("narrowed", "said"),
    [
        ("drop table loan", "is not published"),
        ("set table loan where (loan_id > 5)", "rows are left out"),
        ("set table loan (loan_id)", "columns are left out (amount)"),
        ("set (publish = 'insert, update')", "not published (delete, truncate)"),
    ],
)
def test_a_publication_that_somebody_has_narrowed_is_noticed_and_set_right(
    loan: psycopg.Connection, narrowed: str, said: str
) -> None:
    set_up(LOAN)
    loan.execute(f'alter publication "{settings().source.publication}" {narrowed}'.encode())
    (trouble,) = look(LOAN).troubles
    assert said in str(trouble)
    assert trouble.misses_changes
    assert set_up(LOAN).troubles == ()


def test_partitions_published_under_their_own_names_are_noticed_and_set_right(
    owner: psycopg.Connection,
) -> None:
    owner.execute(
        "create table thing (id int primary key, b int) partition by range (id);"
        " create table part partition of thing for values from (0) to (9)"
    )
    set_up(THING)
    publication = f'alter publication "{settings().source.publication}"'
    owner.execute(f"{publication} set (publish_via_partition_root = false)".encode())
    (trouble,) = look(THING).troubles
    assert "under its partitions' names" in str(trouble)
    assert set_up(THING).troubles == ()


def test_a_table_that_nobody_declares_any_more_is_no_longer_published(
    loan: psycopg.Connection,
) -> None:
    loan.execute("create table thing (id int primary key, b int)")
    set_up(LOAN, THING)
    set_up(LOAN)
    assert loan.execute("select tablename from pg_publication_tables").fetchall() == [("loan",)]


def test_the_children_of_an_inheritance_parent_are_tables_by_themselves(
    owner: psycopg.Connection,
) -> None:
    owner.execute("create table thing (id int primary key, b int)")
    owner.execute("create table child (c int) inherits (thing)")
    assert set_up(THING).troubles == ()
    assert owner.execute("select tablename from pg_publication_tables").fetchall() == [("thing",)]


def test_an_external_owner_is_told_to_let_capture_read(loan: psycopg.Connection) -> None:
    said = [str(trouble) for trouble in look(LOAN).troubles]
    grants = "grant usage on schema public to capture; grant select on public.loan to capture"
    run = f"run `{grants.partition('; ')[2]}` as the owner of the table, then `lake ingest`"
    assert f"public.loan can't be read by capture: {run}" in said
    with source.connect() as connection, pytest.raises(LakeError) as raised:
        prepare(connection, [LOAN], look(LOAN), None)
    for statement in str(raised.value).splitlines()[1:]:
        loan.execute(statement.encode())
    assert look(LOAN).troubles == ()


def test_odd_names_are_quoted_in_every_remedy(owner: psycopg.Connection) -> None:
    owner.execute('create schema "My Schema"; create table "My Schema"."select ""é" ("Key" int)')
    columns = (Column("key", "int", "Key"),)
    table = SourceTable("bronze.odd", "My Schema", 'select "é', ("key",), columns)
    (trouble,) = troubles(table)
    assert "give it a primary key" in str(trouble)
    owner.execute('alter table "My Schema"."select ""é" add unique ("Key")')
    for _ in range(2):  # it may be null, then it is not logged
        (trouble,) = troubles(table)
        for statement in trouble.remedy:
            owner.execute(statement.encode())
    assert troubles(table) == []


@pytest.fixture
def plain_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A second Postgres, of an installation of its own, that was not set up for capture."""
    monkeypatch.setenv("LAKE_STATE_DIR", str(tmp_path))
    for name, port in free_ports().items():
        monkeypatch.setenv(name, port)
    forget_settings()
    credentials.generate()
    postgres.SOURCE.configure()
    program = postgres.SOURCE.program()
    server = subprocess.Popen([*program.command, "-c", "wal_level=replica"])
    try:
        while not program.ready():
            assert server.poll() is None
            time.sleep(0.05)
        postgres.create_source()
        yield
    finally:
        server.terminate()
        server.wait()
        monkeypatch.undo()
        forget_settings()


def test_wal_level_must_be_logical(plain_postgres: None) -> None:
    with pytest.raises(LakeError, match="wal_level is replica"):
        look(LOAN)


def test_an_unreachable_source_is_one_clear_line(
    owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_SOURCE__PORT", "1")
    forget_settings()
    with pytest.raises(LakeError, match=r"127\.0\.0\.1:1/.*refused") as raised:
        source.connect()
    assert len(str(raised.value).splitlines()) == 1


def test_wrong_credentials_are_one_clear_line(
    owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_SOURCE__PASSWORD", "wrong")
    forget_settings()
    with pytest.raises(LakeError, match="password authentication failed") as raised:
        source.connect()
    assert len(str(raised.value).splitlines()) == 1
