"""Maintenance frees what nobody needs, and never what somebody does, whatever happens in between.

What is old is told by a `now` that is later than it is: `LATER` a reader's and a publish's time is
over, `MUCH_LATER` a branch's too.
"""

import os
import random
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pyiceberg.table import Table, Transaction

from lake import catalog, object_store
from lake.branches import branch, compact, keys, maintain, publish, sweep
from lake.branches.sweep import Files
from lake.catalog import access, connect, for_spark, open_catalog
from lake.errors import LakeError
from lake.settings import TRUNK, settings
from tests.conftest import SOAK, empty_own
from tests.lake.branches.conftest import published, put, spark_session, values

LATER, MUCH_LATER = timedelta(hours=25), timedelta(days=8)
ROWS = pa.schema([("value", pa.int64())])
KEPT = 3
"""So many publishes stay when their time is over."""


def rows(*numbers: int) -> pa.Table:
    return pa.table({"value": pa.array(numbers, pa.int64())}, ROWS)


def ask(query: str, *arguments: object) -> list[tuple[Any, ...]]:
    with connect("reader") as connection:
        return connection.execute(query.encode(), arguments).fetchall()


def objects() -> dict[str, datetime]:
    """When each file of the bucket was written."""
    return {key: modified for key, _, modified in sweep.listed()}


def do(after: timedelta = timedelta(0)) -> maintain.Report:
    return maintain.maintain(datetime.now(UTC) + after, apply=True)


# By itself


