"""What each table was made of, and so which are no longer what the code makes of what there is.

A table is current if it was recorded that its model, as the project has it now, and all models
above it made its rows of the inputs that are there now. Nothing else is asked: not what was built
last, by whom, nor of which checkout. Records are facts about pointers (`lake.provenance` in
`branches/schema.sql`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from lake import lag
from lake.branches import branch, publish
from lake.catalog import connect, metadata, open_catalog
from lake.credentials import write_private
from lake.errors import LakeError
from lake.manifest import (
    BUILT,
    PROJECT,
    dbt_version,
    digest,
    is_ephemeral,
    manifest,
    parents,
    source_tables,
    table_of,
)
from lake.settings import settings
from lake.shapes import SCHEMA_CHANGES

if TYPE_CHECKING:  # slow to import
    from lake.contract import Reach


@dataclass(frozen=True)
class Code:
    """What the project says of a table that it builds.

    `fingerprint` is of the model itself, `lineage` of it and all models above it. `models` are the
    tables of those that it reads, by name, with the lineage of each; `inputs` those of them whose
    rows depend on data, unlike a seed's. `landed` are tables of bronze; `sources` are captured
    tables, by their names at the source.
    """

    table: str
    name: str
    fingerprint: str
    lineage: str
    reach: "Reach"
    models: Mapping[str, str]
    inputs: Sequence[str]
    landed: Sequence[str]
    sources: Sequence[str]

    @property
    def is_all_code(self) -> bool:
        """Whether its rows depend on code alone, so that each rebuild gives the same rows."""
        return self.reach == "rebuild" and not (self.inputs or self.landed or self.sources)


@dataclass(frozen=True)
class Stale:
    """A table that is not what the code makes of what there is, why, and what makes it so.

    To `increment` is to go on where the last build ended. A table that can't be made anew, and that
    something else has written, `is_reset` before: to what its branch began with.
    """

    code: Code
    reason: str
    how: Literal["create", "increment", "replay", "rebuild"]
    is_reset: bool = False


# The code


@lru_cache
def codes() -> dict[str, Code]:
    """What the project, as it stands on disk, says of each table, by name; inputs come first.

    dbt is asked once for the same files: that takes it seconds.

    Raises LakeError, with dbt's own words, where the project does not parse.
    """
    made_by = f"{dbt_version()} {Path(__file__).read_text()}"
    files = digest(made_by)
    kept = settings().state_dir / "codes" / f"{files}.json"
    if kept.exists():
        found = [Code(**one) for one in json.loads(kept.read_text())]
    else:
        found = codes_of(manifest(), _variables(PROJECT))
        if digest(made_by) == files:  # else some were changed meanwhile
            write_private(kept, json.dumps([asdict(one) for one in found]))
    return {one.table: one for one in found}


def codes_of(of: Mapping[str, Any], variables: Mapping[str, Any]) -> list[Code]:
    """The same of a manifest, whose project has these variables."""
    nodes = {key: node for key, node in of["nodes"].items() if node["resource_type"] in BUILT}
    captured = {table.bronze: table.qualified for table in source_tables(of)}
    macros = Macros(of)
    made: dict[str, Code] = {}
    all_code: set[str] = set()
    bronze: dict[str, set[str]] = {}
    for key in _inputs_first(nodes):
        node = nodes[key]
        above = parents(node)
        inlined = [one for one in above if one in made and is_ephemeral(nodes[one])]
        models = {made[one].table: made[one].lineage for one in above if one in made}
        for one in inlined:
            del models[made[one].table]
            models |= made[one].models
        bronze[key] = {table_of(of["sources"][one]) for one in above if one in of["sources"]}
        bronze[key].update(*(bronze[one] for one in inlined))
        sources = sorted(captured[one] for one in bronze[key] if one in captured)
        if lag.CHANGES in bronze[key] and not sources:
            sources = sorted(captured.values())
        fingerprint = _fingerprint(node, of, macros, variables)
        if inlined:
            fingerprint = _hash([fingerprint, *(made[one].fingerprint for one in inlined)])
        meta = node["config"].get("meta") or {}
        made[key] = Code(
            table=table_of(node),
            name=node["name"],
            fingerprint=fingerprint,
            lineage=_hash([fingerprint, sorted(models.items())]),
            reach=meta.get("code_change") or _usual_reach(node, meta),
            models=models,
            inputs=sorted(models.keys() - all_code),
            landed=sorted(bronze[key] - {lag.CHANGES, SCHEMA_CHANGES}),
            sources=sources,
        )
        if made[key].is_all_code:
            all_code.add(made[key].table)
    return [code for key, code in made.items() if not is_ephemeral(nodes[key])]


def _usual_reach(node: Mapping[str, Any], meta: Mapping[str, Any]) -> "Reach":
    """What the past has left in a table could not be made anew, in histories and quarantines."""
    if node["resource_type"] == "snapshot" or node["config"].get("full_refresh") is False:
        return "new_rows"
    return "replay" if {"history_of", "quarantine_of"} & meta.keys() else "rebuild"


def _inputs_first(nodes: Mapping[str, Any]) -> Iterator[str]:
    seen: set[str] = set()

    def visit(key: str) -> Iterator[str]:
        if key in nodes and key not in seen:
            seen.add(key)
            for above in parents(nodes[key]):
                yield from visit(above)
            yield key

    for key in sorted(nodes):
        yield from visit(key)


_AS_IT_IS_SHOWN = ("access", "docs", "enabled", "group", "meta", "persist_docs", "tags")
"""Config that no row depends on; `_meta` takes from `meta` what rows do depend on."""
_JUDGED_BY = ("volume", "freshness", "code_change")
_ASKED_FOR = {"replay_from", "bronze", "layer_suffix"}
"""Variables that say what to do, and where; none says what a row is."""


def _fingerprint(
    node: Mapping[str, Any], of: Mapping[str, Any], macros: "Macros", variables: Mapping[str, Any]
) -> str:
    """Of all that decides which rows a model has, but for its inputs: alike for both engines."""
    meta, config = _meta(node), node["unrendered_config"]
    used = macros.used_by(node)
    texts = [node.get("raw_code") or "", *used.values()]
    names = {name for text in texts for name in re.findall(r"""\bvar\(\s*['"](\w+)""", text)}
    ruled_by = {meta.get("history_of"), meta.get("quarantine_of")} - {None}
    return _hash(
        {
            "code": node.get("raw_code"),
            "file": node["checksum"]["checksum"] if node["resource_type"] == "seed" else None,
            "config": {k: v for k, v in config.items() if k not in _AS_IT_IS_SHOWN},
            "meta": meta,
            "columns": _columns(node),
            "macros": used,
            "vars": {name: variables.get(name) for name in names - _ASKED_FOR},
            "rules": {
                other["name"]: (other["config"].get("meta") or {}).get("rules")
                for other in of["nodes"].values()
                if other["name"] in ruled_by
            },
            "sources": {
                one: (_columns(source), _meta(source))
                for one in parents(node)
                if (source := of["sources"].get(one))
            },
        }
    )


def _meta(node: Mapping[str, Any]) -> dict[str, Any]:
    meta = node["config"].get("meta") or {}
    return {name: value for name, value in meta.items() if name not in _JUDGED_BY}


def _columns(node: Mapping[str, Any]) -> list[Any]:
    return [
        (
            column["name"],
            column.get("data_type"),
            column.get("constraints"),
            (column["config"].get("meta") or {}).get("source_column"),
        )
        for column in node["columns"].values()
    ]


class Macros:
    """The project's own macros, and which a model uses, on whichever engine.

    That is read from the text: what dbt says of it depends on the engine, and on what it has run.
    """

    def __init__(self, of: Mapping[str, Any]) -> None:
        project = of["metadata"]["project_name"]
        self._texts: dict[str, dict[str, str]] = {}
        for macro in of["macros"].values():
            if macro["package_name"] == project:
                forms = self._texts.setdefault(_word(macro["name"]), {})
                forms[macro["name"]] = macro["macro_sql"]
        self._calls = {
            word: {called for text in forms.values() for called in _calls(text)} - {word}
            for word, forms in self._texts.items()
        }
        called = {word for calls in self._calls.values() for word in calls}
        for node in of["nodes"].values():
            called |= _calls(_text(node))
        self._asked_by_dbt = self._texts.keys() - called

    def used_by(self, node: Mapping[str, Any]) -> dict[str, str]:
        """The text of each macro that a model comes to use, and of those that dbt asks."""
        ahead = [*self._asked_by_dbt, *_calls(_text(node))]
        seen: set[str] = set()
        while ahead:
            word = ahead.pop()
            if word in self._texts and word not in seen:
                seen.add(word)
                ahead += self._calls[word]
        return {name: text for word in sorted(seen) for name, text in self._texts[word].items()}


def _text(node: Mapping[str, Any]) -> str:
    """The text of a model in which macros may be called: hooks are in its config."""
    return f"{node.get('raw_code') or ''}\n{json.dumps(node.get('unrendered_config') or {})}"


def _calls(text: str) -> set[str]:
    """The names that are called in a text, and those that an engine's form is asked of."""
    called = re.findall(r"""\bdispatch\(\s*['"](\w+)|(\w+)\s*\(""", text)
    return {_word(name) for pair in called for name in pair if name}


def _word(macro: str) -> str:
    """A macro's name without the engine that a form of it is for: `held` of `spark__held`."""
    return re.sub(r"^(default|spark|trino)__", "", macro)


def _hash(what: Any) -> str:
    return sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _variables(project: Path) -> dict[str, Any]:
    declared = yaml.safe_load((project / "dbt_project.yml").read_text())
    found: dict[str, Any] = declared.get("vars") or {}
    return found


# What is stale


def stale(ref: str, upto: lag.Position | None = None) -> list[Stale]:
    """The tables of a branch that are not what the project makes of its bronze, inputs first.

    Of the others it is noted that they have the changes `upto` a position that bronze had before.

    Raises LakeError where the project does not parse, or there is no such branch.
    """
    known = _known(ref, with_news=True)
    found = _waiting(known)
    if upto:
        current = [
            {"pointer": known.origins[code.table], "lineage": code.lineage}
            for code in codes().values()
            if code.table not in found
        ]
        query = "select lake.extend_provenance(%s, %s)"
        branch.call("builder", query, Jsonb(current), upto.lsn)
    return list(found.values())


def must_be_landed(ref: str) -> None:
    """Raise LakeError where a branch lacks a table of bronze that the project builds on."""
    there = _known(ref, with_news=False).origins
    if lacking := sorted({one for code in codes().values() for one in code.landed} - there.keys()):
        raise LakeError(f"{', '.join(lacking)}: declared, and not there yet: run `lake ingest`")


def built_as(ref: str) -> dict[str, frozenset[str]]:
    """Of each table of a branch, the fingerprints of the models that are known to make its rows.

    None of what something else has written.
    """
    known = _known(ref, with_news=False)
    return {
        table: frozenset(
            one.fingerprint for (pointer, _), one in known.facts.items() if pointer == origin
        )
        for table, origin in known.origins.items()
    }


def undeclared(ref: str) -> list[str]:
    """The tables of a branch that dbt has built, and that no model of the project makes any more.

    Raises LakeError where the project does not parse.
    """
    with connect("reader") as connection:
        found = connection.execute(
            """
            select table_namespace || '.' || table_name from iceberg_tables
            where catalog_name = %s and exists (
                select from lake.provenance where pointer = lake.origin(metadata_location)
            )
            order by 1
            """,
            [ref],
        ).fetchall()
    return [name for (name,) in found if name not in codes()]


@dataclass(frozen=True)
class _Fact:
    """What is recorded of a pointer: see `lake.provenance` in `schema.sql`."""

    pointer: str
    lineage: str
    fingerprint: str
    models: Mapping[str, str]
    landed: Mapping[str, str]
    lsn: int


@dataclass(frozen=True)
class _Known:
    """What is known of a branch: the origin of each table; what is recorded of those, by origin and
    lineage; the origins that the tables which the branch has moved began with, None of new ones; of
    each captured table, its newest change that is past where any table was built to."""

    origins: Mapping[str, str]
    facts: Mapping[tuple[str, str], _Fact]
    moved: Mapping[str, str | None]
    newest: Mapping[str, int]


def _waiting(known: _Known) -> dict[str, Stale]:
    """What is stale, by table, inputs first."""
    found: dict[str, Stale] = {}
    for code in codes().values():
        if one := _stale(code, known, found):
            found[code.table] = one
    return found


def _stale(code: Code, known: _Known, above: Mapping[str, Stale]) -> Stale | None:
    pointer = known.origins.get(code.table)
    if pointer is None:
        return Stale(code, "it is not there yet", "create")
    fact = known.facts.get((pointer, code.lineage))
    if fact is None:
        earlier = [one for (at, _), one in known.facts.items() if at == pointer]
        how: dict[Reach, Literal["increment", "replay", "rebuild"]]
        how = {"rebuild": "rebuild", "replay": "replay", "new_rows": "increment"}
        if not earlier:
            reason = "it has no record of a build: something else has written it"
            if code.table not in known.moved:
                return Stale(code, reason, how[code.reach])
            began = known.moved[code.table]
            if began is None or code.reach == "rebuild":
                return Stale(code, reason, "rebuild")
            reset = replace(known, origins={**known.origins, code.table: began}, moved={})
            then = _stale(code, reset, above)
            return Stale(code, reason, then.how if then else "increment", is_reset=True)
        if any(one.fingerprint == code.fingerprint for one in earlier):
            changed = [above[one].code.name for one in code.models if one in above]
            reason = f"it was built of other code of {', '.join(changed) or 'what it reads'}"
        else:
            reason = "its code is another"
        return Stale(code, reason, how[code.reach])
    inputs = {**fact.models, **fact.landed}
    news = [name for name in inputs if known.origins.get(name) != inputs[name] or name in above]
    news += [name for name in code.sources if known.newest.get(name, -1) > fact.lsn]
    return Stale(code, f"there is news of {', '.join(news)}", "increment") if news else None


def _known(ref: str, *, with_news: bool) -> _Known:
    """What is known of a branch; what capture has landed since is looked up `with_news` only."""
    with connect("reader") as connection:
        rows = connection.execute(
            """
            select table_namespace || '.' || table_name, lake.origin(now.metadata_location),
                changed.after is not null, lake.origin(changed.before)
            from (select * from iceberg_tables where catalog_name = %(ref)s) as now
            left join lake.changed(%(ref)s) as changed using (table_namespace, table_name)
            """,
            {"ref": ref},
        ).fetchall()
        origins = {name: origin for name, origin, _, _ in rows}
        moved = {name: began for name, _, has_moved, began in rows if has_moved}
        facts = (
            connection.cursor(row_factory=class_row(_Fact))
            .execute(
                "select pointer, lineage, fingerprint, models, landed, lsn from lake.provenance"
                " where pointer = any(%s)",
                [[*origins.values(), *moved.values()]],
            )
            .fetchall()
        )
    by_key = {(one.pointer, one.lineage): one for one in facts}
    reached = [
        fact.lsn
        for code in codes().values()
        if code.sources and (fact := by_key.get((origins.get(code.table, ""), code.lineage)))
    ]
    newest = _newest_changes(ref, min(reached, default=None)) if with_news else {}
    return _Known(origins, by_key, moved, newest)


def _newest_changes(ref: str, since: int | None) -> dict[str, int]:
    """The commit LSN of each captured table's newest change after an LSN, as far as is complete."""
    changes = metadata(ref, lag.CHANGES)
    position = lag.position(changes) if changes else None
    if changes is None or position is None or since is None or since >= position.lsn:
        return {}
    if since >= int(changes["properties"].get(lag.CHANGED_LSN, position.lsn)):
        return {}
    import pyarrow as pa  # both are slow to import
    from pyiceberg.expressions import And, GreaterThan, LessThanOrEqual

    after = GreaterThan(term="commit_lsn", value=since)
    wanted = And(after, LessThanOrEqual(term="commit_lsn", value=position.lsn))
    scan = open_catalog(ref).load_table(lag.CHANGES).scan(wanted, ("source_table", "commit_lsn"))
    found: dict[str, int] = {}
    for batch in scan.to_arrow_batch_reader():
        newest = pa.Table.from_batches([batch]).group_by("source_table")
        for row in newest.aggregate([("commit_lsn", "max")]).to_pylist():
            table, lsn = row["source_table"], row["commit_lsn_max"]
            found[table] = max(lsn, found.get(table, -1))
    return found


# The record


def outdated(ref: str) -> list[Stale]:
    """The stale tables of a branch, without a look at what was landed since.

    Raises LakeError where the project does not parse.
    """
    return list(_waiting(_known(ref, with_news=False)).values())


def record(target: Path, told: Mapping[str, Any]) -> None:
    """Record what the tables are made of that dbt has just built on this process's branch.

    `target` is where dbt has written what it did, `told` are variables that it was told: a table of
    other ones than the project's is not recorded, nor is one of files that were changed meanwhile.

    Raises LakeError where the catalog can't be reached.
    """
    of = json.loads((target / "manifest.json").read_text())
    done = json.loads((target / "run_results.json").read_text())["results"]
    built = {one["unique_id"] for one in done if one["status"] == "success"}
    tables = {table_of(node) for key, node in of["nodes"].items() if key in built}
    made = codes_of(of, {**_variables(PROJECT), **told})
    position = lag.captured(settings().branch)
    branch.call(
        "builder",
        "select lake.record_provenance(%s, %s, %s, %s)",
        settings().branch,
        Jsonb(
            [
                described(one)
                for one in made
                if one.table in tables and one == codes().get(one.table)
            ]
        ),
        position.lsn if position else -1,
        publish.code_version(),
    )


def described(code: Code) -> dict[str, Any]:
    """A table's code as the functions of `schema.sql` take it (`record_provenance`)."""
    return {
        name: value
        for name, value in asdict(code).items()
        if name in ("table", "lineage", "fingerprint", "models", "inputs", "landed")
    }


def project() -> list[dict[str, Any]]:
    """All that the project builds, as `lake.publish` takes it."""
    return [described(code) for code in codes().values()]
