"""A table of the source becomes a declaration, and its models in silver, made from its catalog.

What the source tells is copied: columns, types, key, comments. What it can't tell, which columns
are personal and what one without a comment means, is left, and named.
"""

import math
import re
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psycopg
import yaml

from lake import contract, manifest, source
from lake.errors import LakeError
from lake.manifest import PROJECT
from lake.names import lake_name, lake_names, numbered, parts, qualified
from lake.source.inspection import inspect, may_be_told, relations
from lake.types import canonical

HISTORY = {"op": "text", "is_valid": "boolean", "is_current": "boolean"} | dict.fromkeys(
    ("valid_from", "valid_to"), "timestamptz"
)
"""What a history says of a version, beside the columns of the source."""
QUARANTINE = {"rule": "text", "on_break": "text", "run_id": "text"} | dict.fromkeys(
    ("first_seen_at", "last_seen_at"), "timestamptz"
)
"""What a quarantine says of a row that breaks a rule."""
COPIES = {"_row_hash": "text", "_copies": "bigint"}
"""What the rows of a table without a key are told apart by, and how many there are of each."""
LANDED = {"_commit_lsn": "bigint", "_ordinal": "bigint"} | dict.fromkeys(
    ("_committed_at", "_ingested_at"), "timestamptz"
)


@dataclass(frozen=True)
class Column:
    """A column: its names in the lake and at the source; `type` as Postgres writes it."""

    name: str
    source_name: str
    type: str
    comment: str


@dataclass(frozen=True)
class Table:
    """A table to declare: as the source has it, and by its names in the lake.

    `entry` is its name in bronze, `model` that of its rows in silver, `words` of its description.
    `key` and `columns` are by their names in the lake; `left_out` are the source's columns that the
    WAL does not have.
    """

    qualified: str
    entry: str
    model: str
    words: str
    comment: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Scaffold:
    """The files that were written or added to, and what is left to do by hand, a line each."""

    files: Sequence[Path]
    left: Sequence[str]


def scaffold(name: str) -> Scaffold:
    """Declare a table of the source, and write the models of its rows, their history, the broken.

    A table without a key has rows, and no more.

    Raises LakeError where the source has no such table, or it is declared already; nothing is
    written then.
    """
    bronze = PROJECT / "models" / "bronze" / "bronze.yml"
    silver = PROJECT / "models" / "silver"
    with source.connect() as connection:
        table = _read(connection, *_parts(name), _declared(bronze))
        troubles = _troubles(connection, table)
    described = PROJECT / "models" / "bronze" / f"{table.entry}.md"
    written = {
        described: _words(table),
        silver / f"{table.model}.sql": _current_sql(table),
        silver / f"{table.model}.yml": _current_yml(table),
    }
    if table.key:
        written |= {
            silver / f"{table.model}_history.sql": _history_sql(table),
            silver / f"{table.model}_history.yml": _history_yml(table),
            silver / f"{table.model}_quarantine.sql": _quarantine_sql(table),
            silver / f"{table.model}_quarantine.yml": _quarantine_yml(table),
        }
    for path in written:
        if path.exists():
            raise LakeError(f"{path.relative_to(PROJECT.parent)} is there already")
    declared = _declare(bronze, table)
    for path, text in written.items():
        path.write_text(text)
    bronze.write_text(declared)
    return Scaffold([bronze, *written], [*troubles, *_left(table, described)])


def _parts(name: str) -> tuple[str, str]:
    """The schema and the table that are meant by a name, whose quotes a shell may have eaten."""
    for written in (name, f"public.{name}"):
        with suppress(ValueError):
            return parts(written)
    schema, _, bare = name.rpartition(".")
    return schema or "public", bare


def _declared(bronze: Path) -> dict[str, str]:
    """The tables of bronze that are declared, by name: what each is at the source."""
    loaded = yaml.safe_load(bronze.read_text())
    (tables,) = (one["tables"] for one in loaded["sources"] if one["name"] == "bronze")
    return {
        one["name"]: one.get("config", {}).get("meta", {}).get("source_table", "") for one in tables
    }


