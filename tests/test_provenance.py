"""What is stale is built, nothing else, and then each table is what the code makes of the data."""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import psycopg
import pytest
import yaml
from pyiceberg.expressions import AlwaysTrue

from lake import lag
from lake.branches import branch, publish
from lake.catalog import open_catalog, row_count
from lake.demo.run import source
from lake.manifest import BUILT, copy_project
from lake.published import record as record_published
from lake.settings import TRUNK, on_branch
from lake.stack import trino
from tests.conftest import lake
from tests.test_run import dbt

STEPS = int(os.environ.get("LAKE_TEST_EXAMPLES", "6"))
SEED = int(os.environ.get("LAKE_TEST_SEED", "20261127"))
POSITION = ("_commit_lsn", "_ordinal")
STAMPS = ("_committed_at", "_ingested_at")
Row = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """A model of a random graph: of its parent's rows, each `v` moved on by a number, or sums.

    An ephemeral one is no table, but a part of those that read it. One without a parent is a seed.
    """

    name: str
    parent: str
    number: int
    is_sum: bool = False
    is_ephemeral: bool = False

    def sql(self) -> str:
        if self.is_ephemeral:
            return (
                "{{ config(materialized='ephemeral', access='protected') }}\n"
                f"select id, v + {self.number} as v, _commit_lsn, _ordinal\n"
                f"from {{{{ ref('{self.parent}') }}}}\n"
            )
        if self.is_sum:
            return (
                "{{ config(materialized='table') }}\n"
                f"select (v + {self.number}) % 3 as id, sum(v) as v, count(*) as n\n"
                f"from {{{{ ref('{self.parent}') }}}} group by 1\n"
            )
        return (
            "{{ config(unique_key='id') }}\n"
            "with moved as (\n"
            f"    select id, v + {self.number} as v, _commit_lsn, _ordinal, false as _deleted\n"
            f"    from {{{{ ref('{self.parent}') }}}} where {{{{ is_new(watermark()) }}}}\n"
            ")\n\nselect id, v, _commit_lsn, _ordinal {{ from_merged('moved') }}\n"
        )

    def listed(self) -> str:
        lines = [f"{key},{value},0,0\n" for key, value in sorted(self.rows(set()))]
        return "".join(["id,v,_commit_lsn,_ordinal\n", *lines])

    def rows(self, above: set[Row]) -> set[Row]:
        if not self.parent:
            return {(key, key * self.number) for key in range(1, 4 + self.number)}
        if not self.is_sum:
            return {(key, value + self.number) for key, value in above}
        sums: dict[int, list[int]] = {}
        for _, value in above:
            sums.setdefault((value + self.number) % 3, []).append(value)
        return {(key, sum(values), len(values)) for key, values in sums.items()}


