"""Whatever a table is called, its scaffold is a project without mistakes that can be captured."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion import scaffold
from ingestion.source import prepare
from lake import contract, manifest, source
from lake.errors import LakeError
from lake.manifest import Column
from lake.names import LAKE_NAME, OWN, lake_names
from lake.source.inspection import inspect
from lake.stack import postgres

ODD = """
    create schema "My Schema";
    create schema shop;
    create type mood as enum ('glad');
    create type "My Schema"."Odd Type" as (a int);
    create table customer (id int primary key, updated_at timestamptz(3), mood mood);
    create table customers (id int primary key);
    create table shop.customer (id int primary key, "op" text, valid_to date, "_op" int);
    create table "My Schema"."Order" (
        "OrderId" int, "select" text, "größe ""x"" 'y' \\ #: [{" numeric(3, -2), "名前" text,
        "A" int, a int, "HTTPStatus" "My Schema"."Odd Type"[], "2fa" boolean, "on" char(3),
        primary key ("select", "OrderId")
    );
    create table "Ümlaut" (code text not null unique, b interval);
    create table log (at timestamp, what jsonb);
    create table loan (loan_id int primary key);
    create table parted (id int primary key, b int, c int generated always as (b) stored,
        d int generated always as (b) virtual) partition by range (id);
    create table part partition of parted default;
    create view v as select 1 as one;
"""


@pytest.fixture
def odd(
    owner: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Tables of all sorts at the source, and a project that declares two others."""
    owner.execute(ODD)
    project = manifest.copy_project(tmp_path / "dbt_project")
    for module in (manifest, scaffold):
        monkeypatch.setattr(module, "PROJECT", project)
    monkeypatch.setattr(manifest, "TARGET", project / "target")
    manifest.forget()
    yield project
    manifest.forget()


def test_tables_of_any_name_are_declared_without_a_mistake_and_can_be_captured(
    odd: Path, owner: psycopg.Connection
) -> None:
    owner.execute("create table loan_payment (loan_id bigint, installment int)")
    names = ["public.customer", "customers", "shop.customer", '"My Schema"."Order"', "Ümlaut"]
    left = {name: scaffold.scaffold(name).left for name in [*names, "public.log", "parted"]}
    assert [str(one) for one in contract.mistakes(odd)] == []
    declared = {table.bronze: table for table in manifest.source_tables()}
    assert {
        name: (table.qualified, table.key)
        for name, table in declared.items()
        if name not in ("bronze.loan", "bronze.loan_payment")
    } == {
        "bronze.customer": ("public.customer", ("id",)),
        "bronze.customers": ("public.customers", ("id",)),
        "bronze.shop_customer": ("shop.customer", ("id",)),
        "bronze.order": ('"My Schema"."Order"', ("select", "order_id")),
        "bronze.umlaut": ('public."Ümlaut"', ("code",)),
        "bronze.log": ("public.log", ()),
        "bronze.parted": ("public.parted", ("id",)),
    }
    assert declared["bronze.order"].columns == (
        Column("order_id", "integer", "OrderId"),
        Column("select", "text", "select"),
        Column("grosse_x_y", "numeric(3,-2)", "größe \"x\" 'y' \\ #: [{"),
        Column("u540d_u524d", "text", "名前"),
        Column("a_2", "integer", "A"),
        Column("a", "integer", "a"),
        Column("http_status", '"My Schema"."Odd Type"[]', "HTTPStatus"),
        Column("_2fa", "boolean", "2fa"),
        Column("on", "character(3)", "on"),
    )
    shop = declared["bronze.shop_customer"].columns
    assert [column.name for column in shop] == [
        "id",
        "source_op",
        "source_valid_to",
        "source_op_2",
    ]
    assert [column.type for column in declared["bronze.customer"].columns] == [
        "integer",
        "timestamptz",
        "public.mood",
    ]
    models = {path.stem for path in (odd / "models" / "silver").glob("*.sql")}
    assert {"customers", "customers_2", "shop_customers", "orders", "umlauts", "logs"} <= models
    assert "logs_history" not in models
    with source.connect() as connection:
        tables = [t for t in declared.values() if not t.name.startswith("loan")]
        found = inspect(connection, tables)
        ailing = prepare(connection, tables, found, postgres.source_owner()).troubles
    assert {trouble.table for trouble in ailing} == {'public."Ümlaut"', "public.log"}
    for trouble in ailing:
        assert any(str(trouble) in one for one in (*left["Ümlaut"], *left["public.log"]))
        for statement in trouble.remedy:
            owner.execute(statement.encode())
    with source.connect() as connection:
        assert (
            prepare(
                connection, tables, inspect(connection, tables), postgres.source_owner()
            ).troubles
            == ()
        )
    assert "compute in a model, since the WAL does not have them: d" in left["parted"]


def test_what_is_declared_or_no_table_is_told_and_nothing_is_written(odd: Path) -> None:
    before = sorted(odd.rglob("*"))
    with pytest.raises(LakeError, match=r"declares public\.loan already, as `loan`"):
        scaffold.scaffold("loan")
    with pytest.raises(LakeError, match=r"no table public\.nowhere: write it as `schema\.table`"):
        scaffold.scaffold("nowhere")
    with pytest.raises(LakeError, match=r'no table public\."No Where": write it'):
        scaffold.scaffold('"No Where"')
    with pytest.raises(LakeError, match=r"public\.v is no table but a view or the like"):
        scaffold.scaffold("v")
    assert sorted(odd.rglob("*")) == before


@given(st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=8))
def test_names_of_the_lake_are_plain_and_collide_neither_with_each_other_nor_with_its_own(
    names: list[str],
) -> None:
    given_names = lake_names(names)
    assert list(given_names) == names
    assert len(set(given_names.values())) == len(names)
    for name, given_name in given_names.items():
        assert LAKE_NAME.fullmatch(given_name)
        assert given_name not in OWN
        if LAKE_NAME.fullmatch(name) and name not in OWN:
            assert given_name == name


def test_the_lake_s_own_columns_are_no_source_s() -> None:
    own = [*scaffold.HISTORY, *scaffold.QUARANTINE, *scaffold.LANDED, *scaffold.COPIES]
    assert OWN.issuperset(own)
