"""A table of the source becomes a declaration, and its models in silver, made from its catalog.

What the source tells is copied: columns, types, key, comments. What it can't tell, which columns
are personal and what one without a comment means, is left, and named.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import yaml

from lake import contract, source
from lake.errors import LakeError
from lake.manifest import PROJECT

HISTORY = {"op": "text", "is_valid": "boolean", "is_current": "boolean"} | dict.fromkeys(
    ("valid_from", "valid_to"), "timestamptz"
)
"""What a history says of a version, beside the columns of the source."""
QUARANTINE = {"rule": "text", "on_break": "text", "run_id": "text"} | dict.fromkeys(
    ("first_seen_at", "last_seen_at"), "timestamptz"
)
"""What a quarantine says of a row that breaks a rule."""
LANDED = {"_lsn": "bigint", "_prior_commit_lsn": "bigint"} | dict.fromkeys(
    ("_committed_at", "_ingested_at"), "timestamptz"
)


@dataclass(frozen=True)
class Column:
    """A column as the source has it; `type` as Postgres writes it."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True)
class Table:
    """A table as the source has it; `logs_rows` says that its updates come whole."""

    schema: str
    name: str
    comment: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    logs_rows: bool

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def model(self) -> str:
        """The name of its rows in silver."""
        return self.name if self.name.endswith("s") else f"{self.name}s"


@dataclass(frozen=True)
class Scaffold:
    """The files that were written or added to, and what is left to do by hand, a line each."""

    files: Sequence[Path]
    left: Sequence[str]


def scaffold(name: str) -> Scaffold:
    """Declare a table of the source, and write the models of its rows, their history, the broken.

    Raises LakeError where the source has no such table, it can't be captured as it is, or a file or
    a declaration is there already; nothing is written then.
    """
    schema, _, bare = name.rpartition(".")
    with source.connect() as connection:
        table = _read(connection, schema or "public", bare)
    usable = [column for column in table.columns if _is_usable(column.name)]
    for column in table.key:
        if column not in [one.name for one in usable]:
            raise LakeError(f"{table.qualified}: its key has a column `{column}`, {_UNUSABLE}")
    bronze = PROJECT / "models" / "bronze" / "bronze.yml"
    silver = PROJECT / "models" / "silver"
    described = PROJECT / "models" / "bronze" / f"{table.name}.md"
    written = {
        described: _words(table, usable),
        silver / f"{table.model}.sql": _current_sql(table),
        silver / f"{table.model}.yml": _current_yml(table, usable),
        silver / f"{table.model}_history.sql": _history_sql(table, usable),
        silver / f"{table.model}_history.yml": _history_yml(table, usable),
        silver / f"{table.model}_quarantine.sql": _quarantine_sql(table),
        silver / f"{table.model}_quarantine.yml": _quarantine_yml(table, usable),
    }
    for path in written:
        if path.exists():
            raise LakeError(f"{path.relative_to(PROJECT.parent)} is there already")
    declared = _declare(bronze, table, usable)
    for path, text in written.items():
        path.write_text(text)
    bronze.write_text(declared)
    return Scaffold([bronze, *written], _left(table, usable, described))


_UNUSABLE = "whose name a model can't have (lower-case letters, digits and _, and none of its own)"


def _is_usable(name: str) -> bool:
    own = (*HISTORY, *QUARANTINE, *LANDED, "_deleted", "_op")
    return re.fullmatch("[a-z_][a-z0-9_]*", name) is not None and name not in own