def _read(
    connection: psycopg.Connection, schema: str, name: str, declared: dict[str, str]
) -> Table:
    """The table as the source has it. Raises LakeError where it is none, or is declared."""
    written = qualified(schema, name)
    for entry, of in declared.items():
        if of == written:
            raise LakeError(f"models/bronze/bronze.yml declares {written} already, as `{entry}`")
    found = relations(connection, [(schema, name)]).get((schema, name))
    if found is None:
        said = "write it as `schema.table`, and '\"Quoted\"' where Postgres wants that"
        raise LakeError(f"the source has no table {written}: {said}")
    if found.root.kind not in ("r", "p"):
        raise LakeError(f"{written} is no table but a view or the like: no change of it is logged")
    if not found.columns:
        raise LakeError(f"{written} has no columns: there is nothing to capture")
    comments: dict[str, str] = dict(
        connection.execute(
            "select coalesce(a.attname::text, ''), d.description from pg_description as d"
            " left join pg_attribute as a on a.attrelid = d.objoid and a.attnum = d.objsubid"
            " and a.attnum > 0 where d.objoid = %s and d.classoid = 'pg_class'::regclass",
            [found.root.oid],
        ).fetchall()
    )
    version = connection.info.server_version
    landed = [column for column in found.columns if may_be_told(version, column)]
    names = lake_names([column.name for column in landed])
    columns = tuple(
        Column(
            names[column.name],
            column.name,
            canonical(column.type),
            " ".join(comments.get(column.name, "").split()),
        )
        for column in landed
    )
    entry = _free(schema, name, declared)
    return Table(
        written,
        entry,
        _free_model(entry),
        next(one for one in numbered(entry) if one not in contract.blocks(PROJECT)),
        " ".join(comments.get("", "").split()),
        tuple(names[column] for column in found.keys[0]) if found.keys else (),
        columns,
        tuple(column.name for column in found.columns if column not in landed),
    )


def _free(schema: str, name: str, declared: Container[str]) -> str:
    """A name in bronze that no table there has: the table's own, else with its schema."""
    readable = lake_name(name)
    wanted = [readable, *islice(numbered(lake_name(f"{schema}_{name}")), 99)]
    return next(one for one in wanted if one not in declared)


def _free_model(entry: str) -> str:
    """A name in silver that no model has: `customers` for `customer`."""
    models = {path.stem for path in (PROJECT / "models").glob("**/*.sql")}
    plural = entry if entry.endswith("s") else f"{entry}s"
    made = ("", "_history", "_quarantine")
    return next(
        one for one in numbered(plural) if models.isdisjoint(f"{one}{suffix}" for suffix in made)
    )


def _troubles(connection: psycopg.Connection, table: Table) -> list[str]:
    """What the source's owner is to do, or another than `lake scaffold` to decide."""
    columns = tuple(
        manifest.Column(column.name, column.type, column.source_name) for column in table.columns
    )
    schema, name = parts(table.qualified)
    declared = manifest.SourceTable(f"bronze.{table.entry}", schema, name, table.key, columns)
    try:
        found = inspect(connection, [declared]).troubles
    except LakeError as error:
        return str(error).splitlines()
    return [str(trouble) for trouble in found if not trouble.is_routine]


def _words(table: Table) -> str:
    """The descriptions, each once; what the source has no comment for is empty."""
    blocks = [(table.words, table.comment)]
    blocks += [(f"{table.words}__{column.name}", column.comment) for column in table.columns]
    return "".join(f"{{% docs {name} %}}{words}{{% enddocs %}}\n" for name, words in blocks)


def _entry(name: str, kind: str, words: str, indent: int, source_name: str = "") -> str:
    described = f"\"{{{{ doc('{words}') }}}}\""
    values = f"name: {_flow(name)}, data_type: {_flow(kind)}, description: {described}"
    if source_name not in ("", name):
        values += f", config: {{meta: {{source_column: {_flow(source_name)}}}}}"
    return f"{' ' * indent}- {{{values}}}\n"


def _flow(*texts: str) -> str:
    """Texts within YAML's braces or brackets: quoted where one would be something else, as `on`."""
    dumped: str = yaml.safe_dump(texts, default_flow_style=True, width=math.inf, allow_unicode=True)
    return dumped.strip().removeprefix("[").removesuffix("]")


def _declare(bronze: Path, table: Table) -> str:
    """The text of `bronze.yml` with the table after the last one; nothing else is touched."""
    text = bronze.read_text()
    sources = yaml.safe_load(text)["sources"]
    (position,) = (i for i, one in enumerate(sources) if one["name"] == "bronze")
    tables = _child(_child(yaml.compose(text, Loader=yaml.SafeLoader), "sources"), position)
    listed = _child(tables, "tables")
    lines = text.splitlines(keepends=True)
    end = listed.end_mark.line + (1 if listed.end_mark.column else 0)
    while not lines[end - 1].strip():
        end -= 1
    dash, of = " " * listed.start_mark.column, _flow(table.qualified)
    entry = (
        f"\n{dash}- name: {table.entry}\n"
        f"{dash}  description: \"{{{{ doc('{table.words}') }}}} Bulk snapshots.\"\n"
        f"{dash}  config:\n"
        f"{dash}    meta: {{source_table: {of}, key: [{_flow(*table.key)}]}}\n"
        f"{dash}  columns:\n"
    )
    for column in table.columns:
        words = f"{table.words}__{column.name}"
        kind = _SHORT.get(column.type, column.type)
        entry += _entry(column.name, kind, words, len(dash) + 4, column.source_name)
    return "".join([*lines[:end], entry, *lines[end:]])


