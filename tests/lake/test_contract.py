"""A mistake in the project is told with file and line, before anything runs; no stack is needed."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lake import contract, manifest
from lake.errors import LakeError
from lake.settings import ROOT, environment

SILVER, BRONZE = "models/silver", "models/bronze/bronze.yml"
EXPOSURES = "models/exposures.yml"
LOANS, PAYMENTS = f"{SILVER}/loans.yml", f"{SILVER}/loan_payments.yml"
AGE = "age_plausible: person_age between 18 and 100"
MISTAKES = [
    (LOANS, AGE, f"\t{AGE}", "no YAML: found character"),
    (
        PAYMENTS,
        "description: >",
        "descripton: >",
        "loan_payments.descripton: there is no such key; did you mean `description`?",
    ),
    (
        PAYMENTS,
        "data_type: date",
        "data_type: dat",
        "loan_payments.due_on: `dat` is no type of a contract; did you mean `date`?",
    ),
    (
        PAYMENTS,
        "name: channel, data_type: text, ",
        "name: channel, ",
        "loan_payments.channel: data_type is missing, and the contract is of names and types",
    ),
    (PAYMENTS, "name: due_on", "name: installment", "loan_payments.installment: is declared twice"),
    (
        PAYMENTS,
        "columns: [loan_id, installment]",
        "columns: [loan_id, instalment]",
        "loan_payments.is_key: `instalment` is no column that it declares; "
        "did you mean `installment`?",
    ),
    (
        PAYMENTS,
        "- name: loan_payments",
        "- name: loan_payment",
        "loan_payment: there is no loan_payment.sql; did you mean `loan_payments`?",
    ),
    (
        PAYMENTS,
        "doc('due_on')",
        "doc('due_no')",
        "loan_payments.due_on: there is no description `due_no`; did you mean `due_on`?",
    ),
    (
        LOANS,
        AGE,
        "age_plausible: persn_age between 18 and 100",
        "loans.rules.age_plausible: `persn_age` is no column that loans declares; "
        "did you mean `person_age`?",
    ),
    (
        LOANS,
        AGE,
        "age_plausible: person_age between 18 and",
        "loans.rules.age_plausible: no condition in SQL: ",
    ),
    (
        LOANS,
        AGE,
        "age_plausible: person_age + 1",
        "loans.rules.age_plausible: `person_age + 1` is no condition",
    ),
    (
        LOANS,
        AGE,
        "age_plausible: {condition: person_age > 18, on_break: halt}",
        "loans.rules.age_plausible.on_break: must be `quarantine`, `warn` or `stop`",
    ),
    (
        LOANS,
        AGE,
        "age_plausible: {on_break: warn}",
        "loans.rules.age_plausible.condition: is missing",
    ),
    (LOANS, f"{AGE}\n", f"{AGE}\n          {AGE}\n", "age_plausible: stands here twice"),
    (
        LOANS,
        "    columns:\n      - {name: loan_id",
        "      - is_key: {arguments: {columns: [loan_id]}}\n    columns:\n      - {name: loan_id",
        "loans.is_key: it has a key already; test what else is unique with dbt's `unique`",
    ),
    (
        LOANS,
        "        rules:\n",
        "        rule:\n",
        "loans.rule: there is no such key; did you mean `rules`?",
    ),
    (
        LOANS,
        "        rules:\n",
        "        code_change: merge\n        rules:\n",
        "loans.code_change: must be `rebuild`, `replay` or `new_rows`",
    ),
    (
        f"{SILVER}/loans_history.yml",
        "history_of: loans",
        "history_of: loan",
        "loans_history.history_of: there is no model `loan`; did you mean `loans`?",
    ),
    (
        f"{SILVER}/loans_quarantine.yml",
        "quarantine_of: loans",
        "quarantine_of: loan",
        "loans_quarantine.quarantine_of: there is no model `loan`; did you mean `loans`?",
    ),
    (
        EXPOSURES,
        "loans_quarantine: [loan_id, ",
        "loans_quarantine: [loan, ",
        "loan_approval_report.columns: `loan` is no column of loans_quarantine; "
        "did you mean `loan_id`?",
    ),
    (
        EXPOSURES,
        "          loans_quarantine: [",
        "          loans: [",
        "loan_approval_report.columns: `loans` is no model that it depends on",
    ),
    (
        BRONZE,
        "key: [loan_id]",
        "key: [id]",
        "loan.key: `id` is no column that it declares",
    ),
    (
        BRONZE,
        "source_table: public.loan, key: [loan_id]",
        "source_table: public.loan",
        "loan: key must list the columns that are unique at the source",
    ),
    (
        BRONZE,
        "source_table: public.loan,",
        "source_table: loan,",
        "loan.source_table: must be the table with its schema, such as `public.loan`",
    ),
    (
        BRONZE,
        "source_table: public.loan,",
        "source_table: '\"public\".loan',",
        "loan.source_table: write it as `public.loan`",
    ),
    (
        BRONZE,
        "source_table: public.loan_payment,",
        "source_table: public.loan,",
        "loan_payment: the source's `public.loan` is declared already, at dbt_project/models/",
    ),
    (
        BRONZE,
        "- name: loan_payment",
        "- name: loan",
        "loan: bronze's `loan` is declared already, at dbt_project/models/bronze/bronze.yml:",
    ),
    (
        BRONZE,
        "- name: loan_payment",
        "- name: Payment",
        "Payment: the lake's own name of it must be of lower-case letters, digits and _",
    ),
    (
        BRONZE,
        "key: [loan_id]}",
        "key: [loan_id], truncate: skip}",
        "bronze.loan.truncate: must be `apply`, `ignore` or `halt`",
    ),
    (
        BRONZE,
        "name: person_age,",
        "name: PersonAge,",
        "loan.PersonAge: the lake's own name of it must be of lower-case letters, digits and _; "
        "declare `source_column: PersonAge` in its `config.meta`",
    ),
    (
        BRONZE,
        "name: person_age,",
        "name: valid_to,",
        "loan.valid_to: is a name of the lake's own",
    ),
    (
        BRONZE,
        "{meta: {personal: true}}}\n          - {name: person_gender",
        "{meta: {source_column: loan_id}}}\n          - {name: person_gender",
        "loan.person_age: the source's `loan_id` is declared already, as loan_id",
    ),
    (
        BRONZE,
        'data_type: "numeric(14,2)"',
        'data_type: "numeric(14)"',
        "bronze.loan.person_income: write it as numeric(14,0), as Postgres does",
    ),
    (
        BRONZE,
        "name: loan_id, data_type: bigint,",
        "name: loan_id,",
        "bronze.loan.loan_id: data_type must be the column's type in Postgres",
    ),
    (
        BRONZE,
        "name: person_age, data_type: integer, description: \"{{ doc('person_age') }}\", "
        "config: {meta: {personal: true}}",
        "name: person_age, data_type: integer, description: \"{{ doc('person_age') }}\", "
        "config: {meta: {personel: true}}",
        "bronze.loan.person_age.personel: there is no such key; did you mean `personal`?",
    ),
    (
        BRONZE,
        'name: loan_amnt, data_type: "numeric(12,2)"',
        "name: loan_amnt, data_type: numeric(12,2)",
        "bronze.loan.loan_amnt.2): there is no such key; quote a type that has a comma",
    ),
    (
        BRONZE,
        "period: minute",
        "period: minutes",
        "bronze.changes.freshness.warn_after.period: must be `minute`, `hour` or `day`",
    ),
    (
        f"{SILVER}/loans.sql",
        "ref('loans_history')",
        "ref('loan_history')",
        "there is no model `loan_history`; did you mean `loans_history`?",
    ),
    (
        f"{SILVER}/loans.sql",
        "current_state(",
        "curent_state(",
        "there is no macro `curent_state`; did you mean `current_state`?",
    ),
    (f"{SILVER}/loans.sql", "}}\n\n{{", "}}\n\n{{ }", "no Jinja: unexpected"),
    (
        f"{SILVER}/loans.sql",
        "config(unique_key='loan_id')",
        "config(unique_key='loanid')",
        "loans: unique_key: `loanid` is no column that it declares; did you mean `loan_id`?",
    ),
    (
        "models/gold/dim_dates.sql",
        "changed_by=['day_of_week']",
        "changed_by=['day_of_wek']",
        "dim_dates: changed_by: `day_of_wek` is no column that it declares; did you mean",
    ),
    (
        f"{SILVER}/loans.sql",
        "config(unique_key='loan_id')",
        "config()",
        "loans: unique_key is missing: rows are merged by it; or it is a `table`",
    ),
    (
        f"{SILVER}/loan_payments.sql",
        "unique_key=['loan_id', 'installment']",
        "unique_key='loan_id'",
        "loan_payments: unique_key: no `is_key` of loan_id tests it: a null or a double in it",
    ),
    (
        f"{SILVER}/loans.sql",
        "config(unique_key='loan_id')",
        "config(unique_key='loan_id', materialized='view')",
        "loans: `view` is none that the lake can branch, judge and publish: `ephemeral` is a",
    ),
    (
        PAYMENTS,
        "- name: loan_payments\n",
        "- name: loan_payments\n    config: {materialized: materialized_view}\n",
        "loan_payments: `materialized_view` is none that the lake can branch, judge and publish: ",
    ),
    (
        "dbt_project.yml",
        "    +materialized: incremental",
        "    +materialized: view",
        "`view` is none that the lake can branch, judge and publish",
    ),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return manifest.copy_project(tmp_path / "dbt_project")


def test_the_project_has_no_mistake_and_describes_all(project: Path) -> None:
    assert contract.mistakes(project) == []
    assert contract.unwritten(project) == []


@pytest.mark.parametrize(("file", "right", "wrong", "said"), MISTAKES)
def test_a_mistake_is_told_with_file_and_line(
    project: Path, file: str, right: str, wrong: str, said: str
) -> None:
    path = project / file
    text = path.read_text()
    before, _, after = text.partition(right)
    assert after, "the mistake is of something that is no longer there"
    path.write_text(before + wrong + after)
    pairs = enumerate(zip(right, wrong, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), min(len(right), len(wrong)))
    line = (before + wrong[:shared]).count("\n") + 1
    found = [str(one) for one in contract.mistakes(project)]
    assert any(one.startswith(f"dbt_project/{file}:{line}: {said}") for one in found), found


def test_dbt_by_itself_tells_what_it_would_pass_over(project: Path) -> None:
    path = project / LOANS
    path.write_text(path.read_text().replace(AGE, "age_plausible: persn_age between 18 and 100"))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dbt")), "build"],
        env=os.environ | environment(),
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "silver/loans.yml:10: loans.rules.age_plausible: `persn_age` is no column" in done.stdout


def test_a_model_without_a_contract_and_two_of_one_name_are_told(project: Path) -> None:
    (project / "models/gold/stray.sql").write_text("select 1 as one")
    (project / "models/gold/loans.sql").write_text("select 1 as one")
    (project / "models/aside.sql").write_text("select 1 as one")
    assert [str(one) for one in contract.mistakes(project)] == [
        "dbt_project/models/aside.sql:1: aside: models are in models/silver/ or models/gold/, "
        "which the gates judge",
        "dbt_project/models/aside.sql:1: aside: no .yml declares it, so it has no contract",
        "dbt_project/models/gold/loans.sql:1: loans: two tables have this name",
        "dbt_project/models/gold/stray.sql:1: stray: no .yml declares it, so it has no contract",
        "dbt_project/models/silver/loans.sql:1: loans: two tables have this name",
    ]


def test_a_model_in_python_is_told(project: Path) -> None:
    (project / "models/gold/stray.py").write_text("def model(dbt, session): ...")
    assert [str(one) for one in contract.mistakes(project)] == [
        "dbt_project/models/gold/stray.py:1: stray: models are in SQL, which both engines build; "
        "this is Python"
    ]


SEED = """
seeds:
  - name: rates
    description: The rates.
    columns:
      - {name: code, data_type: text, description: Its code.}
      - {name: rate, data_type: "numeric(4,2)", description: The rate.}
      - {name: day, data_type: date, description: Since when.}