class Graph:
    """A random project over one table of the source, and what each of its tables should hold."""

    def __init__(self, project: Path, chance: random.Random) -> None:
        self.project, self.chance = project, chance
        names = ["thing_now", "listed"]
        self.nodes = {"listed": Node("listed", "", 1)}
        for number in range(1, 6):
            is_sum = number > 1 and chance.random() < 0.4
            is_ephemeral = not is_sum and number < 5 and chance.random() < 0.4
            parent, plus = chance.choice(names), chance.randint(1, 9)
            node = Node(f"node_{number}", parent, plus, is_sum, is_ephemeral)
            self.nodes[node.name] = node
            if not is_sum:
                names.append(node.name)
        tables = [name for name in names if name in self.tables]
        self.kept = chance.choice(tables)
        """What a snapshot keeps the versions of."""
        bronze = project / "models" / "bronze" / "bronze.yml"
        sources = yaml.safe_load(bronze.read_text())
        (only,) = sources["sources"]
        thing = {
            "name": "thing",
            "description": "Things.",
            "config": {"meta": {"source_table": "public.thing", "key": ["id"]}},
            "columns": columns(id="bigint", v="bigint"),
        }
        only["tables"].append(thing)
        bronze.write_text(yaml.safe_dump(sources))
        for old in [*project.glob("models/silver/*"), *project.glob("models/gold/*")]:
            old.unlink()
        (project / "models" / "exposures.yml").unlink()
        self._write(
            "silver",
            "thing_now",
            "{{ config(unique_key='id') }}\n\n{{ current_state('thing') }}\n",
            columns(id="bigint", v="bigint", **dict.fromkeys(POSITION, "bigint"))
            + columns(**dict.fromkeys(STAMPS, "timestamptz")),
        )
        for kind in ("seeds", "snapshots"):
            (project / kind / "gold").mkdir(parents=True)
        config = {"unique_key": "id", "strategy": "check", "check_cols": ["v"]}
        config |= {"hard_deletes": "invalidate"}
        versions = {"name": "versions", "description": "v", "relation": f"ref('{self.kept}')"}
        declared = yaml.safe_dump({"snapshots": [{**versions, "config": config}]})
        (project / "snapshots" / "gold" / "versions.yml").write_text(declared)
        self.write()

    def write(self) -> None:
        for node in self.nodes.values():
            more = {"n": "bigint"} if node.is_sum else dict.fromkeys(POSITION, "bigint")
            self._write("gold", node.name, node.sql(), columns(id="bigint", v="bigint", **more))

    def _write(self, layer: str, name: str, sql: str, of: list[dict[str, str]]) -> None:
        is_seed = name in self.nodes and not self.nodes[name].parent
        kind = "seeds" if is_seed else "models"
        where = self.project / kind / layer
        is_key = {"is_key": {"arguments": {"columns": ["id"]}}}
        tests = [] if name in self.nodes and self.nodes[name].is_ephemeral else [is_key]
        described = {"name": name, "description": name, "data_tests": tests, "columns": of}
        rows = where / f"{name}.csv"
        if is_seed and not (rows.exists() and rows.read_text() == self.nodes[name].listed()):
            rows.write_text(self.nodes[name].listed())
        if not is_seed:
            (where / f"{name}.sql").write_text(sql)
        (where / f"{name}.yml").write_text(yaml.safe_dump({kind: [described]}))

    def edit(self) -> None:
        name = self.chance.choice(sorted(self.nodes))
        node = self.nodes[name]
        self.nodes[name] = replace(node, number=node.number + self.chance.randint(1, 5))
        self.write()

    def is_other(self, name: str, earlier: dict[str, Node]) -> bool:
        """Whether a model, or an ephemeral one that is a part of it, is not as it was."""
        node = self.nodes.get(name)
        if node is None or node != earlier[name]:
            return node is not None
        parent = self.nodes.get(node.parent)
        return parent is not None and parent.is_ephemeral and self.is_other(parent.name, earlier)

    def remove(self, name: str) -> None:
        del self.nodes[name]
        for path in self.project.glob(f"*/gold/{name}.*"):
            path.unlink()

    def root(self, name: str) -> str:
        """The seed or the table of silver that a model's rows come from."""
        while name in self.nodes and self.nodes[name].parent:
            name = self.nodes[name].parent
        return name

    def of_data(self) -> set[str]:
        """What is not made of the seed, whose rows follow from code whoever writes to it."""
        return {name for name in self.codes(0) if self.root(name) == "thing_now"}

    @property
    def tables(self) -> set[str]:
        models = {one.name for one in self.nodes.values() if not one.is_ephemeral}
        return {"thing_now", "versions"} | models

    def codes(self, data: int) -> dict[str, Any]:
        """Of each table, what its rows follow from; `data` says which rows the source has."""
        found: dict[str, Any] = {"thing_now": data, "": ()}
        for node in self.nodes.values():
            found[node.name] = (node.number, found[node.parent])
        return found | {"versions": found[self.kept]}

    def rows(self, things: set[Row]) -> dict[str, set[Row]]:
        found = {"thing_now": things, "": set[Row]()}
        for node in self.nodes.values():
            found[node.name] = node.rows(found[node.parent])
        found["versions"] = found[self.kept]
        return {name: found[name] for name in self.tables}


def columns(**types: str) -> list[dict[str, str]]:
    return [
        {"name": name, "data_type": type_, "description": name} for name, type_ in types.items()
    ]


def held(ref: str, graph: Graph) -> dict[str, set[Row]]:
    """What the tables of a branch hold; of the snapshot, what is valid."""
    found = {}
    for name in graph.tables:
        layer = "silver" if name == "thing_now" else "gold"
        wanted = (
            ("id", "v", "n") if name in graph.nodes and graph.nodes[name].is_sum else ("id", "v")
        )
        valid = "dbt_valid_to is null" if name == "versions" else AlwaysTrue()
        rows = open_catalog(ref).load_table(f"{layer}.{name}").scan(valid, selected_fields=wanted)
        found[name] = {tuple(row[one] for one in wanted) for row in rows.to_arrow().to_pylist()}
    return found


def former(ref: str) -> Counter[Row]:
    """The versions in the snapshot that are no longer valid."""
    rows = (
        open_catalog(ref)
        .load_table("gold.versions")
        .scan("dbt_valid_to is not null")
        .to_arrow()
        .to_pylist()
    )
    return Counter((row["id"], row["v"]) for row in rows)