def _read(connection: psycopg.Connection, schema: str, name: str) -> Table:
    found = connection.execute(
        """
        select c.oid, coalesce(obj_description(c.oid, 'pg_class'), ''), c.relreplident = 'f'
        from pg_class as c
        inner join pg_namespace as n on c.relnamespace = n.oid
        where n.nspname = %s and c.relname = %s and c.relkind = 'r'
        """,
        [schema, name],
    ).fetchone()
    if found is None:
        raise LakeError(f"the source has no table {schema}.{name}: say it as `schema.table`")
    oid, comment, logs_rows = found
    columns = connection.execute(
        """
        select
            attname, format_type(atttypid, atttypmod), coalesce(col_description(%s, attnum), '')
        from pg_attribute
        where attrelid = %s and attnum > 0 and not attisdropped
        order by attnum
        """,
        [oid, oid],
    ).fetchall()
    key = connection.execute(
        """
        select a.attname
        from pg_index as i
        cross join unnest(i.indkey) with ordinality as k (attnum, position)
        inner join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = %s and i.indisprimary
        order by k.position
        """,
        [oid],
    ).fetchall()
    if not key:
        raise LakeError(f"{schema}.{name} has no primary key: add one, a row is known by it")
    return Table(
        schema,
        name,
        " ".join(comment.split()),
        tuple(column for (column,) in key),
        tuple(Column(n, kind, " ".join(words.split())) for n, kind, words in columns),
        logs_rows,
    )


def _words(table: Table, columns: Sequence[Column]) -> str:
    """The descriptions, each once; what the source has no comment for is empty."""
    blocks = [(table.name, table.comment)]
    blocks += [(f"{table.name}__{column.name}", column.comment) for column in columns]
    return "".join(f"{{% docs {name} %}}{words}{{% enddocs %}}\n" for name, words in blocks)


def _entry(name: str, kind: str, words: str, indent: int) -> str:
    described = f"\"{{{{ doc('{words}') }}}}\""
    values = f"name: {_flow(name)}, data_type: {_flow(kind)}, description: {described}"
    return f"{' ' * indent}- {{{values}}}\n"


def _flow(*texts: str) -> str:
    """Texts within YAML's braces or brackets: quoted where one would be something else, as `on`."""
    dumped: str = yaml.safe_dump(texts, default_flow_style=True, width=math.inf)
    return dumped.strip().removeprefix("[").removesuffix("]")


def _declare(bronze: Path, table: Table, columns: Sequence[Column]) -> str:
    """The text of `bronze.yml` with the table after the last one; nothing else is touched."""
    text = bronze.read_text()
    where = bronze.relative_to(PROJECT.parent)
    loaded = yaml.safe_load(text)
    (position,) = (i for i, one in enumerate(loaded["sources"]) if one["name"] == "bronze")
    for one in loaded["sources"][position]["tables"]:
        of = one.get("config", {}).get("meta", {}).get("source_table")
        if table.qualified == of or table.name == one["name"]:
            raise LakeError(f"{where} declares `{one['name']}` already, as {of or 'its own'}")
    tables = _child(_child(yaml.compose(text, Loader=yaml.SafeLoader), "sources"), position)
    listed = _child(tables, "tables")
    lines = text.splitlines(keepends=True)
    end = listed.end_mark.line + (1 if listed.end_mark.column else 0)
    while not lines[end - 1].strip():
        end -= 1
    dash = " " * listed.start_mark.column
    entry = (
        f"\n{dash}- name: {table.name}\n"
        f"{dash}  description: \"{{{{ doc('{table.name}') }}}} Bulk snapshots.\"\n"
        f"{dash}  config:\n"
        f"{dash}    meta: {{source_table: {table.qualified}, key: [{_flow(*table.key)}]}}\n"
        f"{dash}  columns:\n"
    )
    for column in columns:
        words = f"{table.name}__{column.name}"
        kind = _SHORT.get(column.type, column.type)
        entry += _entry(column.name, kind, words, len(dash) + 4)
    return "".join([*lines[:end], entry, *lines[end:]])


def _child(node: yaml.Node | None, step: str | int) -> yaml.Node:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        found: yaml.Node = node.value[step]
        return found
    assert isinstance(node, yaml.MappingNode)
    below: yaml.Node = next(value for key, value in node.value if key.value == step)
    return below


_SHORT = {"timestamp with time zone": "timestamptz", "timestamp without time zone": "timestamp"}


def _contract_type(postgres: str) -> str:
    """A type of Postgres's as a contract of silver names it."""
    kind = _SHORT.get(postgres, postgres)
    if decimal := re.fullmatch(r"numeric\((\d+),(\d+)\)", kind):
        return kind if int(decimal.group(1)) <= 38 else "text"
    return kind if kind in contract.TYPES else "text"


