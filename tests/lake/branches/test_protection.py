"""What nobody may do to `lake`: each act is tried with its role's own credentials.

After every test the pointers and the files of `lake` are as they were, and its rows are read again.
Where an act were not refused it is undone, so that one hole fails one test.
"""

import io
import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.deleteobjects import DeleteObject
from minio.error import MinioAdminException, S3Error
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError
from pyiceberg.types import LongType
from pyspark.errors import PySparkException
from sqlalchemy.exc import ProgrammingError
from trino.exceptions import Error as TrinoError
from trino.exceptions import TrinoExternalError

from lake import object_store
from lake.branches import branch, keys, publish
from lake.catalog import Access, access, connect, for_pyiceberg, for_spark, open_catalog
from lake.credentials import Role, credentials
from lake.settings import TRUNK, settings
from lake.stack import postgres, trino
from tests.conftest import secret_values
from tests.lake.branches.conftest import Spark, spark_session

SILVER, GOLD, BRONZE = "silver.protected", "gold.protected", "bronze.protected"
QUALITY = "quality.protected"
MINE, TAG = "protection_mine", "protection_tag"
EVER = datetime(2099, 1, 1, tzinfo=UTC)
ROWS = pa.table({"value": pa.array([1, 2, 3], pa.int64())})


@dataclass(frozen=True)
class Lake:
    """`lake` as it is: where its pointers point, each file's ETag, and what is read from it."""

    pointers: dict[str, str]
    files: dict[str, str]
    rows: dict[str, list[int]]


def now() -> Lake:
    """`lake` now, but for what capture writes, which may stream on."""
    with connect("reader") as connection:
        found = connection.execute(
            "select table_namespace || '.' || table_name, metadata_location from iceberg_tables"
            " where catalog_name = 'lake' and table_name not in ('changes', 'schema_changes')"
        ).fetchall()
    files = {
        entry.object_name: entry.etag
        for entry in root().list_objects(bucket_name=settings().bucket, recursive=True)
        if not entry.object_name.startswith(
            ("warehouse/bronze/changes/", "warehouse/bronze/schema_changes/")
        )
    }
    reader = SqlCatalog(TRUNK, **for_pyiceberg(access(TRUNK)))
    rows = {name: values(reader, name) for name in (SILVER, GOLD, BRONZE, QUALITY)}
    return Lake(dict(found), files, rows)


def values(opened: Catalog, table: str) -> list[int]:
    return sorted(opened.load_table(table).scan().to_arrow()["value"].to_pylist())


@pytest.fixture(scope="module")
def first(lake_stack: Path) -> Iterator[Access]:
    """The branch on which the tables of silver and gold were made before they were published."""
    branch.create("protection_first")
    opened = access("protection_first")
    builder = open_catalog("protection_first")
    for name in (SILVER, GOLD):
        table = builder.create_table(name, ROWS.schema)
        table.append(ROWS)
        table.append(ROWS)
    publish.publish("protection_first")
    open_catalog(TRUNK, "ingest").create_table(BRONZE, ROWS.schema).append(ROWS)
    open_catalog(TRUNK, "recorder").create_table(QUALITY, ROWS.schema).append(ROWS)
    yield opened
    branch.create("protection_last")
    for name in (SILVER, GOLD):
        open_catalog("protection_last").drop_table(name)
    publish.publish("protection_last")
    with postgres.LAKE.admin(settings().catalog_database) as admin:
        admin.execute(
            "delete from iceberg_tables"
            " where table_namespace in ('bronze', 'quality') and table_name = 'protected'"
        )


@pytest.fixture(scope="module")
def before(first: Access) -> Lake:
    return now()


@pytest.fixture(scope="module")
def known(before: Lake) -> list[Lake]:
    """`lake` as it was found last."""
    return [before]


@pytest.fixture(autouse=True)
def intact(known: list[Lake]) -> Iterator[None]:
    """Every table of `lake` is as it was, whatever the test has tried."""
    yield
    before, after = known.pop(), now()
    known.append(after)
    assert after.pointers == before.pointers
    assert before.files.items() <= after.files.items()
    assert after.rows == before.rows


@pytest.fixture(scope="module")
def mine(before: Lake) -> Iterator[Access]:
    """A branch of a builder's own, on which nothing is changed."""
    branch.create(MINE)
    yield access(MINE)
    branch.drop(MINE)


@pytest.fixture(scope="module")
def forged(mine: Access) -> Access:
    """`lake`, opened with a builder's password and a branch's key."""
    return replace(mine, branch=TRUNK)


@pytest.fixture(scope="module")
def pin(before: Lake) -> Iterator[str]:
    """A pin; a tag beside it."""
    branch.tag(TAG)
    name = branch.pin()
    yield name
    branch.drop_tag(TAG)
    with postgres.LAKE.admin(settings().catalog_database) as admin:
        admin.execute("select lake.drop_ref(%s)", [name])
    branch.end(name)


