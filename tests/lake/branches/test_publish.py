"""What a branch, a publish, a rollback and a tag promise, on real tables."""

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from pyarrow.fs import FileSelector, S3FileSystem

from lake import catalog, object_store
from lake.branches import branch, publish
from lake.branches.diff import diff
from lake.catalog import access, connect, open_catalog
from lake.credentials import credentials
from lake.errors import LakeError
from lake.settings import TRUNK, on_branch, settings
from tests.lake.branches.conftest import published, put, values


def objects() -> set[str]:
    """The files in the bucket."""
    files = S3FileSystem(
        access_key="reader",
        secret_key=credentials().roles["reader"].s3_secret_key,
        endpoint_override=settings().s3_endpoint,
        region="us-east-1",
    )
    return {
        found.path for found in files.get_file_info(FileSelector(settings().bucket, recursive=True))
    }


def test_a_branch_copies_pointers_and_not_a_byte_of_data(abc: None) -> None:
    before = objects()
    branch.create("mine")
    assert values("mine") == {"a": [1], "b": [2], "c": [3]}
    assert objects() == before


def test_what_is_built_on_a_branch_is_seen_there_alone_until_it_is_published(abc: None) -> None:
    branch.create("mine")
    branch.create("other")
    put("mine", a=[10], d=[4])
    open_catalog("mine").drop_table("silver.c")
    assert values("mine") == {"a": [10], "b": [2], "d": [4]}
    assert values() == values("other") == {"a": [1], "b": [2], "c": [3]}
    publish.publish("mine")
    assert values() == {"a": [10], "b": [2], "d": [4]}
    assert values("other") == {"a": [1], "b": [2], "c": [3]}


def test_a_published_branch_has_ended(abc: None) -> None:
    branch.create("mine")
    put("mine", a=[10])
    table = open_catalog("mine").load_table("silver.a")
    publish.publish("mine")
    with pytest.raises(LakeError, match="there is no branch `mine`"):
        open_catalog("mine")
    with pytest.raises(OSError, match="ACCESS_DENIED"):  # its key died with it
        table.delete("value = 10")
    assert values()["a"] == [10]


def test_a_table_that_moved_meanwhile_is_a_conflict_and_nothing_moves(abc: None) -> None:
    for name, tables in (("first", {"a": [10]}), ("second", {"a": [11], "b": [12], "d": [13]})):
        branch.create(name)
        put(name, **tables)
    publish.publish("first")
    with pytest.raises(LakeError, match=r"^silver\.a moved on `lake` .* a fresh branch$"):
        publish.publish("second")
    assert values() == {"a": [10], "b": [2], "c": [3]}
    assert values("second") == {"a": [11], "b": [12], "c": [3], "d": [13]}, "it can be looked into"
    assert [one.run_id for one in publish.log()] == ["first", "landing"]


@pytest.mark.parametrize(
    "change", ["create", "drop", "drop what changed", "change what is dropped"]
)
def test_a_table_made_or_dropped_on_both_sides_is_a_conflict(abc: None, change: str) -> None:
    branch.create("mine")
    branch.create("other")
    if change == "create":
        put("mine", d=[4])
        put("other", d=[5])
    if change in ("drop", "change what is dropped"):
        open_catalog("other").drop_table("silver.a")
    if change in ("drop", "drop what changed"):
        open_catalog("mine").drop_table("silver.a")
    if change == "drop what changed":
        put("other", a=[10])
    if change == "change what is dropped":
        put("mine", a=[10])
    publish.publish("other")
    before = values()
    with pytest.raises(LakeError, match=r"silver\.[ad] moved on `lake`"):
        publish.publish("mine")
    assert values() == before


def test_tables_that_a_branch_left_alone_never_conflict(abc: None) -> None:
    ingest = open_catalog(TRUNK, "ingest")
    schema = open_catalog(TRUNK).load_table("silver.a").schema()
    table = ingest.create_table("bronze.events", schema)
    branch.create("mine")
    branch.create("other")
    put("mine", a=[10])
    put("other", b=[20])
    rows = open_catalog(TRUNK).load_table("silver.a").scan().to_arrow()
    table.append(rows)  # as bronze does, on and on
    publish.publish("other")
    table.append(rows)
    publish.publish("mine")
    assert values() == {"a": [10], "b": [20], "c": [3]}
    assert open_catalog(TRUNK).load_table("bronze.events").scan().to_arrow().num_rows == 2