def _current_sql(table: Table) -> str:
    key = repr(list(table.key)) if len(table.key) > 1 else repr(table.key[0])
    return (
        f"{{{{ config(unique_key={key}) }}}}\n\n"
        f"{{{{ current_state('{table.name}', ref('{table.model}_history')) }}}}\n"
    )


def _history_sql(table: Table, columns: Sequence[Column]) -> str:
    dated = any((c.name, c.type) == ("updated_at", "timestamp with time zone") for c in columns)
    written_at = ", written_at='updated_at'" if dated else ""
    return (
        "{{\n    config(\n"
        f"        unique_key={[*table.key, '_lsn']!r},\n"
        "        changed_by=['is_current', 'valid_to'],\n"
        "        partition_by=['is_current'],\n"
        "    )\n}}\n\n"
        f"{{{{ history('{table.name}'{written_at}) }}}}\n"
    )


def _quarantine_sql(table: Table) -> str:
    return (
        "{{\n    config(\n"
        f"        unique_key={[*table.key, 'rule']!r},\n"
        "        merge_exclude_columns=['first_seen_at', 'run_id'],\n"
        "    )\n}}\n\n"
        f"{{{{ quarantine('{table.name}', ref('{table.model}_history')) }}}}\n"
    )


def _yml(
    table: Table, suffix: str, words: str, meta: str, key: Sequence[str], columns: Sequence[str]
) -> str:
    config = f"    config:\n      meta: {{{meta}}}\n" if meta else ""
    return (
        "models:\n"
        f"  - name: {table.model}{suffix}\n"
        f"    description: \"{{{{ doc('{table.name}') }}}} {words}\"\n"
        f"{config}"
        "    data_tests:\n"
        "      - is_key:\n"
        f"          arguments: {{columns: [{_flow(*key)}]}}\n"
        "    columns:\n" + "".join(columns)
    )


def _listed(table: Table, columns: Sequence[Column], own: dict[str, str]) -> list[str]:
    """The columns of a model: the source's, its own, and where they were landed."""
    of_source = [
        _entry(column.name, _contract_type(column.type), f"{table.name}__{column.name}", 6)
        for column in columns
    ]
    return of_source + [_entry(name, kind, name, 6) for name, kind in (own | LANDED).items()]


def _current_yml(table: Table, columns: Sequence[Column]) -> str:
    words = "As they are now, and hold the rules."
    return _yml(table, "", words, "", table.key, _listed(table, columns, {}))


def _history_yml(table: Table, columns: Sequence[Column]) -> str:
    words = "Every version, with the time for which it held."
    key, listed = (*table.key, "_lsn"), _listed(table, columns, HISTORY)
    return _yml(table, "_history", words, f"history_of: {table.model}", key, listed)


def _quarantine_yml(table: Table, columns: Sequence[Column]) -> str:
    words = "Those that break a rule, once for each."
    key, listed = (*table.key, "rule"), _listed(table, columns, QUARANTINE)
    return _yml(table, "_quarantine", words, f"quarantine_of: {table.model}", key, listed)


def _left(table: Table, columns: Sequence[Column], described: Path) -> list[str]:
    names = {column.name for column in columns}
    bare = [column.name for column in columns if not column.comment]
    bare += [] if table.comment else ["the table itself"]
    left = []
    if not table.logs_rows:
        left.append(
            f"have the source log whole rows: `alter table {table.qualified} replica identity full`"
        )
    if bare:
        where = described.relative_to(PROJECT.parent)
        left.append(f"describe in {where}: {', '.join(bare)} (`lake check` tells what is not)")
    left.append(
        "mark the columns of bronze.yml that tell of a person: `config: {meta: {personal: true}}`"
    )
    left.append(
        f"rules that a row must hold, if there are any: `config.meta.rules` in {table.model}.yml"
    )
    if out := [column.name for column in table.columns if column.name not in names]:
        left.append(f"left out of silver, {_UNUSABLE}: {', '.join(out)}")
    return left