def _child(node: yaml.Node | None, step: str | int) -> yaml.Node:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        found: yaml.Node = node.value[step]
        return found
    assert isinstance(node, yaml.MappingNode)
    below: yaml.Node = next(value for key, value in node.value if key.value == step)
    return below


Own = dict[str, str]
"""The columns of a model that are the lake's own, with their types."""
POSITION = ("_commit_lsn", "_ordinal")
_SHORT = {"timestamp with time zone": "timestamptz", "timestamp without time zone": "timestamp"}


def _contract_type(postgres: str) -> str:
    """A type of Postgres's as a contract of silver names it."""
    kind = _SHORT.get(postgres, postgres)
    if decimal := re.fullmatch(r"numeric\((\d+),(\d+)\)", kind):
        return kind if int(decimal.group(2)) <= int(decimal.group(1)) <= 38 else "text"
    return kind if kind in contract.TYPES else "text"


def _current_sql(table: Table) -> str:
    if not table.key:
        current = f"{{{{ current_state('{table.entry}') }}}}\n"
        return "{{ config(unique_key='_row_hash') }}\n\n" + current
    key = repr(list(table.key)) if len(table.key) > 1 else repr(table.key[0])
    return (
        f"{{{{ config(unique_key={key}) }}}}\n\n"
        f"{{{{ current_state('{table.entry}', ref('{table.model}_history')) }}}}\n"
    )


def _history_sql(table: Table) -> str:
    dated = any(
        (c.name, c.type) == ("updated_at", "timestamp with time zone") for c in table.columns
    )
    written_at = ", written_at='updated_at'" if dated else ""
    return (
        "{{\n    config(\n"
        f"        unique_key={[*table.key, *POSITION]!r},\n"
        "        changed_by=['is_current', 'valid_to'],\n"
        "        partition_by=['is_current'],\n"
        "    )\n}}\n\n"
        f"{{{{ history('{table.entry}'{written_at}) }}}}\n"
    )


def _quarantine_sql(table: Table) -> str:
    return (
        "{{\n    config(\n"
        f"        unique_key={[*table.key, 'rule']!r},\n"
        "        merge_exclude_columns=['first_seen_at', 'run_id'],\n"
        "    )\n}}\n\n"
        f"{{{{ quarantine('{table.entry}', ref('{table.model}_history')) }}}}\n"
    )


def _yml(table: Table, suffix: str, words: str, meta: str, key: Sequence[str], own: Own) -> str:
    config = f"    config:\n      meta: {{{meta}}}\n" if meta else ""
    of_source = [
        _entry(column.name, _contract_type(column.type), f"{table.words}__{column.name}", 6)
        for column in table.columns
    ]
    of_lake = [_entry(name, kind, name, 6) for name, kind in (own | LANDED).items()]
    return (
        "models:\n"
        f"  - name: {table.model}{suffix}\n"
        f"    description: \"{{{{ doc('{table.words}') }}}} {words}\"\n"
        f"{config}"
        "    data_tests:\n"
        "      - is_key:\n"
        f"          arguments: {{columns: [{_flow(*key)}]}}\n"
        "    columns:\n" + "".join([*of_source, *of_lake])
    )


def _current_yml(table: Table) -> str:
    if not table.key:
        words = "As they are now, each row that differs from all others once."
        return _yml(table, "", words, "", ["_row_hash"], COPIES)
    return _yml(table, "", "As they are now, and hold the rules.", "", table.key, {})


def _history_yml(table: Table) -> str:
    words, meta = "Every version, with the time for which it held.", f"history_of: {table.model}"
    return _yml(table, "_history", words, meta, (*table.key, *POSITION), HISTORY)


def _quarantine_yml(table: Table) -> str:
    words, meta = "Those that break a rule, once for each.", f"quarantine_of: {table.model}"
    return _yml(table, "_quarantine", words, meta, (*table.key, "rule"), QUARANTINE)


def _left(table: Table, described: Path) -> list[str]:
    bare = [column.name for column in table.columns if not column.comment]
    bare += [] if table.comment else ["the table itself"]
    left = []
    if bare:
        where = described.relative_to(PROJECT.parent)
        left.append(f"describe in {where}: {', '.join(bare)} (`lake check` tells what is not)")
    left.append(
        "mark the columns of bronze.yml that tell of a person: `config: {meta: {personal: true}}`"
    )
    if table.key:
        rules = f"`config.meta.rules` in {table.model}.yml"
        left.append(f"rules that a row must hold, if there are any: {rules}")
    if table.left_out:
        left.append(
            f"compute in a model, since the WAL does not have them: {', '.join(table.left_out)}"
        )
    return left
