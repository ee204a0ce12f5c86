"""What the dbt project declares is read as declared, or its fault is told with file and name."""

from typing import Any

import pytest

from lake.errors import LakeError
from lake.manifest import Column, _source_table, source_tables


def node(**changes: Any) -> dict[str, Any]:
    """A source table as dbt's manifest has it."""
    return {
        "original_file_path": "models/bronze/bronze.yml",
        "name": "thing",
        "identifier": "thing",
        "config": {"meta": {"source_table": "shop.thing", "key": ["id"]}},
        "columns": {"id": {"name": "id", "data_type": "bigint"}},
    } | changes


def test_the_project_declares_both_tables_of_the_reference_source() -> None:
    declared = {table.qualified: table for table in source_tables()}
    assert declared["public.loan"].key == ("loan_id",)
    assert declared["public.loan_payment"].key == ("loan_id", "installment")
    assert Column("loan_amnt", "numeric(12,2)") in declared["public.loan"].columns


def test_a_table_may_be_of_any_schema() -> None:
    table = _source_table(node())
    assert (table.schema, table.name, table.bronze) == ("shop", "thing", "bronze.thing")


def test_a_declaration_without_a_key_is_told_with_its_file() -> None:
    with pytest.raises(LakeError, match=r"models/bronze/bronze\.yml: thing: config\.meta\.key"):
        _source_table(node(config={"meta": {"source_table": "shop.thing"}}))


def test_a_key_that_is_no_declared_column_is_told() -> None:
    with pytest.raises(LakeError, match="must list columns that it declares"):
        _source_table(node(config={"meta": {"source_table": "shop.thing", "key": ["number"]}}))


def test_a_column_without_a_type_is_told() -> None:
    with pytest.raises(LakeError, match=r"thing\.id: data_type must be"):
        _source_table(node(columns={"id": {"name": "id", "data_type": None}}))