def test_a_table_is_written_where_it_was_taken_to_and_is_the_same_until_then(abc: None) -> None:
    branch.create("mine")
    before = open_catalog("mine").load_table("silver.a")
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        before.append(before.scan().to_arrow())
    branch.take("mine", ["silver.a", "silver.b"])
    branch.take("mine", ["silver.a"])
    taken = open_catalog("mine").load_table("silver.a")
    assert taken.location().startswith(access("mine").warehouse)
    assert taken.metadata.metadata_log[-1].metadata_file == before.metadata_location
    assert [ref.changed for ref in branch.refs()] == [0]
    assert diff("mine", keys={}).tables == ()
    assert diff("mine", "lake", keys={}).tables == ()
    taken.append(taken.scan().to_arrow())
    assert [ref.changed for ref in branch.refs()] == [1]
    assert [one.name for one in diff("mine", keys={}).tables] == ["silver.a"]
    publish.publish("mine")
    assert values() == {"a": [1, 1], "b": [2], "c": [3]}
    assert publish.log(1)[0].tables == ["silver.a"]
    publish.rollback(1)
    assert values() == {"a": [1], "b": [2], "c": [3]}


@pytest.mark.parametrize(
    ("on", "table", "said"),
    [
        ("frozen", "silver.a", "`frozen` is not written"),
        ("lake", "silver.a", "`lake` is not written"),
        ("mine", "silver.none", "is no table that a branch writes"),
        ("mine", "bronze.events", "is no table that a branch writes"),
        ("none", "silver.a", "there is no branch `none`"),
    ],
)
def test_what_can_not_be_taken_is_told(abc: None, on: str, table: str, said: str) -> None:
    schema = open_catalog(TRUNK).load_table("silver.a").schema()
    open_catalog(TRUNK, "ingest").create_table("bronze.events", schema)
    branch.tag("frozen")
    branch.create("mine")
    with pytest.raises(LakeError, match=said):
        branch.take(on, [table])


def test_a_branch_whose_publish_was_refused_can_be_written_still(abc: None) -> None:
    for name in ("first", "second"):
        branch.create(name)
        put(name, a=[10])
    publish.publish("first")
    with pytest.raises(LakeError, match=r"silver\.a moved"):
        publish.publish("second")
    put("second", a=[11], e=[5])
    assert values("second")["a"] == [11]
    assert len(object_store.branch_keys()) == 1