@pytest.fixture
def retention(own_lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishes are forgotten after a day, but for the last few; everything is worth compacting."""
    monkeypatch.setattr(settings().retention, "publish_days", 1)
    monkeypatch.setattr(settings().retention, "publishes", KEPT)
    monkeypatch.setattr(settings().compaction, "files", 2)


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(retention: None) -> None:
    for number in range(KEPT + 2):
        published(a=[number])
    branch.create("aged")
    put("aged", b=[2])
    branch.pin()
    before, refs = objects(), branch.refs()
    pointers = ask("select * from iceberg_tables order by 1, 2, 3")
    log = publish.log()
    would = maintain.maintain(datetime.now(UTC) + MUCH_LATER)
    assert (objects(), branch.refs(), publish.log()) == (before, refs, log)
    assert ask("select * from iceberg_tables order by 1, 2, 3") == pointers
    assert not would.applied
    assert sorted(would.dropped) == ["aged", f"publish_{KEPT + 2}"]
    assert would.forgotten == 2
    did = do(MUCH_LATER)
    assert (did.dropped, did.forgotten) == (would.dropped, would.forgotten)
    assert did.tended.expired == would.tended.expired
    for place, files in would.swept.deleted.items():  # and what was expired, being old at once
        assert did.swept.deleted[place].files >= files.files > 0
    gone = before.keys() - objects().keys()
    assert sum(did.swept.deleted.values(), Files()).files == len(gone) > 0
    assert len(objects()) == did.swept.kept.files


def test_what_is_left_when_all_is_forgotten_is_what_lake_needs(retention: None) -> None:
    for number in range(6):
        published(a=[number], b=[number])
    branch.create("aged")
    put("aged", a=[99], c=[99])
    for _ in range(KEPT):
        published(b=[7])
    did = do(MUCH_LATER)
    assert [ref.name for ref in branch.refs()] == []
    assert did.forgotten == 6
    assert values() == {"a": [5], "b": [7]}
    assert not any("aged" in key for key in objects())
    with pytest.raises(LakeError, match="files are no longer kept"):
        publish.rollback(1)
    assert publish.rollback(7), "it is among the last ones"


def test_small_files_are_merged_and_deletes_applied_with_the_same_rows(retention: None) -> None:
    published(a=[1], b=[1])
    branch.create("more")
    branch.take("more", ["silver.a"])
    for number in range(5):
        open_catalog("more").load_table("silver.a").append(rows(number))
    publish.publish("more")
    branch.create("mine")
    put("mine", a=[77])
    did = do()
    before, after = did.tended.compacted["silver.a"]
    assert after
    assert (before.data_files, after.data_files) == (6, 1)
    assert list(did.tended.compacted) == ["silver.a"], "the other one is not worn"
    assert values()["a"] == [0, 1, 1, 2, 3, 4]
    assert publish.publish("mine"), "which a compaction is not in the way of"
    assert values() == {"a": [77], "b": [1]}


def test_position_deletes_are_applied(retention: None) -> None:
    published(a=[*range(100)])
    branch.create("deletes")
    branch.take("deletes", ["silver.a"])
    with spark_session(for_spark(access("deletes"))) as spark:
        spark(
            "alter table deletes.silver.a set tblproperties ('write.delete.mode'='merge-on-read')"
        )
        spark("delete from deletes.silver.a where value < 50")
    publish.publish("deletes")
    did = do()
    before, after = did.tended.compacted["silver.a"]
    assert after
    assert (before.delete_files, after.delete_files) == (1, 0)
    assert before.riddled == 0.5
    assert values()["a"] == [*range(50, 100)]


def test_snapshots_go_a_day_after_they_were_replaced(retention: None) -> None:
    published(a=[1])
    branch.create("more")
    for number in range(5):
        put("more", a=[number])
    publish.publish("more")
    assert do().tended.expired == {}
    assert do(LATER).tended.expired.keys() == {"silver.a"}
    listed = open_catalog(TRUNK).load_table("silver.a").metadata.snapshots
    assert len(listed) == 1
    assert values()["a"] == [4]


def test_a_lost_file_ends_the_sweep_before_it_deletes_and_is_named(retention: None) -> None:
    published(a=[1])
    branch.tag("held")
    published(a=[2])
    branch.create("gone")
    put("gone", a=[3])
    branch.drop("gone")
    (task,) = open_catalog("held").load_table("silver.a").scan().plan_files()
    path = task.file.file_path
    client = object_store.client("maintenance", catalog.access(role="maintenance").secret_key)
    client.remove_object(bucket_name=settings().bucket, object_name=sweep._key(path))
    before = objects()
    with pytest.raises(
        LakeError, match=r"is missing, and silver\.a of .*nothing was swept"
    ) as told:
        do(MUCH_LATER)
    assert path in str(told.value)
    assert before.items() <= objects().items()


def test_keys_without_a_branch_go_and_those_of_a_branch_stay(own_lake: str) -> None:
    branch.create("mine")
    soon = datetime.now(UTC) + timedelta(days=1)
    stray, _ = object_store.create_key("branches/never_made", soon)
    latest = datetime.now(UTC) + keys.life()
    making, _ = object_store.create_key("branches/in_the_making", latest)
    assert do().keys == 1
    kept = object_store.branch_keys()
    assert stray not in kept
    assert making in kept
    assert len(kept) == 2 + settings().retention.ready_keys, "with those that wait for branches"
    put("mine", a=[1])


def test_two_at_once_are_kept_apart(own_lake: str) -> None:
    with (
        catalog.alone("lake maintain", "maintenance"),
        pytest.raises(LakeError, match="a `lake maintain` is at work"),
    ):
        do()


def test_the_report_says_what_was_freed(retention: None) -> None:
    from rich.console import Console

    for number in range(KEPT + 2):
        published(a=[number])
    console = Console(width=200, record=True, file=StringIO())
    console.print(maintain.render(maintain.maintain(datetime.now(UTC) + LATER)))
    text = console.export_text()
    assert "would forget" in text
    assert "would free" in text
    assert "`lake maintain --apply` does it" in text


# Bronze, which capture streams into


def test_snapshots_of_bronze_are_thinned_but_not_those_by_which_capture_finds_its_place(
    own_lake: str,
) -> None:
    table = open_catalog(TRUNK, "ingest").create_table("bronze.changes", ROWS)
    for number in range(4):
        table.append(rows(number), {"lake.position": f"{number}:1"})
    table.append(rows(4))
    ids = [snapshot.snapshot_id for snapshot in table.metadata.snapshots]
    assert sweep.last_captured(table.metadata) == [ids[4], ids[3]]
    now = datetime.now(UTC)
    assert set(compact.expirable(table.metadata, now, is_thinned=True)) <= set(ids[:3])
    assert compact.expirable(table.metadata, now, is_thinned=False) == []
    long_after = compact.expirable(table.metadata, now + LATER, is_thinned=False)
    assert long_after == ids[:3]


def test_what_capture_has_written_waits_while_capture_is_down(own_lake: str) -> None:
    table = open_catalog(TRUNK, "ingest").create_table("bronze.changes", ROWS)
    table.append(rows(1), {"lake.position": "1:1"})
    staged = table.transaction()
    staged.append(rows(2))  # written, named by a checkpoint, and not committed
    did = do(MUCH_LATER)
    assert did.swept.young.files > 0
    staged.commit_transaction()
    assert open_catalog(TRUNK).load_table("bronze.changes").scan().to_arrow().num_rows == 2


# Any interleaving


@dataclass
class Version:
    """What one table holds; a new one for each change, so that it is told from an equal one."""

    rows: tuple[int, ...]


State = dict[str, Version]
TABLES = ("a", "b", "c")


@dataclass
class Branch:
    base: State
    now: State
    staged: dict[str, tuple[Version, Transaction, Version]] = field(default_factory=dict)


class Interleaving(RuleBasedStateMachine):
    """Everything that moves pointers or deletes files, in any order, beside a model of the rows."""

    steps = 0  # of all examples

    def __init__(self) -> None:
        super().__init__()
        empty_own()
        self.lake: State = {}
        self.bronze: tuple[int, ...] = ()
        self.branches: dict[str, Branch] = {}
        self.tags: dict[str, tuple[State, tuple[int, ...]]] = {}
        self.pins: dict[str, State] = {}
        self.publishes: dict[int, State] = {}
        self.kept: set[int] = set()
        self.readers: list[tuple[Table, tuple[int, ...]]] = []
        self.reader = connect("reader")
        self.names = iter(f"n{number}" for number in range(10_000))
        self.numbers = iter(range(1_000_000))
        self.read: dict[str, tuple[tuple[int, ...], frozenset[str]]] = {}
        self.since = Counter[str]()  # steps since something costly was done
        self.events = open_catalog(TRUNK, "ingest").create_table("bronze.events", ROWS)

    def teardown(self) -> None:
        self.reader.close()

    def _pick(self, data: st.DataObject, of: Collection[Any]) -> Any:
        return data.draw(st.sampled_from(sorted(of)))

    # Branches

    @precondition(lambda self: len(self.branches) < 4)
    @rule()
    def create_branch(self) -> None:
        name = next(self.names)
        branch.create(name)
        self.branches[name] = Branch(dict(self.lake), dict(self.lake))

    @precondition(lambda self: self.branches)
    @rule(data=st.data(), table=st.sampled_from(TABLES), how=st.sampled_from("awd"))
    def write(self, data: st.DataObject, table: str, how: str) -> None:
        name = self._pick(data, self.branches)
        mine, opened, full = self.branches[name].now, open_catalog(name), f"silver.{table}"
        mine_now = mine.get(table, Version(()))
        number = next(self.numbers)
        if table not in mine:
            opened.create_table(full, ROWS).append(rows(number))
            mine[table] = Version((number,))
        elif how == "d":
            opened.drop_table(full)
            del mine[table]
        elif how == "a":
            branch.take(name, [full])
            opened.load_table(full).append(rows(number))
            mine[table] = Version((*mine_now.rows, number))
        else:
            branch.take(name, [full])
            opened.load_table(full).overwrite(rows(number, number))
            mine[table] = Version((number, number))

    @precondition(lambda self: any(one.now for one in self.branches.values()))
    @rule(data=st.data())
    def begin_to_write(self, data: st.DataObject) -> None:
        name = self._pick(data, {name for name, one in self.branches.items() if one.now})
        mine = self.branches[name]
        table = self._pick(data, mine.now)
        number, before = next(self.numbers), mine.now[table]
        branch.take(name, [f"silver.{table}"])
        staged = open_catalog(name).load_table(f"silver.{table}").transaction()
        staged.append(rows(number))
        mine.staged[table] = before, staged, Version((*before.rows, number))

    @precondition(lambda self: any(one.staged for one in self.branches.values()))
    @rule(data=st.data())
    def end_to_write(self, data: st.DataObject) -> None:
        mine = self.branches[
            self._pick(data, {name for name, one in self.branches.items() if one.staged})
        ]
        table = self._pick(data, mine.staged)
        before, staged, after = mine.staged.pop(table)
        if mine.now.get(table) is before:
            staged.commit_transaction()
            mine.now[table] = after

    @precondition(lambda self: self.branches)
    @rule(data=st.data())
    def drop_branch(self, data: st.DataObject) -> None:
        name = self._pick(data, self.branches)
        branch.drop(name)
        del self.branches[name]

    # Publishes

    @precondition(lambda self: self.branches)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        name = self._pick(data, self.branches)
        mine = self.branches[name]
        changed = {t for t in TABLES if mine.now.get(t) is not mine.base.get(t)}
        if any(self.lake.get(t) is not mine.base.get(t) for t in changed):
            with pytest.raises(LakeError, match="moved on `lake`"):
                publish.publish(name)
            return
        made = publish.publish(name)
        del self.branches[name]
        assert (made is None) == (not changed)
        after = {t: mine.now if t in changed else self.lake for t in TABLES}
        self._published(made, {t: of[t] for t, of in after.items() if t in of})

    def _published(self, made: int | None, state: State) -> None:
        self.lake = state
        if made is not None:
            assert made == len(self.publishes) + 1
            self.publishes[made] = state
            self.kept.add(made)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        to = self._pick(data, self.kept)
        state = self.publishes[to]
        made = publish.rollback(to)
        assert made is not None or self.lake == state
        self._published(made, dict(state))

    # Tags, pins, readers

    @precondition(lambda self: len(self.tags) < 3)
    @rule(data=st.data(), is_now=st.booleans())
    def tag(self, data: st.DataObject, is_now: bool) -> None:
        name = next(self.names)
        to = None if is_now or not self.kept else self._pick(data, self.kept)
        branch.tag(name, to)
        self.tags[name] = dict(self.lake if to is None else self.publishes[to]), self.bronze

    @precondition(lambda self: self.tags)
    @rule(data=st.data())
    def drop_tag(self, data: st.DataObject) -> None:
        name = self._pick(data, self.tags)
        branch.drop_tag(name)
        del self.tags[name]

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        to = self._pick(data, self.kept)
        assert branch.pin(to) == f"publish_{to}"
        self.pins[f"publish_{to}"] = self.publishes[to]

    @precondition(lambda self: self.lake and len(self.readers) < 3)
    @rule(data=st.data())
    def begin_to_read(self, data: st.DataObject) -> None:
        table = self._pick(data, self.lake)
        reading = open_catalog(TRUNK).load_table(f"silver.{table}")
        self.readers.append((reading, self.lake[table].rows))

    @precondition(lambda self: self.readers)
    @rule()
    def end_to_read(self) -> None:
        reading, expected = self.readers.pop(0)
        assert sorted(reading.scan().to_arrow()["value"].to_pylist()) == sorted(expected)

    # Bronze

    @precondition(lambda self: self.since["stream"] >= 5)
    @rule()
    def stream(self) -> None:
        self.since["stream"] = 0
        number = next(self.numbers)
        self.events.refresh()
        self.events.append(rows(number))
        self.bronze += (number,)

    # Maintenance

    @precondition(lambda self: self.since["sweep"] >= 5)
    @rule()
    def sweep(self) -> None:
        self._maintain(timedelta(0))

    @precondition(lambda self: self.since["sweep"] >= 5)
    @rule()
    def sweep_later(self) -> None:
        self._maintain(LATER)

    @precondition(lambda self: self.since["sweep"] >= 5 and len(self.branches) > 2)
    @rule()
    def sweep_much_later(self) -> None:
        self._maintain(MUCH_LATER)

    @precondition(lambda self: self.since["compact"] >= 40)
    @rule(is_later=st.booleans())
    def compact(self, is_later: bool) -> None:
        self.since["compact"] = 0
        settings().compaction.files = 2
        self._maintain(LATER if is_later else timedelta(0))
        settings().compaction.files = 10_000

    def _maintain(self, after: timedelta) -> None:
        did = do(after)
        assert not did.tended.skipped
        self.since["sweep"] = 0
        if did.swept.deleted:
            self.read.clear()
        if not after:
            assert did.dropped == []
            return
        self.readers.clear()
        self.pins.clear()
        if after == MUCH_LATER:
            self.branches.clear()
        self.kept &= {*range(len(self.publishes) - KEPT + 1, len(self.publishes) + 1)}
        began = [ref.created_at for ref in branch.refs() if ref.kind == "branch"]
        reached = reachable()
        for key, modified in objects().items():
            assert key in reached or (began and modified >= min(began)), f"{key} outlived its time"

    # What must hold after each step

    @invariant()
    def every_reference_reads_its_rows(self) -> None:
        Interleaving.steps += 1
        self.since.update(["stream", "sweep", "compact"])
        found: dict[tuple[str, str], dict[str, str]] = {}
        for ref, layer, table, location in self.reader.execute(
            "select catalog_name, table_namespace, table_name, metadata_location"
            " from iceberg_tables union all"
            " select 'after ' || id, table_namespace, table_name, metadata_location"
            " from lake.publishes, lake.state_at(id) where is_kept and table_namespace = 'silver'"
        ):
            found.setdefault((ref, layer), {})[table] = location
        expected: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {}

        def expect(ref: str, state: State, bronze: tuple[int, ...] | None) -> None:
            expected[ref, "silver"] = {table: version.rows for table, version in state.items()}
            if bronze is not None:
                expected[ref, "bronze"] = {"events": bronze}

        expect(TRUNK, self.lake, self.bronze)
        for made in self.kept:
            expect(f"after {made}", self.publishes[made], None)
        for name, (state, bronze) in self.tags.items():
            expect(name, state, bronze)
        for name, mine in self.branches.items():
            expect(name, mine.now, None)
        for name, state in self.pins.items():
            expect(name, state, None)
        refs = {name for (name,) in self.reader.execute("select name from lake.refs")}
        assert refs == self.branches.keys() | self.tags.keys() | self.pins.keys()
        there = objects().keys()
        for (ref, layer), tables in expected.items():
            pointers = found.get((ref, layer), {})
            assert pointers.keys() == tables.keys(), ref
            for table, numbers in tables.items():
                held, files = self._rows(pointers[table])
                assert held == tuple(sorted(numbers)), f"{layer}.{table} of {ref}"
                assert files <= there, f"{layer}.{table} of {ref}"

    def _rows(self, location: str) -> tuple[tuple[int, ...], frozenset[str]]:
        """What a pointer reads and by which files; read once until something is deleted."""
        if location not in self.read:
            table = static(location)
            numbers = table.scan().to_arrow()["value"].to_pylist()
            self.read[location] = tuple(sorted(numbers)), frozenset(files_of(table, [location]))
        return self.read[location]


def static(location: str) -> Table:
    from pyiceberg.table import StaticTable

    return StaticTable.from_metadata(location, catalog.for_pyiceberg(catalog.access()))


def files_of(table: Table, paths: list[str], *, is_whole: bool = False) -> set[str]:
    """The keys of a table's files: of its current snapshot, or of all that it lists."""
    current = table.current_snapshot()
    for snapshot in table.metadata.snapshots if is_whole else [current] if current else []:
        paths.append(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            paths.append(manifest.manifest_path)
            paths += [e.data_file.file_path for e in manifest.fetch_manifest_entry(table.io)]
    if is_whole:
        paths += [entry.metadata_file for entry in table.metadata.metadata_log]
    return {path.partition("://")[2].partition("/")[2] for path in paths}


def reachable() -> set[str]:
    """The keys of all files that may still be there when everything young has become old.

    Of bronze a reference needs what it shows, and `lake` alone what it lists.
    """
    pointers = ask(
        "select metadata_location, catalog_name = 'lake' or table_namespace <> 'bronze'"
        " from iceberg_tables"
        " union select metadata_location, table_namespace <> 'bronze' from lake.bases"
        " union select metadata_location, table_namespace <> 'bronze'"
        " from lake.publishes, lake.state_at(id) where is_kept"
    )
    found = (files_of(static(at), [at], is_whole=is_whole) for at, is_whole in pointers)
    return set().union(*found)


def test_any_interleaving_leaves_every_live_reference_its_rows_and_no_file_too_long(
    retention: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = int(os.environ.get("LAKE_TEST_SEED") or random.randrange(2**32))
    examples = int(os.environ.get("LAKE_TEST_EXAMPLES", "24" if SOAK else "3"))
    with capsys.disabled():
        sys.stdout.write(f"\nLAKE_TEST_SEED={number} ")
    monkeypatch.setattr(settings().compaction, "files", 10_000)
    Interleaving.steps = 0
    run_state_machine_as_test(
        seed(number)(Interleaving),
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=100,
            deadline=None,
            database=None,
            phases=[Phase.generate] if "CI" in os.environ else [Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    with capsys.disabled():
        sys.stdout.write(f"{Interleaving.steps:,} steps ")
    assert Interleaving.steps > 20 * examples
