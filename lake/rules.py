"""The rules that models declare of their rows, and what is to be judged again once one has changed.

A rule stands in `config.meta.rules` of a model's YAML; `macros/rule.sql` makes SQL of it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lake.branches import publish
from lake.contract import Rule
from lake.errors import LakeError
from lake.manifest import (
    below,
    manifest,
    named_tables,
    parents,
    source_tables,
    table_nodes,
    table_of,
)

Rules = dict[str, Rule]
"""Rules of a model, by their names."""


def rules(model: str) -> Rules:
    """The rules of a model, in the project as it stands."""
    return declared(manifest()).get(model, {})


def declared(of: Mapping[str, Any]) -> dict[str, Rules]:
    """The rules of every model that has some, by its name."""
    return {
        node["name"]: {name: Rule.model_validate(rule) for name, rule in found.items()}
        for node in table_nodes(of).values()
        if (found := node["config"]["meta"].get("rules"))
    }


def changed() -> list[str]:
    """The models whose rules are not those by which the published rows were judged.

    None where nothing tells, as before the first publish.
    """
    text = publish.manifest()
    if text is None:
        return []
    published = json.loads(text)
    before, now = declared(published), declared(manifest())
    known = set.intersection(
        *({node["name"] for node in table_nodes(of).values()} for of in (published, manifest()))
    )
    return sorted(
        model
        for model in known & (before.keys() | now.keys())
        if before.get(model) != now.get(model)
    )


def touched_by(names: Sequence[str]) -> list[str]:
    """What dbt selects to judge again: all that follows from source tables, or what models rest on.

    Raises LakeError where a name is neither a model's nor a source table's.
    """
    models = table_nodes()
    by_name = {name: key for key, node in models.items() for name in (node["name"], table_of(node))}
    selected: set[str] = set()
    for name in names:
        if name in by_name:
            selected |= {f"{models[root]['name']}+" for root in _roots(by_name[name], models)}
        else:
            try:
                (table,) = named_tables([name], source_tables())
            except LakeError as error:
                raise LakeError(f"there is no model `{name}`, and {error}") from None
            entries = {table_of(node): node["name"] for node in manifest()["sources"].values()}
            selected.add(f"source:bronze.{entries[table.bronze]}+")
    return sorted(selected)


def tables_touched_by(names: Sequence[str]) -> set[str]:
    """The tables that are judged again where the rules of these models have changed."""
    models = table_nodes()
    roots = {
        root
        for key, node in models.items()
        if node["name"] in names
        for root in _roots(key, models)
    }
    return {table_of(models[key]) for key in roots | below(roots) if key in models}


def _roots(unique_id: str, models: Mapping[str, Any]) -> Iterator[str]:
    """The models that read what was landed, of those that a model rests on."""
    above = [one for one in parents(models[unique_id]) if one in models]
    if not above:
        yield unique_id
    for one in above:
        yield from _roots(one, models)