def test_of_one_branch_published_twice_at_once_no_key_is_left(abc: None) -> None:
    for number in range(5):
        name = f"twice_{number}"
        branch.create(name)
        put(name, a=[number])
        start = threading.Barrier(2)

        def race(name: str = name, start: threading.Barrier = start) -> None:
            start.wait()
            with suppress(LakeError):
                publish.publish(name)

        threads = [threading.Thread(target=race) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert values()["a"] == [number]
        assert object_store.branch_keys() == {}


def test_of_two_publishes_at_once_one_wins_and_the_other_is_told(abc: None) -> None:
    for number in range(8):
        branch.create(f"racer_{number}")
        put(f"racer_{number}", a=[number], b=[number], c=[number])
    outcomes: list[object] = []
    start = threading.Barrier(8)

    def race(number: int) -> None:
        start.wait()
        try:
            made = branch.call(
                "publisher",
                "select lake.publish(%s, 'racer', null, null)",
                f"racer_{number}",
            )
            outcomes.append((number, made))
        except LakeError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(lost) == 7
    assert all("silver.a, silver.b, silver.c moved on `lake`" in said for said in lost)
    assert values() == {name: [won[0]] for name in "abc"}
    assert [one.id for one in publish.log()] == [2, 1], "what lost has left no trace"


def rewrite(name: str) -> None:
    """Have maintenance move a pointer of `lake` to the same rows, as a compaction does."""
    with open_catalog(TRUNK, "maintenance").load_table(name).transaction() as transaction:
        transaction.set_properties({"compacted": "yes"})


def test_what_maintenance_rewrote_meanwhile_is_no_conflict(abc: None) -> None:
    branch.create("mine")
    put("mine", a=[10])
    open_catalog("mine").drop_table("silver.b")
    for name in ("silver.a", "silver.a", "silver.b", "silver.c"):
        rewrite(name)
    rewritten = {
        name: open_catalog(TRUNK).load_table(f"silver.{name}").metadata_location for name in "ab"
    }
    made = publish.publish("mine")
    assert values() == {"a": [10], "c": [3]}
    with connect("reader") as connection:
        moves = connection.execute(
            "select table_name, before from lake.moves where publish_id = %s", [made]
        ).fetchall()
    assert dict(moves) == rewritten, "what the log has as replaced is what was"


def test_what_was_rewritten_after_it_was_published_is_a_conflict_still(abc: None) -> None:
    branch.create("mine")
    put("mine", a=[11])
    published(a=[10])
    rewrite("silver.a")
    with pytest.raises(LakeError, match=r"silver\.a moved"):
        publish.publish("mine")
    publish.rollback(1)
    rewrite("silver.a")
    publish.publish("mine")
    assert values()["a"] == [11], "after the rollback it began from what there is"


def test_a_publish_of_bronze_is_refused(own_lake: str) -> None:
    published(a=[1])
    schema = open_catalog(TRUNK).load_table("silver.a").schema()
    open_catalog(TRUNK, "ingest").create_table("bronze.events", schema)
    branch.create("mine")
    with catalog._connect(catalog.OWNER, credentials().catalog_password) as owner:
        owner.execute(
            "delete from iceberg_tables where catalog_name = 'mine' and table_namespace = 'bronze'"
        )
    with pytest.raises(LakeError, match=r"bronze\.events: bronze and quality are append-only"):
        publish.publish("mine")
    assert open_catalog(TRUNK).table_exists("bronze.events")


def test_the_log_tells_who_published_what_of_which_code_and_how_far(
    abc: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings(), "author", "ada")
    branch.create("mine")
    put("mine", a=[10], d=[4])
    open_catalog("mine").drop_table("silver.c")
    after = {
        name: open_catalog("mine").load_table(f"silver.{name}").metadata_location for name in "ad"
    }
    before = {
        name: open_catalog(TRUNK).load_table(f"silver.{name}").metadata_location for name in "ac"
    }
    made = publish.publish("mine")
    newest = publish.log(1)[0]
    assert (newest.id, newest.kind, newest.author) == (made, "publish", "ada")
    assert newest.run_id == "mine"
    assert newest.code_version == publish.code_version()
    assert newest.tables == ["silver.a", "silver.c", "silver.d"]
    with connect("reader") as connection:
        moves = connection.execute(
            "select table_name, before, after from lake.moves where publish_id = %s order by 1",
            [made],
        ).fetchall()
    assert moves == [
        ("a", before["a"], after["a"]),
        ("c", before["c"], None),
        ("d", None, after["d"]),
    ]


def test_a_publish_of_nothing_is_none_and_not_in_the_log(abc: None) -> None:
    branch.create("idle")
    assert publish.publish("idle") is None
    assert len(publish.log()) == 1


def test_a_rollback_is_a_publish_and_can_be_rolled_back(abc: None) -> None:
    first = values()
    branch.create("mine")
    put("mine", a=[10], d=[4])
    open_catalog("mine").drop_table("silver.c")
    publish.publish("mine")
    second = values()
    published(b=[20])
    third = values()
    assert publish.rollback(1) == 4
    assert values() == first
    assert publish.rollback(2) == 5
    assert values() == second
    assert publish.rollback(3) == 6
    assert values() == third
    assert publish.rollback(6) is None, "it is like that already"
    assert publish.rollback(4) == 7, "to what a rollback went back to"
    assert values() == first
    assert [(one.kind, one.restored) for one in publish.log()[:4]] == [
        ("rollback", 4),
        ("rollback", 3),
        ("rollback", 2),
        ("rollback", 1),
    ]
    published(a=[30])
    assert values() == first | {"a": [30]}, "and building goes on from there"


def test_a_branch_from_before_a_rollback_conflicts(abc: None) -> None:
    published(a=[10])
    branch.create("mine")
    put("mine", a=[11])
    publish.rollback(1)
    with pytest.raises(LakeError, match=r"silver\.a moved"):
        publish.publish("mine")


@pytest.mark.parametrize("to", [0, 2, 99])
def test_a_rollback_to_what_is_not_kept_is_refused(abc: None, to: int) -> None:
    with pytest.raises(LakeError, match=f"no publish {to}, or its files are no longer kept"):
        publish.rollback(to)
    assert len(publish.log()) == 1


def test_a_tag_is_the_lake_as_it_was_then_or_after_a_publish(abc: None) -> None:
    branch.tag("now")
    published(a=[10])
    published(a=[20], e=[5])
    branch.tag("between", publish=2)
    published(b=[30])
    assert values("now") == {"a": [1], "b": [2], "c": [3]}
    assert values("between") == {"a": [10], "b": [2], "c": [3]}
    branch.drop_tag("between")
    with pytest.raises(LakeError, match="there is no branch `between`"):
        open_catalog("between")


def test_a_pin_is_made_once_for_a_publish_and_lives_on_while_it_is_asked_for(abc: None) -> None:
    assert branch.pin() == branch.pin() == "publish_1"
    (before,) = branch.refs()
    published(a=[10])
    assert branch.pin() == "publish_2"
    assert branch.pin(1) == "publish_1"
    assert values("publish_1")["a"] == [1]
    (after,) = [ref for ref in branch.refs() if ref.name == "publish_1"]
    assert before.expires_at
    assert after.expires_at
    assert after.expires_at > before.expires_at
    with pytest.raises(LakeError, match="no publish 7"):
        branch.pin(7)


def test_a_moment_is_what_readers_saw_then(own_lake: str) -> None:
    chance = Random()
    before = datetime.now(UTC)
    seen = []
    for number in range(8):
        if number > 2 and chance.random() < 0.4:
            publish.rollback(chance.choice([one.id for one in publish.log()]))
        else:
            published(**{chance.choice("ab"): [number]})
        seen.append((datetime.now(UTC), values()))
        time.sleep(chance.random() / 100)
    for at, then in chance.sample(seen, len(seen)):
        for written in (at.isoformat(), at.astimezone().replace(tzinfo=None).isoformat()):
            assert values(branch.pin(publish.at(written), in_trino=False)) == then
    with pytest.raises(LakeError, match=r"nothing was published yet at .*: see `lake log`"):
        publish.at(before.isoformat())
    with pytest.raises(LakeError, match="`yesterday` is no moment: give a publish's id, or a time"):
        publish.at("yesterday")


def test_a_pinned_block_reads_one_publish_and_only_lake_needs_it(abc: None) -> None:
    with branch.pinned() as name:
        published(a=[10])
        assert name == settings().branch == "publish_1"
        assert values(settings().branch)["a"] == [1]
    assert settings().branch == TRUNK
    branch.create("mine")
    with on_branch("mine"), branch.pinned() as name:
        assert name == "mine"


@pytest.mark.parametrize(
    "name", ["lake", "system", "Mine", "my-branch", "1st", "", "a" * 64, "x; drop table y", "é"]
)
def test_a_name_that_is_none_is_refused_and_leaves_nothing(own_lake: str, name: str) -> None:
    with pytest.raises(LakeError, match="is no name for a branch"):
        branch.create(name)
    assert branch.refs() == []


def test_a_name_that_is_taken_is_told(own_lake: str) -> None:
    branch.create("mine")
    with pytest.raises(LakeError, match="there is a branch `mine` already"):
        branch.create("mine")
    with pytest.raises(LakeError, match="there is a branch `mine` already"):
        branch.tag("mine")


def test_a_branch_has_an_owner_a_start_and_an_age_limit(
    own_lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings(), "author", "ada")
    branch.create("mine")
    (ref,) = branch.refs()
    assert (ref.name, ref.kind, ref.owner, ref.changed) == ("mine", "branch", "ada", 0)
    assert ref.expires_at == ref.created_at + timedelta(days=settings().retention.branch_days)
    put("mine", a=[1])
    assert branch.refs()[0].changed == 1


def test_what_does_not_exist_is_told(own_lake: str) -> None:
    for act in (branch.drop, publish.publish, open_catalog):
        with pytest.raises(LakeError, match="there is no branch `gone`"):
            act("gone")
    with pytest.raises(LakeError, match="there is no branch `lake`"):
        publish.publish(TRUNK)
    branch.tag("fixed")
    with pytest.raises(LakeError, match="there is no branch `fixed`"):
        publish.publish("fixed")
