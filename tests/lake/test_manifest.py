"""What the dbt project declares is read as declared."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lake.errors import LakeError
from lake.manifest import (
    Column,
    SourceTable,
    _source_table,
    current_models,
    named_tables,
    source_tables,
)
from lake.names import lake_names


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


SCHEMAS = st.sampled_from(["public", "shop", "Shop", "customer"])
NAMES = st.sampled_from(["customer", "Customer", "shop_customer", "order", "public.customer"])


@given(st.lists(st.tuples(SCHEMAS, NAMES), min_size=1, max_size=8, unique=True))
def test_a_name_is_that_of_one_table_or_of_none(found: list[tuple[str, str]]) -> None:
    entries = lake_names([f"{schema}_{name}" for schema, name in found])
    declared = [
        SourceTable(f"bronze.{entry}", schema, name, (), ())
        for (schema, name), entry in zip(found, entries.values(), strict=True)
    ]
    for table in declared:
        own = table.bronze.removeprefix("bronze.")
        assert named_tables([own, table.bronze, table.qualified], declared) == [table] * 3
        twins = [one for one in declared if one.name == table.name]
        if table.name in {one for t in declared for one in (t.qualified, t.bronze[7:])}:
            continue  # it is another's whole name
        if len(twins) == 1:
            assert named_tables([table.name], declared) == twins
        else:
            with pytest.raises(LakeError, match="is the name of several tables: choose of"):
                named_tables([table.name], declared)


def test_the_model_of_a_table_s_current_state_is_known_by_what_it_is_made_of() -> None:
    found = {table.qualified: current_models(table) for table in source_tables()}
    assert found == {"public.loan": ["loans"], "public.loan_payment": ["loan_payments"]}
