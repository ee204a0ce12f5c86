"""The dbt project as the contract: every mistake in it, with file and line, before anything runs.

dbt finds some of them late, and passes over others: a misspelt key, a rule of a column that is not
there, YAML for a model that is not there. Read here are the files themselves, for their lines.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from lake import kinds, seeds
from lake.names import LAKE_NAME, OWN, parts, qualified
from lake.settings import BUILT

TYPES = (
    "smallint",
    "integer",
    "bigint",
    "real",
    "double precision",
    "boolean",
    "text",
    "date",
    "bytea",
    "timestamp",
    "timestamptz",
)
"""The types of a contract, beside `numeric(p,s)`; what has no equal in Iceberg is text there."""
_ALIASES = ("int2", "int", "int4", "int8", "float4", "float8", "bool")
_SPELT_OUT = ("timestamp without time zone", "timestamp with time zone")
_DECIMAL = re.compile(r"(numeric|decimal) ?\( ?\d+ ?, ?\d+ ?\)")
LONGEST = 200
"""So many runs are looked back on at most."""
_WHOLE = re.compile(r"(numeric|decimal) ?\( ?(\d+) ?\)")
_POSTGRES = re.compile(
    r'(("[^"]+"|[a-z_][\w$]*)(\.("[^"]+"|[a-z_][\w$]*)|( [a-z]+)*)?)'
    r"( ?\([\d, -]+\))?( with(out)? time zone)?(\[\])*"
)


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rule(_Declared):
    """A condition that each row of a model holds, and what is done about one that does not."""

    condition: str
    on_break: Literal["quarantine", "warn", "stop"] = "quarantine"

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, declared: object) -> object:
        return {"condition": declared} if isinstance(declared, str) else declared


class ColumnMeta(_Declared):
    """What the lake reads of a column: `personal` says that it tells of a person.

    `source_column` is its name at the source, where that is another one.
    """

    personal: bool = False
    source_column: str = ""


class ColumnConfig(_Declared):
    meta: ColumnMeta = ColumnMeta()
    tags: Any = None


class Column(_Declared):
    name: str
    description: str = ""
    data_type: str = ""
    config: ColumnConfig = ColumnConfig()
    data_tests: list[Any] = []
    constraints: list[Any] = []
    quote: bool = False
    granularity: str = ""


class Limits(_Declared):
    """How far a figure may be from the median of its history, which is that of the last runs.

    `within` is a part of the median, `slack` a figure that is always allowed: rows, or seconds.
    There is nothing to judge by before there are `at_least` runs.
    """

    of_last: int = Field(20, ge=1, le=LONGEST)
    at_least: int = Field(5, ge=1)
    within: float = Field(0.3, gt=0)
    slack: float = Field(0, ge=0)


Reach = Literal["rebuild", "replay", "new_rows"]
"""How a change of a model's code reaches its table: the table is made anew; all that was landed is
taken up once more, over the rows that are there; or only new rows have it.
"""


class ModelMeta(_Declared):
    """What the lake reads of a model.

    `history_of` names the model of the same rows as they are, and `quarantine_of` the one that they
    are kept out of: these two are what the rules of that model are applied by. `code_change` is
    `rebuild` unless told, and `replay` of those two.
    """

    rules: dict[str, Rule] = {}
    history_of: str = ""
    quarantine_of: str = ""
    volume: Limits | None = None
    code_change: Reach | None = None


class ModelConfig(BaseModel):
    model_config = ConfigDict(extra="allow")

    meta: ModelMeta = ModelMeta()
    materialized: Any = None


class _Table(_Declared):
    name: str
    description: str = ""
    columns: list[Column] = []
    data_tests: list[Any] = []


class Model(_Table):
    config: ModelConfig = ModelConfig()
    constraints: list[Any] = []
    access: str = ""
    group: str = ""
    docs: Any = None
    time_spine: Any = None


class SeedConfig(BaseModel):
    model_config = ConfigDict(extra="allow")

    delimiter: str = Field(",", min_length=1, max_length=1)
    column_types: Any = None


class Seed(_Table):
    """A table whose rows are a CSV file of the project."""

    config: SeedConfig = SeedConfig()


class SnapshotConfig(BaseModel):
    """A snapshot's key, and how dbt detects that a row has changed."""

    model_config = ConfigDict(extra="allow")

    unique_key: str | list[str]
    strategy: Literal["timestamp", "check"]
    updated_at: str = ""
    check_cols: list[str] | Literal["all"] = []
    snapshot_meta_column_names: Any = None