@pytest.fixture
def graph(
    demo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Graph, psycopg.Connection]]:
    project = copy_project(tmp_path / "dbt_project")
    monkeypatch.setenv("LAKE_PROJECT_DIR", str(project))
    before = publish.log(1)[0].id
    with source() as connection:
        connection.execute(
            "create table thing (id bigint primary key, v bigint not null);"
            "insert into thing select i, i from generate_series(1, 50) as i"
        )
        made = Graph(project, random.Random(SEED))
        assert lake("ingest").returncode == 0
        yield made, connection
        connection.execute("drop table thing")
    publish.rollback(before)


def built_last(project: Path) -> set[str]:
    """What dbt has built last."""
    results = json.loads((project / "target" / "run_results.json").read_text())["results"]
    return {
        one["unique_id"].rpartition(".")[2]
        for one in results
        if one["status"] == "success" and one["unique_id"].partition(".")[0] in BUILT
    }


def modified(project: Path) -> set[str]:
    """The models that dbt takes to be modified, as `lake ci` asks it."""
    asked = "from lake.state import state; print(state())"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    options = ("--quiet", "--select", "state:modified", "--state", told.stdout.strip())
    only = ("--resource-type", "model", "seed", "snapshot", "--output", "name")
    return set(dbt("ls", *options, *only, on=TRUNK, project=project).stdout.split())


def kill_amid(*arguments: str, seconds: float) -> None:
    """Have the `lake` command be killed with all that it started, if it takes longer."""
    command = [str(Path(sys.executable).with_name("lake")), *arguments]
    begun = subprocess.Popen(command, start_new_session=True, stdout=DEVNULL, stderr=DEVNULL)
    with suppress(subprocess.TimeoutExpired):
        begun.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()


def build_until_published(ref: str, *build: str) -> "subprocess.CompletedProcess[str]":
    """Publish a branch that was built again after its first build was killed.

    A statement of the killed build may still have ended on the engine and moved a table; publish
    then refuses, and the branch is built once more.
    """
    for _ in range(3):
        done = lake("publish", ref)
        if done.returncode == 0:
            break
        assert "something else has written it" in done.stderr
        assert lake(*build).returncode == 0
    return done


def test_after_any_edits_data_undoings_kills_and_rollbacks_every_table_is_what_the_code_says(
    graph: tuple[Graph, psycopg.Connection],
) -> None:
    project, connection = graph
    chance = project.chance
    published: dict[str, Any] = {}
    """By table: what its rows follow from."""
    then: dict[int, dict[str, Any]] = {}
    kept: tuple[set[Row], Counter[Row]] = (set(), Counter())
    """What the snapshot has: the rows that are valid, and those that were."""
    kept_then: dict[int, tuple[set[Row], Counter[Row]]] = {}
    built_of: dict[str, Node] = {}
    earlier = [dict(project.nodes)]
    data = 0
    actions = ["data", "edit", "undo", "rollback", "by hand", "nothing"]
    for step, action in enumerate(["nothing", *chance.choices(actions, k=STEPS)]):
        if action == "data":
            data += 1
            connection.execute(
                "insert into thing select (random() * 90)::bigint, %s on conflict (id)"
                " do update set v = thing.v + excluded.v",
                [chance.randint(1, 9)],
            )
            lag.catch_up()
        elif action == "edit":
            earlier.append(dict(project.nodes))
            project.edit()
        elif action == "undo":
            project.nodes = dict(chance.choice(earlier))
            project.write()
        elif action == "rollback" and then:
            to = chance.choice(sorted(then))
            made = publish.rollback(to)
            published, kept = then[to], kept_then[to]
            if made:
                then[made], kept_then[made] = published, kept
        if action in ("edit", "undo") and published:
            others = {name for name in project.tables if project.is_other(name, built_of)}
            told = modified(project.project) & project.tables
            assert told == others, f"{step}: {action}"
        ref = f"step_{step}"
        branch.create(ref)
        by_hand = (
            chance.choice(sorted(project.tables - {"thing_now"})) if action == "by hand" else None
        )
        if by_hand and published:
            branch.take(ref, [f"gold.{by_hand}"])
            with on_branch(ref):
                trino.ask(f"update gold.{by_hand} set v = v + 1 where id = 1")
            done = lake("publish", ref)
            assert done.returncode == 2, done.stderr
            assert (
                f"gold.{by_hand} has no record of a build: something else has written it"
                in done.stderr
            )

        codes = project.codes(data)
        stale = {name for name, code in codes.items() if published.get(name) != code}
        if by_hand and published:
            stale.add(by_hand)
        for node in project.nodes.values():
            stale |= {node.name} if node.parent in stale & project.of_data() else set()
        stale |= {"versions"} if project.kept in stale & project.of_data() else set()
        stale &= project.tables
        if chance.random() < 0.3:
            built = dbt("build", "--target", "trino", on=ref, project=project.project)
            assert built.returncode == 0, f"{action}: {built.stdout}"
            stale = set()
        build = ("--branch", ref, "build", "--target", chance.choice(["spark", "trino"]))
        was_killed = bool(stale) and chance.random() < 0.4
        if was_killed:
            kill_amid(*build, seconds=chance.uniform(2, 12))
        done = lake(*build)
        assert done.returncode == 0, f"{action}: {done.stdout}{done.stderr}"
        if was_killed:
            done = build_until_published(ref, *build)
        elif stale:
            assert built_last(project.project) == stale, f"{step}: {action}"
            done = lake("publish", ref)
        else:
            assert "nothing to build" in done.stderr, f"{step}: {action}"
            done = lake("publish", ref)
        assert done.returncode == 0, done.stderr
        things = set(connection.execute("select id, v from thing").fetchall())
        rows = project.rows(things)
        assert held(TRUNK, project) == rows, f"{step}: {action}"
        kept = rows["versions"], kept[1] + Counter(kept[0] - rows["versions"])
        assert former(TRUNK) == kept[1], f"{step}: {action}"
        published, built_of = codes, dict(project.nodes)
        last = publish.log(1)[0].id
        then[last], kept_then[last] = published, kept
    what_else_was_written_to_a_snapshot_is_taken_back(kept[1])
    each_publish_says_what_its_tables_were_made_of(project, then)
    tables_of_models_that_are_gone_stay_until_a_publish_drops_them(project)
    assert held(TRUNK, project) == project.rows(things)


