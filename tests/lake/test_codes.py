"""A model's fingerprint changes with what decides its rows, and with nothing else."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lake import manifest, provenance
from lake.manifest import below, table_nodes, table_of
from lake.provenance import Code

Manifest = dict[str, Any]
VARIABLES = {"dates": ["2020-01-01", "2039-12-31"]}


def codes(of: Manifest, **variables: Any) -> dict[str, Code]:
    return {code.table: code for code in provenance.codes_of(of, VARIABLES | variables)}


def changed(edit: Callable[[Manifest], None], *, only_own: bool = False) -> set[str]:
    """The tables whose lineage, or fingerprint alone, another manifest changes."""
    edited = copy.deepcopy(manifest.manifest())
    edit(edited)
    before, after = codes(manifest.manifest()), codes(edited)
    word = "fingerprint" if only_own else "lineage"
    return {name for name in before if getattr(before[name], word) != getattr(after[name], word)}


def test_other_sql_changes_the_model_and_all_below() -> None:
    for model, node in table_nodes().items():

        def edit(of: Manifest, model: str = model) -> None:
            of["nodes"][model]["raw_code"] += "\nlimit 1"

        follow = {table_of(table_nodes()[one]) for one in below({model}) if one in table_nodes()}
        assert changed(edit) == {table_of(node), *follow}
        assert changed(edit, only_own=True) == {table_of(node)}


def test_what_no_row_depends_on_changes_nothing() -> None:
    def edit(of: Manifest) -> None:
        for node in table_nodes(of).values():
            node["description"] = "another"
            node["config"]["meta"]["volume"] = {"within": 0.1}
            node["unrendered_config"] |= {"tags": ["other"], "group": "other", "meta": {}}
            for column in node["columns"].values():
                column["description"] = "another"

    assert changed(edit) == set()


def test_a_contract_s_type_and_a_source_s_column_count() -> None:
    def retype(of: Manifest) -> None:
        of["nodes"]["model.lakehouse.fct_loans"]["columns"]["installments"]["data_type"] = "text"

    def rename(of: Manifest) -> None:
        column = of["sources"]["source.lakehouse.bronze.loan"]["columns"]["credit_score"]
        column["config"]["meta"]["source_column"] = "score"

    assert changed(retype, only_own=True) == {"gold.fct_loans"}
    assert "silver.loans_history" in changed(rename, only_own=True)


def test_rules_count_where_they_are_applied() -> None:
    def edit(of: Manifest) -> None:
        of["nodes"]["model.lakehouse.loans"]["config"]["meta"]["rules"]["other"] = "true"

    own = changed(edit, only_own=True)
    assert own == {"silver.loans", "silver.loans_history", "silver.loans_quarantine"}


def test_a_variable_counts_for_the_models_that_use_it() -> None:
    before, after = (
        codes(manifest.manifest()),
        codes(manifest.manifest(), dates=["2020-01-01", "x"]),
    )
    differ = {name for name in before if before[name].fingerprint != after[name].fingerprint}
    assert differ == {"gold.dim_dates"}


def test_a_macro_counts_for_every_model_that_dbt_says_uses_it() -> None:
    of = manifest.manifest()
    own = {key for key, one in of["macros"].items() if one["package_name"] == "lakehouse"}
    assert len(own) > 100
    direct = {key: set(node["depends_on"]["macros"]) for key, node in table_nodes().items()}
    uses = {key: with_all_called(of, macros) & own for key, macros in direct.items()}
    for macro in sorted(own):

        def edit(edited: Manifest, macro: str = macro) -> None:
            edited["macros"][macro]["macro_sql"] += " "

        users = {table_of(table_nodes()[key]) for key, used in uses.items() if macro in used}
        assert users <= changed(edit, only_own=True), macro


def with_all_called(of: Manifest, macros: set[str]) -> set[str]:
    """Macros and all that these call, as dbt has it."""
    ahead, seen = [*macros], set[str]()
    while ahead:
        macro = ahead.pop()
        if macro not in seen:
            seen.add(macro)
            ahead += of["macros"][macro]["depends_on"]["macros"]
    return seen


def test_an_unused_macro_of_somebody_changes_few_models() -> None:
    def edit(of: Manifest) -> None:
        of["macros"]["macro.lakehouse.multiset"]["macro_sql"] += " "

    assert changed(edit, only_own=True) <= {"silver.loans", "silver.loan_payments"}


def test_both_engines_have_the_same_fingerprints(tmp_path: Path) -> None:
    manifest.dbt("parse", "--quiet", "--target", "trino", "--target-path", str(tmp_path))
    on_trino = json.loads((tmp_path / "manifest.json").read_text())
    assert on_trino["metadata"]["adapter_type"] == "trino"
    assert codes(on_trino) == codes(manifest.manifest())