"""
SNAPSHOT = """
snapshots:
  - name: rates_history
    description: What they were.
    relation: ref('rates')
    config: {unique_key: code, strategy: check, check_cols: [rate]}
"""


def add_kinds(project: Path, rows: str, seed: str = SEED, snapshot: str = SNAPSHOT) -> None:
    for kind, name, text in (
        ("seeds", "rates.csv", rows),
        ("seeds", "rates.yml", seed),
        ("snapshots", "rates_history.yml", snapshot),
    ):
        (project / kind / "gold").mkdir(parents=True, exist_ok=True)
        (project / kind / "gold" / name).write_text(text)


def test_a_seed_s_values_are_of_their_types_or_told_line_by_line(project: Path) -> None:
    add_kinds(project, 'code,rate,day\n007,1.50,2026-01-31\n\'ä,,null\n"a\nb",-99.9,\n')
    assert contract.mistakes(project) == []
    assert contract.unwritten(project) == []
    add_kinds(project, 'code,rate,day\nx,1.505,2026-02-30\ny,100\nz,100,\n"a\rb",1e1,2026-1-1\n')
    file = "dbt_project/seeds/gold/rates.csv"
    assert [str(one) for one in contract.mistakes(project)] == [
        f"{file}:2: rates: day: `2026-02-30` is no date",
        f"{file}:2: rates: rate: `1.505` has more digits than numeric(4,2)",
        f"{file}:3: rates: 2 values for 3 columns",
        f"{file}:4: rates: rate: `100` has more digits than numeric(4,2)",
        f"{file}:6: rates: code: a carriage return, which dbt would read as \\n",
        f"{file}:6: rates: day: `2026-1-1` is no date",
        f"{file}:6: rates: rate: `1e1` is no numeric(4,2)",
    ]
    for rows, said in (
        ("code,day\n", "its columns are code, day, and its .yml declares code, rate, day"),
        ("", "its columns are none, and its .yml declares code, rate, day"),
        ("x" * 2**20 + "\n", "a seed has at most 1 MiB; "),
    ):
        add_kinds(project, rows)
        (only,) = contract.mistakes(project)
        assert str(only).startswith(f"{file}:1: rates: {said}")


def test_the_docs_seed_and_snapshot_are_without_a_mistake(project: Path) -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    seed, snapshot = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    add_kinds(project, "grade,rate\nA,7.25\n", seed, snapshot)
    assert [*contract.mistakes(project), *contract.unwritten(project)] == []


def test_what_is_no_seed_or_snapshot_of_the_lake_s_is_told(project: Path) -> None:
    rows = "code,rate,day\n"
    seed = SEED.replace("columns:", "config: {column_types: {code: text}}\n    columns:")
    add_kinds(project, rows, seed, SNAPSHOT.replace("[rate]", "[rte]"))
    (project / "snapshots" / "old.sql").write_text("{% snapshot old %}{% endsnapshot %}")
    (project / "seeds" / "lone.csv").write_text("a\n")
    assert [str(one) for one in contract.mistakes(project)] == [
        "dbt_project/seeds/gold/rates.yml:5: rates.column_types: "
        "a seed's types are the `data_type` of its columns",
        "dbt_project/seeds/lone.csv:1: lone: seeds are in seeds/silver/ or seeds/gold/, "
        "which the gates judge",
        "dbt_project/snapshots/gold/rates_history.yml:6: rates_history.check_cols: "
        "`rte` is no column of rates; did you mean `rate`?",
        "dbt_project/snapshots/old.sql:1: old: declare a snapshot in a .yml, by `relation`, "
        "`unique_key` and `strategy`; what it selects is a model, which may be ephemeral",
    ]
    for path in ("snapshots/old.sql", "seeds/lone.csv"):
        (project / path).unlink()
    for before, after, said in (
        (
            "ref('rates')",
            "ref('rats')",
            ".relation: there is no model `rats`; did you mean `rates`?",
        ),
        ("ref('rates')", "rates", ".relation: must be ref('a model') or source("),
        ("strategy: check", "strategy: timestamp", ".strategy: `timestamp` needs `updated_at`"),
        ("strategy: check", "strategy: chek", ".strategy: must be `timestamp` or `check`"),
        ("unique_key: code, ", "", ".unique_key: is missing"),
        ("unique_key: code", "unique_key: [code, x]", ".unique_key: `x` is no column of rates"),
    ):
        add_kinds(project, rows, snapshot=SNAPSHOT.replace(before, after))
        found = [str(one) for one in contract.mistakes(project)]
        assert [f"rates_history{said}" in one for one in found] == [True], found


def test_settings_of_a_folder_that_is_not_there_are_told(project: Path) -> None:
    declared = project / "dbt_project.yml"
    declared.write_text(declared.read_text().replace("    gold: {+access", "    golden: {+access"))
    (only,) = contract.mistakes(project)
    assert "there is no folder models/golden; a setting begins with `+`" in str(only)
    declared.write_text(declared.read_text() + "\n\tvars: {}\n")
    (only,) = contract.mistakes(project)
    assert str(only).startswith("dbt_project/dbt_project.yml:")
    assert ": no YAML: found" in str(only)


def test_rules_that_nothing_applies_are_told(project: Path) -> None:
    for name in ("loans_history", "loans_quarantine"):
        path = project / SILVER / f"{name}.yml"
        text = path.read_text()
        start = text.index("    config:\n      meta: ")
        path.write_text(text[:start] + text[text.index("    data_tests:") :])
    assert [str(one).partition("loans.rules: ")[2] for one in contract.mistakes(project)] == [
        "they need a model with `meta: {history_of: loans}` (docs/quality.md)",
        "they need a model with `meta: {quarantine_of: loans}` (docs/quality.md)",
    ]


def test_what_is_left_to_write_is_told_where_it_is_to_be_written(project: Path) -> None:
    words = project / "models/columns.md"
    text = words.read_text()
    start = text.index("{% docs due_on %}")
    block = text[start : text.index("\n", start)]
    words.write_text(text.replace(block, "{% docs due_on %}{% enddocs %}"))
    line = text.count("\n", 0, start) + 1
    (only,) = contract.unwritten(project)
    assert str(only) == f"dbt_project/models/columns.md:{line}: not described: due_on"


def test_all_mistakes_are_told_at_once_and_a_whole_project_is_not_read_twice(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "PROJECT", project)
    manifest.check()
    monkeypatch.setattr(contract, "mistakes", lambda _: pytest.fail("was read again"))
    manifest.check()
    monkeypatch.undo()
    monkeypatch.setattr(manifest, "PROJECT", project)
    time.sleep(0.01)  # the clock of files is coarse
    for file in (LOANS, PAYMENTS):
        path = project / file
        path.write_text(path.read_text().replace("bigint", "bigin"))
    with pytest.raises(LakeError) as raised:
        manifest.check()
    said = str(raised.value).splitlines()
    assert {line.partition(":")[0] for line in said} == {
        f"dbt_project/{LOANS}",
        f"dbt_project/{PAYMENTS}",
    }
    assert len(said) == 6