def what_else_was_written_to_a_snapshot_is_taken_back(ended: Counter[Row]) -> None:
    branch.create("by_hand_too")
    branch.take("by_hand_too", ["gold.versions"])
    versions = row_count(open_catalog("by_hand_too").load_table("gold.versions"))
    with on_branch("by_hand_too"):
        trino.ask("delete from gold.versions where id % 2 = 0 or dbt_valid_to is not null")
    assert lake("publish", "by_hand_too").returncode == 2
    assert lake("--branch", "by_hand_too", "build").returncode == 0
    built = row_count(open_catalog("by_hand_too").load_table("gold.versions"))
    assert (built, former("by_hand_too")) == (versions, ended)
    assert lake("publish", "by_hand_too").returncode == 0


def each_publish_says_what_its_tables_were_made_of(
    project: Graph, then: Mapping[int, object]
) -> None:
    record_published(pytest.fail)  # the test's own rollbacks are no commands
    rows = trino.ask(
        "select publish_id, table_name, code_version, cardinality(inputs) "
        f"from quality.provenance where publish_id in ({', '.join(map(str, then))})"
    )
    told = {number: {row[1] for row in rows if row[0] == number} for number in then}
    assert told == {one.id: {*one.tables} for one in publish.log() if one.id in then}
    version = publish.code_version()
    made = {
        name: (code, inputs)
        for _, table, code, inputs in rows
        if (name := table.partition(".")[2]) in project.nodes
    }
    assert made
    for name, (code, inputs) in made.items():
        assert (code, inputs > 0) == (version, project.root(name) == "thing_now"), name


def tables_of_models_that_are_gone_stay_until_a_publish_drops_them(project: Graph) -> None:
    """The demo's are such, too, in this project; what no model ever made is not."""
    parents = {project.kept, *(node.parent for node in project.nodes.values())}
    leaf = project.chance.choice(sorted(project.nodes.keys() - parents))
    was_table = leaf in project.tables
    project.remove(leaf)
    branch.create("by_hand")
    opened = open_catalog("by_hand")
    opened.create_table("gold.by_hand", opened.load_table("silver.thing_now").schema())
    assert lake("publish", "by_hand").returncode == 0
    before = tables()
    explained = lake("run", "--explain").stdout
    assert ((f"gold.{leaf} " in explained), "gold.by_hand" in explained) == (was_table, False)
    branch.create("tidy")
    assert "no model makes it any more: silver.loans;" in lake("diff", "tidy").stderr
    assert lake("publish", "tidy", "--drop-undeclared").returncode == 0
    kept = {name for name in before if name.partition(".")[2] in {*project.tables, "by_hand"}}
    assert tables() == kept
    assert publish.log(1)[0].tables == sorted(before - kept)


def tables() -> set[str]:
    opened = open_catalog(TRUNK)
    return {".".join(name) for layer in ("silver", "gold") for name in opened.list_tables(layer)}