# SQL


def changed(role: Role, statement: str) -> int:
    """How many rows a statement changes or returns; it is undone."""
    with connect(role) as connection, connection.transaction(force_rollback=True):
        return connection.execute(statement.encode()).rowcount


@pytest.mark.parametrize(
    "statement",
    [
        "update iceberg_tables set metadata_location = 'x' where catalog_name = 'lake'",
        "delete from iceberg_tables where catalog_name = 'lake'",
        "update iceberg_namespace_properties set property_value = 'x' where catalog_name = 'lake'",
        "delete from iceberg_namespace_properties where catalog_name = 'lake'",
    ],
)
def test_a_builder_finds_no_row_of_the_lake_to_change(mine: Access, statement: str) -> None:
    assert changed("builder", statement) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "insert into iceberg_tables values ('lake', 'silver', 'x', 'x', null, 'TABLE')",
        f"update iceberg_tables set catalog_name = 'lake', table_name = 'x'"
        f" where catalog_name = '{MINE}' and table_namespace = 'silver'",
        "insert into iceberg_namespace_properties values ('lake', 'x', 'x', 'x')",
        "insert into iceberg_tables values ('nobody', 'silver', 'x', 'x', null, 'TABLE')",
    ],
)
def test_a_builder_can_not_make_a_row_of_the_lake(mine: Access, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        changed("builder", statement)


def test_a_builder_can_not_write_a_tag_or_a_pin(pin: str) -> None:
    for ref in (TAG, pin):
        update = f"update iceberg_tables set metadata_location = 'x' where catalog_name = '{ref}'"
        assert changed("builder", update) == 0
        assert changed("builder", f"delete from iceberg_tables where catalog_name = '{ref}'") == 0
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            changed("builder", f"insert into iceberg_tables values ('{ref}', 'silver', 'x', 'x')")


def test_a_builder_can_not_write_bronze_on_its_own_branch(mine: Access) -> None:
    bronze = f"catalog_name = '{MINE}' and table_namespace = 'bronze'"
    update = f"update iceberg_tables set metadata_location = 'x' where {bronze}"
    assert changed("builder", update) == 0
    assert changed("builder", f"delete from iceberg_tables where {bronze}") == 0
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        changed("builder", f"insert into iceberg_tables values ('{MINE}', 'bronze', 'x', 'x')")
    opened = open_catalog(MINE)
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        opened.load_table(BRONZE).append(ROWS)
    with pytest.raises(NoSuchTableError):
        opened.purge_table(BRONZE)
    with pytest.raises(ProgrammingError, match="row-level security"):
        opened.create_table("bronze.extra", ROWS.schema)


@pytest.mark.parametrize(
    "statement",
    [
        f"update lake.refs set kind = 'branch' where name = '{TAG}'",
        "insert into lake.refs values ('x', 'branch', 'x', now(), null, 0, 'x', '')",
        "delete from lake.refs",
        "update lake.bases set metadata_location = 'x'",
        "delete from lake.bases",
        "insert into lake.publishes values (1000000, 'publish', now(), 'x')",
        "update lake.publishes set author = 'x'",
        "delete from lake.publishes",
        "insert into lake.moves values (1, 'silver', 'x', null, 'x')",
        "update lake.moves set after = 'x'",
        "delete from lake.moves",
        "update lake.keys set access_key = 'x'",
        "delete from lake.keys",
        "select * from lake.ready_keys",
        "insert into lake.ready_keys values ('branches', 'x', 'x', now())",
    ],
)
def test_a_builder_can_not_write_what_publishes_go_by(pin: str, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege, match="permission denied for table"):
        changed("builder", statement)


@pytest.mark.parametrize(
    "call",
    [
        f"publish('{MINE}', 'x', null, null)",
        "rollback(1, 'x', null)",
        "create_tag('x', 'x', null)",
        f"drop_tag('{TAG}')",
        "create_ref('x', 'pin', 'x', null, null, 1)",
        f"drop_ref('{TAG}')",
        "begin_publish('publish', 'x', null, null, null, null, null, true)",
        "apply_moves(1)",
        "drop_expired(now())",
        "forget_publishes(now(), 0)",
    ],
)
def test_a_builder_can_not_publish_roll_back_or_tag(mine: Access, pin: str, call: str) -> None:
    with pytest.raises(InsufficientPrivilege, match="permission denied for function"):
        changed("builder", f"select lake.{call}")


def test_a_builder_can_not_drop_a_tag_or_a_pin_as_if_it_were_a_branch(pin: str) -> None:
    for ref in (TAG, pin):
        with pytest.raises(psycopg.Error, match="there is no branch"):
            changed("builder", f"select lake.drop_branch('{ref}')")


@pytest.mark.parametrize(
    ("role", "call"),
    [
        ("builder", "create_branch('publish_1000000', 'x', '1 day')"),
        ("publisher", "create_tag('publish_1000000', 'x', null)"),
    ],
)
def test_nobody_takes_the_name_of_a_publish_that_readers_will_pin(
    before: Lake, role: Role, call: str
) -> None:
    keys.make(1)  # else it would be told that none is ready
    with pytest.raises(psycopg.Error) as refusal:
        changed(role, f"select lake.{call}")
    assert (refusal.value.sqlstate or "").startswith("LK")


@pytest.mark.parametrize(
    "statement",
    [
        "set role catalog",
        "set role publisher",
        "set role postgres",
        "set session authorization catalog",
        "grant publisher to builder",
        "alter role builder bypassrls",
        "alter table iceberg_tables disable row level security",
        "drop policy building on iceberg_tables",
        "create policy more on iceberg_tables to builder using (true)",
        "create or replace function lake.must_be(ref text, wanted text) returns void"
        " language sql as 'select'",
        "truncate iceberg_tables",
        "drop table iceberg_tables",
        "create table public.x (x int)",
        "create temp table iceberg_tables (x int)",
        "create schema x",
        "copy lake.refs to program 'true'",
        "select pg_read_file('pg_hba.conf')",
    ],
)
def test_a_builder_can_not_lift_its_limits(before: Lake, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        changed("builder", statement)


def test_a_builder_can_not_switch_row_level_security_off_for_itself(before: Lake) -> None:
    with connect("builder") as connection, connection.transaction(force_rollback=True):
        connection.execute("set local row_security = off")
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            connection.execute("update iceberg_tables set metadata_location = 'x'")


@pytest.mark.parametrize(
    "statement",
    [
        "insert into iceberg_tables values ('lake', 'silver', 'x', 'x', null, 'TABLE')",
        "update iceberg_tables set metadata_location = 'x'",
        "delete from iceberg_tables",
        "insert into iceberg_namespace_properties values ('lake', 'x', 'x', 'x')",
        "update lake.refs set expires_at = null",
        "delete from lake.moves",
        "select * from lake.keys",
        "select lake.create_branch('x', 'x', '1 day')",
        f"select lake.drop_branch('{MINE}')",
        f"select lake.publish('{MINE}', 'x', null, null)",
        "select lake.create_tag('x', 'x', null)",
    ],
)
def test_a_reader_can_not_write_by_sql_nor_read_keys(mine: Access, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege, match="permission denied"):
        changed("reader", statement)


@pytest.mark.parametrize(
    "statement",
    [
        "update iceberg_tables set metadata_location = 'x'",
        "insert into iceberg_tables values ('lake', 'silver', 'x', 'x', null, 'TABLE')",
        "delete from iceberg_tables",
        "update lake.publishes set author = 'x'",
        "delete from lake.moves",
        "select * from lake.keys",
    ],
)
def test_a_publisher_moves_no_pointer_but_by_publishing(before: Lake, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege, match="permission denied"):
        changed("publisher", statement)


@pytest.mark.parametrize(("role", "own"), [("ingest", "bronze"), ("recorder", "quality")])
def test_who_appends_to_a_namespace_can_not_touch_another_by_sql(
    mine: Access, role: Role, own: str
) -> None:
    others = f"where table_namespace <> '{own}' or catalog_name <> 'lake'"
    assert changed("reader", f"select from iceberg_tables {others}") >= 6
    assert changed(role, f"update iceberg_tables set metadata_location = 'x' {others}") == 0
    for statement in (
        "insert into iceberg_tables values ('lake', 'silver', 'x', 'x', null, 'TABLE')",
        f"insert into iceberg_tables values ('{MINE}', '{own}', 'x', 'x', null, 'TABLE')",
        "update iceberg_tables set table_namespace = 'silver' where table_name = 'protected'",
    ):
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            changed(role, statement)
    for denied in ("delete from iceberg_tables", "select * from lake.keys"):
        with pytest.raises(InsufficientPrivilege, match="permission denied"):
            changed(role, denied)


@pytest.mark.parametrize("role", ["builder", "ingest", "capture"])
def test_nobody_but_the_recorder_moves_a_table_of_quality(mine: Access, role: Role) -> None:
    kept = "where table_namespace = 'quality'"
    assert changed("reader", f"select from iceberg_tables {kept} and catalog_name = '{MINE}'") >= 1
    assert changed(role, f"update iceberg_tables set metadata_location = 'x' {kept}") == 0


def test_a_branch_can_not_change_or_drop_a_table_of_quality(mine: Access) -> None:
    opened = open_catalog(MINE)
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        opened.load_table(QUALITY).append(ROWS)
    for drop in (opened.drop_table, opened.purge_table):
        with pytest.raises(NoSuchTableError):
            drop(QUALITY)
    with pytest.raises(ProgrammingError, match="row-level security"):
        opened.create_table("quality.extra", ROWS.schema)


def test_capture_can_not_move_another_table_than_its_own(before: Lake) -> None:
    others = "where table_name not in ('changes', 'schema_changes')"
    assert changed("capture", f"update iceberg_tables set metadata_location = 'x' {others}") == 0
    for statement in (
        "insert into iceberg_tables values ('lake', 'bronze', 'x', 'x', null, 'TABLE')",
        "delete from iceberg_tables",
        "select * from lake.keys",
    ):
        with pytest.raises(InsufficientPrivilege, match="permission denied"):
            changed("capture", statement)


def test_maintenance_can_not_move_what_a_branch_a_tag_or_a_pin_points_to(
    mine: Access, pin: str
) -> None:
    refs = f"where catalog_name in ('{MINE}', '{TAG}', '{pin}')"
    assert changed("reader", f"select from iceberg_tables {refs}") >= 9
    assert changed("maintenance", f"update iceberg_tables set metadata_location = 'x' {refs}") == 0
    for statement in (
        f"delete from iceberg_tables {refs}",
        f"insert into iceberg_tables values ('{MINE}', 'silver', 'x', 'x', null, 'TABLE')",
        f"select lake.publish('{MINE}', 'x', null, null)",
        "select * from lake.keys",
    ):
        with pytest.raises(InsufficientPrivilege, match="permission denied"):
            changed("maintenance", statement)


# Postgres itself


def as_capture(
    server: postgres.Server, database: str, replication: str | None = None
) -> psycopg.Connection:
    address = make_conninfo(
        host=settings().host,
        port=server.port,
        dbname=database,
        user="capture",
        password=credentials().roles["capture"].password,
        replication=replication,
    )
    return psycopg.connect(address, autocommit=True)


@pytest.mark.parametrize("server", [postgres.LAKE, postgres.SOURCE])
@pytest.mark.parametrize("database", ["feast", "postgres", "template1", "source"])
def test_capture_opens_no_other_database_than_the_source(
    before: Lake, server: postgres.Server, database: str
) -> None:
    refused = "permission denied for database|does not exist"
    if (server, database) == (postgres.SOURCE, "source"):
        as_capture(server, database).close()
    else:
        with pytest.raises(psycopg.OperationalError, match=refused):
            as_capture(server, database)


@pytest.mark.parametrize("replication", ["database", "true"])
@pytest.mark.parametrize("database", ["feast", "postgres", "template1", "catalog"])
def test_capture_replicates_nothing_of_the_server_that_has_the_catalog(
    before: Lake, database: str, replication: str
) -> None:
    refused = "permission denied|entry for replication connection|max_wal_senders"
    with pytest.raises(psycopg.OperationalError, match=refused):
        as_capture(postgres.LAKE, database, replication)


def test_what_capture_may_copy_whole_holds_the_source_and_nothing_else(before: Lake) -> None:
    """By the connection that it streams from, a role can copy all of a server."""
    with postgres.SOURCE.admin() as admin:
        found = admin.execute("select datname from pg_database").fetchall()
        roles = admin.execute("select rolname from pg_roles where rolcanlogin").fetchall()
    made_by_tests = {name for (name,) in found if name.startswith(("test", "demo"))}
    assert {name for (name,) in found} - made_by_tests == {
        "source",
        "postgres",
        "template0",
        "template1",
    }
    assert {name for (name,) in roles} == {"source", "capture", "postgres"}


def test_capture_can_not_decode_the_changes_of_the_catalog(before: Lake) -> None:
    decode = "select pg_create_logical_replication_slot('protection', 'test_decoding', true)"
    with (
        pytest.raises(psycopg.Error, match="permission denied"),
        as_capture(postgres.LAKE, settings().catalog_database) as connection,
    ):
        connection.execute(decode)


# The object store


def client(access_key: str, secret_key: str) -> Minio:
    address = f"{settings().host}:{settings().ports.minio}"
    return Minio(endpoint=address, access_key=access_key, secret_key=secret_key, secure=False)


def root() -> Minio:
    return client(object_store.ROOT_USER, credentials().minio_root_password)


def of_role(role: Role) -> Minio:
    return client(role, credentials().roles[role].s3_secret_key)


def get(store: Minio, name: str) -> bytes:
    with store.get_object(bucket_name=settings().bucket, object_name=name) as answer:
        return bytes(answer.read())


def put(store: Minio, name: str, content: bytes = b"x") -> None:
    store.put_object(
        bucket_name=settings().bucket,
        object_name=name,
        data=io.BytesIO(content),
        length=len(content),
    )


def remove(store: Minio, name: str) -> None:
    store.remove_object(bucket_name=settings().bucket, object_name=name)


@contextmanager
def refused(*codes: str) -> Iterator[None]:
    """The object store refuses what is done within."""
    with pytest.raises(S3Error) as refusal:
        yield
    assert refusal.value.code in (codes or ("AccessDenied",))


@contextmanager
def kept(name: str) -> Iterator[None]:
    """A file stays as it is, or is put back and the test fails."""
    content = get(root(), name)
    try:
        yield
    finally:
        after = None
        with suppress(S3Error):
            after = get(root(), name)
        if after != content:
            put(root(), name, content)
    assert after == content


def files(table: str, ending: str = "", on: str = TRUNK) -> list[str]:
    """The files of a table that end so, as names in the bucket."""
    location = open_catalog(on).load_table(table).location()
    below = location.removeprefix(f"s3://{settings().bucket}/")
    found = root().list_objects(bucket_name=settings().bucket, prefix=below, recursive=True)
    return [entry.object_name for entry in found if entry.object_name.endswith(ending)]


@pytest.mark.parametrize("ending", [".parquet", ".avro", ".metadata.json"])
@pytest.mark.parametrize("table", [SILVER, GOLD, BRONZE])
def test_a_branch_s_key_deletes_no_file_of_the_lake(mine: Access, table: str, ending: str) -> None:
    store = client(mine.access_key, mine.secret_key)
    for name in files(table, ending):
        with kept(name), refused():
            remove(store, name)


def test_a_branch_s_key_deletes_no_files_of_the_lake_by_the_dozen(mine: Access) -> None:
    store = client(mine.access_key, mine.secret_key)
    names = files(SILVER) + files(BRONZE)
    errors = store.remove_objects(
        bucket_name=settings().bucket, delete_object_list=[DeleteObject(name) for name in names]
    )
    assert {error.code for error in errors} == {"AccessDenied"}


def test_a_branch_s_key_deletes_its_own_files_and_no_other_branch_s(mine: Access) -> None:
    branch.create("protection_other")
    try:
        opened = open_catalog("protection_other")
        opened.create_table("silver.extra", ROWS.schema).append(ROWS)
        name = files("silver.extra", ".parquet", "protection_other")[0]
        with kept(name), refused():
            remove(client(mine.access_key, mine.secret_key), name)
        own = access("protection_other")
        remove(client(own.access_key, own.secret_key), name)
        assert name not in files("silver.extra", on="protection_other")
    finally:
        branch.drop("protection_other")


@pytest.mark.parametrize(
    "role", ["reader", "builder", "publisher", "ingest", "capture", "recorder", "trainer"]
)
def test_no_role_but_maintenance_deletes_a_file_that_was_published(
    before: Lake, role: Role
) -> None:
    for table in (SILVER, BRONZE, QUALITY):
        name = files(table, ".parquet")[0]
        with kept(name), refused():
            remove(of_role(role), name)


@pytest.mark.parametrize("table", [BRONZE, QUALITY, SILVER, GOLD])
def test_a_branch_s_key_overwrites_no_file_of_the_lake(mine: Access, table: str) -> None:
    store = client(mine.access_key, mine.secret_key)
    for name in files(table, ".parquet") + files(table, ".metadata.json"):
        with kept(name), pytest.raises(S3Error):
            put(store, name)


def test_a_branch_s_key_overwrites_no_file_of_the_lake_in_parts(mine: Access) -> None:
    parts = io.BytesIO(bytes(6 << 20))
    name = files(SILVER, ".parquet")[0]
    with kept(name), pytest.raises(S3Error):
        client(mine.access_key, mine.secret_key).put_object(
            bucket_name=settings().bucket,
            object_name=name,
            data=parts,
            length=-1,
            part_size=5 << 20,
        )


def test_a_branch_s_key_overwrites_no_file_of_another_branch(mine: Access) -> None:
    branch.create("protection_other")
    try:
        opened = open_catalog("protection_other")
        opened.create_table("silver.extra", ROWS.schema).append(ROWS)
        name = files("silver.extra", ".parquet", "protection_other")[0]
        with kept(name), pytest.raises(S3Error):
            put(client(mine.access_key, mine.secret_key), name)
    finally:
        branch.drop("protection_other")


@pytest.mark.xfail(
    strict=True, reason="S3 knows no right to write a new file that isn't one to overwrite another"
)
def test_ingest_overwrites_no_file_of_bronze(before: Lake) -> None:
    for name in files(BRONZE):
        with kept(name), pytest.raises(S3Error):
            put(of_role("ingest"), name)


def test_a_branch_s_key_makes_no_other_key(mine: Access) -> None:
    address = f"{settings().host}:{settings().ports.minio}"
    provider = StaticProvider(mine.access_key, mine.secret_key)
    admin = MinioAdmin(endpoint=address, credentials=provider, secure=False)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: admin.add_service_account(name="x"),
        lambda: admin.update_service_account(access_key=mine.access_key, policy={"Statement": []}),
        lambda: admin.list_service_account(object_store.KEY_OWNER),
        lambda: admin.user_add("x", "x" * 20),
    )
    for attempt in attempts:
        with pytest.raises(MinioAdminException, match="AccessDenied"):
            attempt()


@pytest.mark.parametrize("end", ["dropped", "published"])
def test_a_branch_s_key_dies_with_the_branch(first: Access, end: str) -> None:
    opened = first
    if end == "dropped":
        branch.create("protection_brief")
        opened = access("protection_brief")
        store = client(opened.access_key, opened.secret_key)
        assert get(store, files(SILVER, ".parquet")[0])
        branch.drop("protection_brief")
    store = client(opened.access_key, opened.secret_key)
    own = opened.warehouse.removeprefix(f"s3://{settings().bucket}/") + "/x"
    with refused("InvalidAccessKeyId", "AccessDenied"):
        get(store, files(SILVER, ".parquet")[0])
    with refused("InvalidAccessKeyId", "AccessDenied"):
        put(store, own)


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("reader", "warehouse/silver/x"),
        ("reader", "branches/x"),
        ("publisher", "warehouse/silver/x"),
        ("publisher", "branches/x"),
        ("ingest", "warehouse/silver/x"),
        ("ingest", "warehouse/gold/x"),
        ("ingest", "branches/x"),
        ("capture", "warehouse/silver/x"),
        ("capture", "warehouse/bronze/x"),
        ("capture", "branches/x"),
        ("builder", "warehouse/quality/x"),
        ("ingest", "warehouse/quality/x"),
        ("capture", "warehouse/quality/x"),
        ("recorder", "warehouse/bronze/x"),
        ("recorder", "warehouse/silver/x"),
        ("recorder", "branches/x"),
        ("trainer", "warehouse/gold/x"),
        ("trainer", "branches/x"),
        ("reader", "models/x"),
        ("builder", "models/x"),
        ("recorder", "models/x"),
    ],
)
def test_a_role_puts_nothing_outside_its_paths(before: Lake, role: Role, path: str) -> None:
    with refused():
        put(of_role(role), path)