class Snapshot(_Table):
    """A table of the versions of another table's rows, one for each build that found a change."""

    relation: str
    config: SnapshotConfig


Built = Model | Seed | Snapshot
"""What the project builds."""


class SourceMeta(_Declared):
    """What the lake reads of a source's table: what it is at the source, and its key there.

    A key of no columns is that of a table without one. `truncate` is what a TRUNCATE of it does in
    silver: its rows are deleted, or left as they are, or the build ends.
    """

    source_table: str = ""
    key: list[str] | None = None
    truncate: Literal["apply", "ignore", "halt"] = "apply"
    volume: Limits | None = None
    freshness: Limits | None = None


class Period(_Declared):
    count: Annotated[int, Field(gt=0)]
    period: Literal["minute", "hour", "day"]


class Freshness(_Declared):
    warn_after: Period | None = None
    error_after: Period | None = None
    filter: str = ""


class SourceConfig(_Declared):
    meta: SourceMeta = SourceMeta()
    enabled: bool = True
    freshness: Freshness | None = None
    loaded_at_field: str = ""


class SourceTable(_Table):
    identifier: str = ""
    config: SourceConfig = SourceConfig()


class Source(_Declared):
    name: str
    description: str = ""
    schema_: str = Field("", alias="schema")
    database: str = ""
    config: SourceConfig = SourceConfig()
    tables: list[SourceTable] = []


class ExposureMeta(BaseModel):
    """What the lake reads of an exposure: the columns that it uses of a model; else it uses all."""

    model_config = ConfigDict(extra="allow")

    columns: dict[str, list[str]] = {}


class ExposureConfig(BaseModel):
    model_config = ConfigDict(extra="allow")

    meta: ExposureMeta = ExposureMeta()


class Exposure(BaseModel):
    """What is made of models outside of the project; what else stands there is dbt's to check."""

    model_config = ConfigDict(extra="allow")

    name: str
    config: ExposureConfig = ExposureConfig()
    depends_on: list[str] = []


class Properties(_Declared):
    """A YAML file of the project, in dbt's words for it."""

    version: int = 2
    sources: list[Source] = []
    models: list[Model] = []
    seeds: list[Seed] = []
    snapshots: list[Snapshot] = []
    unit_tests: list[Any] = []
    data_tests: list[Any] = []
    exposures: list[Exposure] = []
    groups: list[Any] = []
    semantic_models: list[Any] = []
    metrics: list[Any] = []
    saved_queries: list[Any] = []


_STEPS: tuple[type[BaseModel], ...] = (
    *(Properties, Source, SourceTable, SourceConfig, SourceMeta, Freshness, Period),
    *(Limits, Model, ModelConfig, ModelMeta, Rule, Column, ColumnConfig, ColumnMeta),
    *(Seed, SeedConfig, Snapshot, SnapshotConfig),
)
_KEYS = sorted({info.alias or name for step in _STEPS for name, info in step.model_fields.items()})
_STRUCTURE = ("models", "seeds", "snapshots", "sources", "tables", "columns", "config", "meta")

Path_ = tuple[str | int, ...]
"""Where in a file: keys and positions, as pydantic tells them."""


