"""What the dbt project declares is read as declared."""

from typing import Any

from lake.manifest import Column, _source_table, current_models, source_tables


def node(**changes: Any) -> dict[str, Any]:
    """A source table as dbt's manifest has it."""
    return {
        "original_file_path": "models/bronze/bronze.yml",
        "name": "thing",
        "identifier": "thing",
        "config": {"meta": {"source_table": "shop.thing", "key": ["id"]}},
        "columns": {"id": {"name": "id", "data_type": "bigint", "config": {"meta": {}}}},
    } | changes


def test_the_project_declares_both_tables_of_the_reference_source() -> None:
    declared = {table.qualified: table for table in source_tables()}
    assert declared["public.loan"].key == ("loan_id",)
    assert declared["public.loan_payment"].key == ("loan_id", "installment")
    assert Column("loan_amnt", "numeric(12,2)", "loan_amnt") in declared["public.loan"].columns


def test_a_table_may_be_of_any_schema() -> None:
    table = _source_table(node())
    assert (table.schema, table.name, table.bronze) == ("shop", "thing", "bronze.thing")


def test_the_model_of_a_table_s_current_state_is_known_by_what_it_is_made_of() -> None:
    found = {table.qualified: current_models(table) for table in source_tables()}
    assert found == {"public.loan": ["loans"], "public.loan_payment": ["loan_payments"]}