@pytest.mark.parametrize(
    "role", ["reader", "builder", "publisher", "ingest", "capture", "recorder", "trainer"]
)
def test_no_role_changes_what_the_bucket_allows(before: Lake, role: Role) -> None:
    store, bucket = of_role(role), settings().bucket
    nothing = {"Version": "2012-10-17", "Statement": []}
    attempts: tuple[Callable[[], object], ...] = (
        lambda: store.set_bucket_policy(bucket_name=bucket, policy=json.dumps(nothing)),
        lambda: store.delete_bucket_lifecycle(bucket_name=bucket),
        lambda: store.remove_bucket(bucket_name=bucket),
    )
    for attempt in attempts:
        with refused():
            attempt()


# PyIceberg

WRITES: dict[str, Callable[[Catalog], object]] = {
    "append": lambda on: on.load_table(SILVER).append(ROWS),
    "overwrite": lambda on: on.load_table(SILVER).overwrite(ROWS),
    "delete": lambda on: on.load_table(SILVER).delete("value = 1"),
    "add a column": lambda on: (
        on.load_table(SILVER).update_schema().add_column("more", LongType()).commit()
    ),
    "set a property": lambda on: (
        on.load_table(SILVER).transaction().set_properties(x="x").commit_transaction()
    ),
    "expire snapshots": lambda on: (
        on.load_table(SILVER).maintenance.expire_snapshots().older_than(EVER).commit()
    ),
    "create": lambda on: on.create_table("silver.extra", ROWS.schema),
    "register": lambda on: on.register_table(
        "silver.extra", on.load_table(SILVER).metadata_location
    ),
    "rename": lambda on: on.rename_table(SILVER, "silver.renamed"),
    "drop": lambda on: on.drop_table(SILVER),
    "purge": lambda on: on.purge_table(SILVER),
    "create a namespace": lambda on: on.create_namespace("extra"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_builder_can_not_write_the_lake_through_pyiceberg(forged: Access, write: str) -> None:
    opened = SqlCatalog(TRUNK, **for_pyiceberg(forged))
    with pytest.raises(
        (OSError, CommitFailedException, NoSuchTableError, ProgrammingError)
    ) as told:
        WRITES[write](opened)
    if told.type is ProgrammingError:
        assert "row-level security" in str(told.value)
    if told.type is OSError:
        assert "ACCESS_DENIED" in str(told.value)


@pytest.mark.parametrize("write", WRITES)
def test_a_reader_can_not_write_the_lake_through_pyiceberg(before: Lake, write: str) -> None:
    opened = SqlCatalog(TRUNK, **for_pyiceberg(access(TRUNK)))
    with pytest.raises((OSError, ProgrammingError), match=r"(?i)access.denied|permission denied"):
        WRITES[write](opened)


@pytest.mark.parametrize(("role", "own"), [("ingest", BRONZE), ("recorder", QUALITY)])
def test_who_appends_to_a_namespace_can_not_write_silver_through_pyiceberg(
    before: Lake, role: Role, own: str
) -> None:
    opened = SqlCatalog(TRUNK, **for_pyiceberg(access(role=role)))
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        opened.create_table("silver.extra", ROWS.schema)
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        opened.load_table(SILVER).append(ROWS)
    location = f"{settings().warehouse}/{own.partition('.')[0]}/extra"  # where it may write
    with pytest.raises(ProgrammingError, match="row-level security"):
        opened.create_table("silver.extra", ROWS.schema, location)


@pytest.mark.parametrize(("role", "own"), [("ingest", BRONZE), ("recorder", QUALITY)])
def test_who_appends_to_a_namespace_can_not_drop_a_table_of_it(
    before: Lake, role: Role, own: str
) -> None:
    opened = SqlCatalog(TRUNK, **for_pyiceberg(access(role=role)))
    for drop in (opened.drop_table, opened.purge_table):
        with pytest.raises(ProgrammingError, match="permission denied for table"):
            drop(own)


@pytest.mark.parametrize("role", ["ingest", "capture", "recorder"])
def test_who_appends_to_a_namespace_deletes_no_file_there(before: Lake, role: Role) -> None:
    for name in files(QUALITY if role == "recorder" else BRONZE):
        with kept(name), refused():
            remove(of_role(role), name)


# Spark

SPARK_WRITES = (
    f"insert into lake.{SILVER} values (9)",
    f"update lake.{SILVER} set value = 7 where value = 2",
    f"delete from lake.{SILVER} where value = 1",
    f"merge into lake.{SILVER} t using (select 1L as value) s on t.value = s.value"
    " when matched then delete",
    f"alter table lake.{SILVER} add column more int",
    f"alter table lake.{SILVER} set tblproperties ('x' = 'x')",
    f"alter table lake.{SILVER} rename to silver.renamed",
    f"truncate table lake.{SILVER}",
    "create table lake.silver.extra (value bigint)",
    f"create or replace table lake.{SILVER} as select 1L as value",
    f"call lake.system.expire_snapshots('{SILVER}', timestamp '2099-01-01 00:00:00', 1)",
)
# the last is a rename's: Iceberg's update finds no row of the catalog that it may change
REFUSALS = "Access Denied|CommitFailedException|UncheckedSQLException|TABLE_OR_VIEW_NOT_FOUND"


@pytest.fixture(scope="module")
def server_s_spark(before: Lake) -> Iterator[Spark]:
    """A session with `lake` as the server has it."""
    with spark_session({}) as ask:
        yield ask


@pytest.fixture(scope="module")
def forged_spark(forged: Access) -> Iterator[Spark]:
    """A session with `lake` as a builder opens it."""
    with spark_session(for_spark(forged)) as ask:
        yield ask


@pytest.mark.parametrize("statement", [*SPARK_WRITES, f"drop table lake.{SILVER} purge"])
def test_spark_can_not_write_the_lake_as_its_server_opens_it(
    server_s_spark: Spark, statement: str
) -> None:
    with pytest.raises(PySparkException, match=REFUSALS):
        server_s_spark(statement)


@pytest.mark.parametrize("statement", SPARK_WRITES)
def test_spark_can_not_write_the_lake_as_a_builder_opens_it(
    forged_spark: Spark, statement: str
) -> None:
    with pytest.raises(PySparkException, match=REFUSALS):
        forged_spark(statement)


@pytest.mark.parametrize("how", ["", "purge"])
def test_spark_drops_no_table_of_the_lake_as_a_builder_opens_it(
    forged_spark: Spark, how: str
) -> None:
    forged_spark(f"drop table lake.{SILVER} {how}")  # it doesn't look whether a row was deleted


# Trino

TRINO_WRITES = (
    "insert into {lake} values (9)",
    "update {lake} set value = 7 where value = 2",
    "delete from {lake} where value = 1",
    "delete from {lake}",
    "merge into {lake} t using (select bigint '1' as value) s on t.value = s.value"
    " when matched then delete",
    "alter table {lake} add column more int",
    "alter table {lake} execute optimize",
    "alter table {lake} rename to silver.renamed",
    "truncate table {lake}",
    "create or replace table {lake} as select 1 as value",
    "drop table {lake}",
)


@pytest.fixture(scope="module")
def forged_trino(forged: Access) -> Iterator[str]:
    """The name of a catalog that opens `lake` as a builder."""
    trino.add_catalog(forged, "protection_forged")
    yield "protection_forged"
    trino.drop_catalog("protection_forged")


@pytest.mark.parametrize("statement", TRINO_WRITES)
def test_trino_can_not_write_the_lake_as_everybody_opens_it(before: Lake, statement: str) -> None:
    with pytest.raises(TrinoError):
        trino.ask(statement.format(lake=f"lake.{SILVER}"))


@pytest.mark.parametrize("statement", TRINO_WRITES)
def test_trino_can_not_write_the_lake_as_a_builder_opens_it(
    forged_trino: str, statement: str
) -> None:
    with pytest.raises(TrinoError):
        trino.ask(statement.format(lake=f"{forged_trino}.{SILVER}"))


@pytest.mark.parametrize("statement", TRINO_WRITES)
@pytest.mark.parametrize("kind", ["tag", "pin"])
def test_trino_can_not_write_a_tag_or_a_pin(pin: str, kind: str, statement: str) -> None:
    with pytest.raises(TrinoError):
        trino.ask(statement.format(lake=f"{TAG if kind == 'tag' else pin}.{SILVER}"))


@pytest.fixture
def told() -> Iterator[Access]:
    """A branch of which Trino was told just now."""
    branch.create("protection_told")
    yield access("protection_told")
    branch.drop("protection_told")


def test_trino_shows_no_secret_in_its_list_of_queries(told: Access) -> None:
    secrets = [told.secret_key, *secret_values()]
    shown = [query for (query,) in trino.ask("select query from system.runtime.queries")]
    assert [query for query in shown if "protection_told" in query]
    assert not [query for query in shown if any(secret in query for secret in secrets)]


def test_trino_shows_no_secret_by_its_web_api(told: Access) -> None:
    def ask(path: str) -> str:
        url = f"http://{settings().host}:{settings().ports.trino}/v1/query{path}"
        request = urllib.request.Request(url, headers={"X-Trino-User": "lake"})
        with urllib.request.urlopen(request) as answer:
            return str(answer.read().decode())

    secrets = [told.secret_key, *secret_values()]
    listed = ask("")
    assert not any(secret in listed for secret in secrets)
    made = [query for query in json.loads(listed) if "protection_told" in query["query"]]
    for query in made:
        whole = ask(f"/{query['queryId']}")
        assert not any(secret in whole for secret in secrets)


def test_no_log_holds_a_secret(told: Access, lake_stack: Path) -> None:
    secrets = [told.secret_key, *secret_values()]
    for log in (lake_stack / "logs").iterdir():
        text = log.read_text(errors="replace")
        assert not any(secret in text for secret in secrets), log


# Dropping a shared table on a branch


@contextmanager
def branch_without(*tables: str) -> Iterator[str]:
    """A branch from which these tables are dropped meanwhile; `lake`'s bronze is still on it."""
    name = "protection_dropping"
    branch.create(name)
    try:
        yield name
        with connect("reader") as connection:
            found = connection.execute(
                "select table_namespace || '.' || table_name from iceberg_tables"
                " where catalog_name = %s and table_name = 'protected'",
                [name],
            ).fetchall()
        assert {table for (table,) in found} == {SILVER, GOLD, BRONZE, QUALITY} - {*tables}
    finally:
        branch.drop(name)


def test_a_table_that_trino_drops_on_a_branch_stays_on_the_lake(before: Lake) -> None:
    with branch_without(SILVER, GOLD) as name:
        for table in (SILVER, GOLD, BRONZE):
            with pytest.raises(TrinoExternalError, match="Failed to delete directory"):
                trino.ask(f"drop table {name}.{table}")


def test_a_table_that_spark_purges_on_a_branch_stays_on_the_lake(before: Lake) -> None:
    with branch_without(SILVER, GOLD) as name, spark_session(for_spark(access(name))) as ask:
        for table in (SILVER, GOLD, BRONZE):
            ask(f"drop table {name}.{table} purge")


def test_a_table_that_pyiceberg_purges_on_a_branch_stays_on_the_lake(before: Lake) -> None:
    with branch_without(SILVER, GOLD) as name:
        opened = open_catalog(name)
        opened.purge_table(SILVER)
        opened.purge_table(GOLD)
        with pytest.raises(NoSuchTableError):
            opened.purge_table(BRONZE)