@dataclass(frozen=True, order=True)
class Mistake:
    """A mistake, and where: `file` is relative to the directory that holds the project."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class _File:
    """A file of properties, with the line of each of its values."""

    path: str
    lines: dict[Path_, int]
    properties: Properties

    def at(self, where: Path_, what: str) -> Mistake:
        return Mistake(self.path, _line(self.lines, where), what)


def mistakes(project: Path) -> list[Mistake]:
    """What is wrong with a project, by file and line; nothing of it is run."""
    found: list[Mistake] = []
    files = []
    for path in _written(project):
        file, wrong = _read(path, str(path.relative_to(project.parent)))
        found += wrong
        files += [file] if file else []
    sql = {path: path.read_text() for path in sorted(project.glob("models/**/*.sql"))}
    found += [one for file in files for one in _of_file(file)]
    found += _of_docs(files, blocks(project))
    found += [
        Mistake(str(path.relative_to(project.parent)), line, what)
        for path, line, what in kinds.mistakes(project)
    ]
    found += _of_models(project, files, sql, complete=not found)
    return sorted(set(found))


def _written(project: Path) -> list[Path]:
    """The files of properties."""
    return sorted(path for folder in kinds.FOLDERS for path in project.glob(f"{folder}/**/*.yml"))


def unwritten(project: Path) -> list[Mistake]:
    """What only a person can write, and has not: the descriptions that a table or a file lacks."""
    found = []
    words = blocks(project)
    empty: dict[str, set[tuple[int, str]]] = {}
    for path in _written(project):
        file, _ = _read(path, str(path.relative_to(project.parent)))
        if file is None:
            continue
        for where, table in _tables(file.properties):
            named = (table, *table.columns)
            if lacking := [one.name for one in named if not one.description.strip()]:
                said = f"{_label(file.properties, where)}: not described: {', '.join(lacking)}"
                found.append(file.at(where, said))
            for name in _DOC.findall("".join(one.description for one in named)):
                if name in words and not words[name].text:
                    empty.setdefault(words[name].file, set()).add((words[name].line, name))
    for markdown, lines in empty.items():
        names = ", ".join(name for _, name in sorted(lines))
        found.append(Mistake(markdown, min(lines)[0], f"not described: {names}"))
    return sorted(found)


_BLOCK = re.compile(r"\{%-?\s*docs\s+(\w+)\s*-?%\}(.*?)\{%-?\s*enddocs\s*-?%\}", re.DOTALL)
_DOC = re.compile(r"""\bdoc\(\s*['"]([^'"]*)['"]\s*\)""")


@dataclass(frozen=True)
class Block:
    file: str
    line: int
    text: str


def blocks(project: Path) -> dict[str, Block]:
    """The descriptions in Markdown, by name."""
    found = {}
    for path in sorted(project.glob("models/**/*.md")):
        text = path.read_text()
        for block in _BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            file = str(path.relative_to(project.parent))
            found[block.group(1)] = Block(file, line, block.group(2).strip())
    return found


def _described(properties: Properties) -> Iterator[tuple[Path_, Built | SourceTable | Column]]:
    for where, table in _tables(properties):
        yield where, table
        for position, column in enumerate(table.columns):
            yield (*where, "columns", position), column


def _built(properties: Properties) -> Iterator[tuple[Path_, Built]]:
    for folder in kinds.FOLDERS:
        for i, table in enumerate(getattr(properties, folder)):
            yield (folder, i), table


def _tables(properties: Properties) -> Iterator[tuple[Path_, Built | SourceTable]]:
    yield from _built(properties)
    for i, source in enumerate(properties.sources):
        for j, table in enumerate(source.tables):
            yield ("sources", i, "tables", j), table


def _read(path: Path, name: str) -> tuple[_File | None, list[Mistake]]:
    """A file, if it can be read as such, and what keeps it from that."""
    text = path.read_text()
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        loaded = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        return None, [Mistake(name, *kinds.no_yaml(error))]
    lines: dict[Path_, int] = {}
    found = [] if root is None else list(_twice(name, root, (), lines))
    try:
        return _File(name, lines, Properties.model_validate(loaded or {})), found
    except ValidationError as error:
        details = error.errors(include_url=False)
        return None, [*found, *(_mistake(name, lines, loaded, one) for one in details)]


def _twice(name: str, node: yaml.Node, where: Path_, lines: dict[Path_, int]) -> Iterator[Mistake]:
    """Note the line of each value below `node`; yields the keys that stand there twice."""
    lines[where] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield from _twice(name, item, (*where, position), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*where, key.value)
            if below in lines:
                yield Mistake(name, key.start_mark.line + 1, f"{key.value}: stands here twice")
            yield from _twice(name, value, below, lines)
            lines[below] = key.start_mark.line + 1


def _line(lines: dict[Path_, int], where: Path_) -> int:
    """The line of a value, or of the nearest that holds it."""
    while where not in lines and where:
        where = where[:-1]
    return lines.get(where, 1)


def _label(loaded: object, where: Path_) -> str:
    """A place in people's words: `loans.rules.adult`."""
    words: list[str] = []
    for step in where:
        if isinstance(loaded, BaseModel):
            loaded = loaded.model_dump(by_alias=True)
        try:
            loaded = loaded[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            loaded = None
        if isinstance(step, int):
            named = loaded.model_dump() if isinstance(loaded, BaseModel) else loaded
            words.append(str(named.get("name", step)) if isinstance(named, dict) else str(step))
        elif step not in _STRUCTURE:
            words.append(step)
    return ".".join(words) or str(where[-1] if where else "file")


def _mistake(name: str, lines: dict[Path_, int], loaded: object, error: ErrorDetails) -> Mistake:
    """What pydantic says, in our words."""
    where = error["loc"]
    match error["type"]:
        case "extra_forbidden":
            key = str(where[-1])
            is_type = ")" in key  # which YAML ends at its comma
            said = f"there is no such key{_meant(key, _KEYS)}"
            said += '; quote a type that has a comma: "numeric(12,2)"' if is_type else ""
        case "missing":
            said = "is missing"
        case "literal_error":
            said = f"must be {error['ctx']['expected']}".replace("'", "`")
        case _:
            said = error["msg"].removeprefix("Input ")
    return Mistake(name, _line(lines, where), f"{_label(loaded, where)}: {said}")


def _meant(written: str, known: object) -> str:
    """A guess at what was meant, for the end of a message."""
    close = get_close_matches(written, list(known), 1, 0.7)  # type: ignore[call-overload]
    return f"; did you mean `{close[0]}`?" if close else ""


def _of_file(file: _File) -> Iterator[Mistake]:
    """What is wrong with tables by themselves."""
    for where, table in _tables(file.properties):
        label = _label(file.properties, where)
        names = [column.name for column in table.columns]
        for position, column in enumerate(table.columns):
            at = (*where, "columns", position)
            if names.index(column.name) != position:
                yield file.at(at, f"{label}.{column.name}: is declared twice")
            yield from _of_type(file, at, table, column)
        if isinstance(table, SourceTable):
            yield from _of_source(file, where, table, names)
            continue
        yield from _of_key(file, where, label, names, table.data_tests)
        if isinstance(table, Seed) and table.config.column_types is not None:
            said = "column_types: a seed's types are the `data_type` of its columns"
            yield file.at((*where, "config", "column_types"), f"{label}.{said}")
        if isinstance(table, Snapshot) and table.config.snapshot_meta_column_names is not None:
            said = "snapshot_meta_column_names: the lake knows them by dbt's own names"
            yield file.at((*where, "config", "snapshot_meta_column_names"), f"{label}.{said}")
        if isinstance(table, Model):
            if said := kinds.refused(table.config.materialized):
                yield file.at((*where, "config", "materialized"), f"{label}: {said}")
            yield from _of_rules(file, where, table, names)


def _of_type(
    file: _File, at: Path_, table: Built | SourceTable, column: Column
) -> Iterator[Mistake]:
    label = _label(file.properties, at)
    declared = " ".join(column.data_type.lower().split())
    if isinstance(table, SourceTable):
        if table.config.meta.source_table and not declared:
            yield file.at(at, f"{label}: data_type must be the column's type in Postgres")
        elif declared and not _POSTGRES.fullmatch(declared):
            yield file.at(
                (*at, "data_type"), f"{label}: `{column.data_type}` is no type of Postgres"
            )
        elif whole := _WHOLE.fullmatch(declared):
            said = f"write it as numeric({whole.group(2)},0), as Postgres does"
            yield file.at((*at, "data_type"), f"{label}: {said}")
        return
    if isinstance(table, Snapshot):
        if declared:
            said = "leave data_type out: a snapshot's columns have the types of what it keeps"
            yield file.at((*at, "data_type"), f"{label}: {said}")
        return
    known = (*TYPES, *_ALIASES, *_SPELT_OUT)
    if not declared:
        yield file.at(at, f"{label}: data_type is missing, and the contract is of names and types")
    elif declared not in known and not _DECIMAL.fullmatch(declared):
        what = f"{label}: `{column.data_type}` is no type of a contract"
        choice = f": choose of {', '.join(TYPES)}, numeric(p,s)"
        yield file.at((*at, "data_type"), what + (_meant(declared, known) or choice))


def _of_source(
    file: _File, where: Path_, table: SourceTable, names: list[str]
) -> Iterator[Mistake]:
    meta, at = table.config.meta, (*where, "config", "meta")
    if not meta.source_table:
        if meta.key is not None:
            yield file.at((*at, "key"), f"{table.name}: a key, but no source_table that has it")
        return
    if said := _wrong_name(meta.source_table):
        yield file.at((*at, "source_table"), f"{table.name}.source_table: {said}")
    if meta.key is None:
        said = "key must list the columns that are unique at the source; `key: []` where none are"
        yield file.at(at, f"{table.name}: {said}")
    for column in meta.key or ():
        if column not in names:
            said = f"`{column}` is no column that it declares{_meant(column, names)}"
            yield file.at((*at, "key"), f"{table.name}.key: {said}")
    if not LAKE_NAME.fullmatch(table.name):
        yield file.at(where, f"{table.name}: {_PLAIN}")
    yield from _of_names(file, where, table)


_PLAIN = "the lake's own name of it must be of lower-case letters, digits and _"


def _wrong_name(source_table: str) -> str:
    """What is wrong with a qualified name; nothing where it is one, as the lake writes it."""
    try:
        written = qualified(*parts(source_table))
    except ValueError:
        return 'must be the table with its schema, such as `public.loan` or `public."Loan"`'
    return "" if written == source_table else f"write it as `{written}`"


def _of_names(file: _File, where: Path_, table: SourceTable) -> Iterator[Mistake]:
    """Each column of the source has one name in the lake, which is not one of the lake's own."""
    first: dict[str, str] = {}
    for position, column in enumerate(table.columns):
        at, label = (*where, "columns", position), f"{table.name}.{column.name}"
        of = column.config.meta.source_column or column.name
        if not LAKE_NAME.fullmatch(column.name):
            said = f"{_PLAIN}; declare `source_column: {column.name}` in its `config.meta`"
            yield file.at(at, f"{label}: {said}")
        if column.name in OWN:
            said = "is a name of the lake's own; give it another, and declare its `source_column`"
            yield file.at(at, f"{label}: {said}")
        if of in first and first[of] != column.name:
            said = f"the source's `{of}` is declared already, as {first[of]}"
            yield file.at(at, f"{label}: {said}")
        first.setdefault(of, column.name)


def _of_key(
    file: _File, where: Path_, label: str, names: list[str], tests: list[Any]
) -> Iterator[Mistake]:
    """A model has one `is_key`, which the gate judges, of columns that are declared."""
    keys = [i for i, test in enumerate(tests) if isinstance(test, dict) and "is_key" in test]
    for position in keys:
        at = (*where, "data_tests", position, "is_key")
        if position != keys[0]:
            said = "it has a key already; test what else is unique with dbt's `unique`"
            yield file.at(at, f"{label}.is_key: {said}")
        for column in ((tests[position]["is_key"] or {}).get("arguments") or {}).get("columns", ()):
            if column not in names:
                said = f"`{column}` is no column that it declares{_meant(column, names)}"
                yield file.at((*at, "arguments", "columns"), f"{label}.is_key: {said}")


def _of_rules(file: _File, where: Path_, model: Model, names: list[str]) -> Iterator[Mistake]:
    for name, rule in model.config.meta.rules.items():
        at = (*where, "config", "meta", "rules", name)
        label = f"{model.name}.rules.{name}"
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
            yield file.at(at, f"{label}: a rule's name is of lower-case letters, digits and _")
        columns = _columns_of(rule.condition)
        if isinstance(columns, str):
            yield file.at(at, f"{label}: {columns}")
            continue
        for column in sorted(columns - set(names)):
            said = f"`{column}` is no column that {model.name} declares{_meant(column, names)}"
            yield file.at(at, f"{label}: {said}")


def _columns_of(condition: str) -> set[str] | str:
    """The columns that a condition reads, or why it is none."""
    from sqlglot import errors, exp, parse

    try:
        parsed = parse(condition, dialect="trino")
    except errors.SqlglotError as error:
        told = getattr(error, "errors", None)
        said = told[0]["description"] if told else str(error)
        return f"no condition in SQL: {' '.join(str(said).split()).rstrip('.')}"
    whole = parsed[0]
    decides = (exp.Predicate, exp.Connector, exp.Not, exp.Paren, exp.Func, exp.Column, exp.Boolean)
    if len(parsed) != 1 or not isinstance(whole, decides):
        return f"`{condition}` is no condition"
    return {column.name for column in whole.find_all(exp.Column)}


def _of_docs(files: list[_File], blocks: dict[str, Block]) -> Iterator[Mistake]:
    """Descriptions that stand nowhere."""
    for file in files:
        for where, named in _described(file.properties):
            for name in _DOC.findall(named.description):
                if name not in blocks:
                    label = _label(file.properties, where)
                    said = f"there is no description `{name}`{_meant(name, blocks)}"
                    yield file.at((*where, "description"), f"{label}: {said}")


_ROLES = ("history_of", "quarantine_of")


def _of_roles(files: list[_File], names: set[str], *, complete: bool) -> Iterator[Mistake]:
    """A model that another is about is there, and so are those that apply a model's rules."""
    models = [
        (file, (*where, "config", "meta"), model, model.config.meta)
        for file in files
        for where, model in _tables(file.properties)
        if isinstance(model, Model)
    ]
    taken = {(role, getattr(meta, role)) for *_, meta in models for role in _ROLES}
    for file, at, model, meta in models:
        for role in _ROLES:
            of = getattr(meta, role)
            if of and of not in names:
                said = f"there is no model `{of}`{_meant(of, names)}"
                yield file.at((*at, role), f"{model.name}.{role}: {said}")
            if meta.rules and complete and (role, model.name) not in taken:
                said = f"they need a model with `meta: {{{role}: {model.name}}}` (docs/quality.md)"
                yield file.at((*at, "rules"), f"{model.name}.rules: {said}")


def _of_exposures(files: list[_File], models: Mapping[str, Built]) -> Iterator[Mistake]:
    """Each column that an exposure uses is one of a model that it depends on."""
    for file in files:
        for i, exposure in enumerate(file.properties.exposures):
            above = {found.group(2) for one in exposure.depends_on for found in _REF.finditer(one)}
            for name, columns in exposure.config.meta.columns.items():
                at = ("exposures", i, "config", "meta", "columns", name)
                if name not in above & models.keys():
                    said = f"`{name}` is no model that it depends on{_meant(name, above)}"
                    yield file.at(at, f"{exposure.name}.columns: {said}")
                    continue
                known = [column.name for column in models[name].columns]
                for column in columns:
                    if column not in known:
                        said = f"`{column}` is no column of {name}{_meant(column, known)}"
                        yield file.at(at, f"{exposure.name}.columns: {said}")


def _of_sources(files: list[_File]) -> Iterator[Mistake]:
    """No two tables of bronze are one, there or at the source."""
    declared: dict[tuple[str, str], str] = {}
    for file in files:
        for i, source in enumerate(file.properties.sources):
            for j, table in enumerate(source.tables):
                where: Path_ = ("sources", i, "tables", j)
                line = f"{file.path}:{_line(file.lines, where)}"
                of = table.config.meta.source_table
                for kind, name, at in (
                    (f"{source.name}'s", table.identifier or table.name, where),
                    ("the source's", of, (*where, "config", "meta", "source_table")),
                ):
                    known = declared.setdefault((kind, name), line)
                    if name and known != line:
                        said = f"{kind} `{name}` is declared already, at {known}"
                        yield file.at(at, f"{table.name}: {said}")


_REF = re.compile(r"""\b(ref|source)\(\s*['"]([^'"]*)['"]\s*(?:,\s*['"]([^'"]*)['"]\s*)?\)""")
_MACRO = re.compile(r"\{%-?\s*macro\s+(\w+)")


def _of_models(
    project: Path, files: list[_File], sql: dict[Path, str], *, complete: bool
) -> Iterator[Mistake]:
    """What is wrong between files: names, references, Jinja."""
    rows = {path.stem: path for path in sorted(project.glob("seeds/**/*.csv"))}
    snapshots = [one.name for file in files for one in file.properties.snapshots]
    by_name = Counter([*(path.stem for path in sql), *rows, *snapshots])
    stems = {*by_name, *(path.stem for path in project.glob("models/**/*.py"))}
    built = [table for file in files for _, table in _built(file.properties)]
    declared = {table.name: table for table in built}
    described = Counter(table.name for table in built)
    tables = {
        (source.name, table.name)
        for file in files
        for source in file.properties.sources
        for table in source.tables
    }
    yield from _of_sources(files)
    for file in files:
        for where, table in _built(file.properties):
            if table.name not in stems:
                ending = "csv" if isinstance(table, Seed) else "sql"
                said = f"there is no {table.name}.{ending}{_meant(table.name, stems)}"
                yield file.at(where, f"{table.name}: {said}")
            if described[table.name] > 1:
                yield file.at(where, f"{table.name}: is declared twice")
    yield from _of_roles(files, stems, complete=complete)
    yield from _of_exposures(files, declared)
    yield from _of_snapshots(files, declared)
    yield from _of_seeds(project, rows, declared, complete=complete)
    macros = [
        name
        for path in project.glob("macros/**/*.sql")
        for name in _MACRO.findall(path.read_text())
    ]
    for path, text in sql.items():
        name = str(path.relative_to(project.parent))
        if by_name[path.stem] > 1:
            yield Mistake(name, 1, f"{path.stem}: two tables have this name")
        yield from _of_layer(name, path.relative_to(project))
        if complete and path.stem not in described:
            yield Mistake(name, 1, f"{path.stem}: {_UNDECLARED}")
        model = declared.get(path.stem) if by_name[path.stem] == 1 else None
        yield from _of_jinja(name, text, macros, model if isinstance(model, Model) else None)
        for found in _REF.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            kind, first, second = found.groups()
            if kind == "ref" and not second and first not in stems:
                yield Mistake(name, line, f"there is no model `{first}`{_meant(first, stems)}")
            if kind == "source" and complete and (first, second) not in tables:
                known = [table for source, table in tables if source == first]
                said = f"source `{first}` declares no table `{second}`{_meant(second, known)}"
                yield Mistake(name, line, said)


_UNDECLARED = "no .yml declares it, so it has no contract"


def _of_layer(name: str, path: Path) -> Iterator[Mistake]:
    """A file below `models/`, `seeds/` or `snapshots/` is of a layer that is built."""
    folder, layer = path.parts[:2]
    if layer not in BUILT:
        said = f"{folder} are in {' or '.join(f'{folder}/{one}/' for one in BUILT)}"
        yield Mistake(name, 1, f"{path.stem}: {said}, which the gates judge")


def _of_seeds(
    project: Path, rows: Mapping[str, Path], declared: Mapping[str, Built], *, complete: bool
) -> Iterator[Mistake]:
    """Each value of a seed is one of its column's type."""
    for stem, path in rows.items():
        name, seed = str(path.relative_to(project.parent)), declared.get(stem)
        yield from _of_layer(name, path.relative_to(project))
        if isinstance(seed, Seed):
            types = {column.name: column.data_type for column in seed.columns}
            for line, said in seeds.mistakes(path, types, seed.config.delimiter):
                yield Mistake(name, line, f"{stem}: {said}")
        elif complete:
            yield Mistake(name, 1, f"{stem}: {_UNDECLARED}")


def _of_snapshots(files: list[_File], declared: Mapping[str, Built]) -> Iterator[Mistake]:
    """A snapshot keeps a table that there is, by columns that it has."""
    for file in files:
        for i, snapshot in enumerate(file.properties.snapshots):
            at, config = ("snapshots", i), snapshot.config
            path = Path(*Path(file.path).parts[1:])
            if path.parts[0] == "snapshots":
                yield from _of_layer(file.path, path)
            else:
                said = "declare it in a .yml of its own, below snapshots/"
                yield file.at(at, f"{snapshot.name}: {said}")
            needed = "updated_at" if config.strategy == "timestamp" else "check_cols"
            if not getattr(config, needed):
                said = f"`{config.strategy}` needs `{needed}`"
                yield file.at((*at, "config", "strategy"), f"{snapshot.name}.strategy: {said}")
            ref = _REF.fullmatch(snapshot.relation.strip())
            kept = declared.get(ref.group(2)) if ref else None
            if not ref:
                said = "must be ref('a model') or source('a source', 'a table')"
                yield file.at((*at, "relation"), f"{snapshot.name}.relation: {said}")
            elif kept:
                for setting, said in _unknown(config, kept):
                    where = (*at, "config", setting)
                    yield file.at(where, f"{snapshot.name}.{setting}: {said}")
            elif ref.group(1) == "ref":
                said = f"there is no model `{ref.group(2)}`{_meant(ref.group(2), declared)}"
                yield file.at((*at, "relation"), f"{snapshot.name}.relation: {said}")


def _unknown(config: SnapshotConfig, kept: Built) -> Iterator[tuple[str, str]]:
    """The columns that a snapshot reads and that what it keeps does not declare, by setting."""
    known = [column.name for column in kept.columns]
    for setting in ("unique_key", "updated_at", "check_cols"):
        for column in _listed(getattr(config, setting)):
            if column not in known and column != "all":
                yield setting, f"`{column}` is no column of {kept.name}{_meant(column, known)}"


def _of_jinja(name: str, text: str, macros: list[str], model: Model | None) -> Iterator[Mistake]:
    """Jinja that does not parse, macros that are only nearly there, and what `config` says."""
    from dbt_common.clients.jinja import get_environment
    from jinja2 import TemplateSyntaxError, nodes

    try:
        parsed = get_environment(None).parse(text)
    except TemplateSyntaxError as error:
        yield Mistake(name, error.lineno, f"no Jinja: {error.message}")
        return
    told: dict[str, tuple[Any, int]] = {}
    for call in parsed.find_all(nodes.Call):
        called = call.node.name if isinstance(call.node, nodes.Name) else ""
        if called == "config":
            told |= {pair.key: (_constant(pair.value), pair.lineno) for pair in call.kwargs}
        if called and called not in macros and (meant := _meant(called, macros)):
            yield Mistake(name, call.lineno, f"there is no macro `{called}`{meant}")
    for line, said in _of_config(told, model):
        yield Mistake(name, line, f"{Path(name).stem}: {said}")


def _constant(expression: Any) -> Any:
    """The value of a Jinja expression that is a literal; None of one that has to be evaluated."""
    from jinja2.nodes import Impossible

    try:
        return expression.as_const()
    except Impossible:
        return None


def _of_config(
    told: Mapping[str, tuple[Any, int]], model: Model | None
) -> Iterator[tuple[int, str]]:
    """What is wrong with a model's kind, and with the key that its rows are merged by."""
    kind, line = told.get("materialized", (None, 1))
    if said := kinds.refused(kind):
        yield line, said
    if model is None:
        return
    names = [column.name for column in model.columns]
    for setting in ("unique_key", "changed_by", "merge_exclude_columns", "merge_update_columns"):
        value, line = told.get(setting, (None, 1))
        for column in _listed(value):
            if column not in names:
                said = f"`{column}` is no column that it declares{_meant(column, names)}"
                yield line, f"{setting}: {said}"
    kind = kind or model.config.materialized
    value, line = told.get("unique_key", (None, 1))
    key, settings = _listed(value), {*told, *(model.config.model_extra or {})}
    if kind in (None, "incremental") and not {"incremental_strategy", "unique_key"} & settings:
        yield line, "unique_key is missing: rows are merged by it; or it is a `table`"
    elif {*key} <= {*names} and key and {*key} != _tested(model):
        said = f"no `is_key` of {', '.join(key)} tests it: a null or a double in it doubles rows"
        yield line, f"unique_key: {said}"


def _listed(value: Any) -> Sequence[str]:
    """The columns of a setting that takes one or several."""
    return [value] if value and isinstance(value, str) else value or ()


def _tested(model: Model) -> set[str]:
    """The columns of the model's `is_key`."""
    for test in model.data_tests:
        if isinstance(test, dict) and "is_key" in test:
            return {*((test["is_key"] or {}).get("arguments") or {}).get("columns", ())}
    return set()
