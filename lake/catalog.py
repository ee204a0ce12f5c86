"""The catalog: Iceberg's JDBC catalog in Postgres, and who is let in with which keys.

A catalog name is a branch; `access` says what an engine needs to work on one, in the least of the
roles that will do. Whoever opens the lake does it by this.
"""

import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from lake import object_store
from lake.credentials import Role, credentials
from lake.errors import LakeError
from lake.settings import LAYERS, QUALITY, TRUNK, settings

if TYPE_CHECKING:  # more than a second to import
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

OWNER = "catalog"


@dataclass(frozen=True)
class Access:
    """How to open one branch. `warehouse` is where new tables go, as `s3://bucket/path`."""

    branch: str
    role: str
    password: str = field(repr=False)
    access_key: str
    secret_key: str = field(repr=False)
    warehouse: str
    is_writable: bool


def access(branch: str | None = None, role: Role | None = None) -> Access:
    """What opens a branch (this process's, unless named): to read, and to write if it is one's own.

    A `role` opens `lake` itself, with what that role may do there.

    Raises LakeError where there is no such branch.
    """
    if role:
        return _access(TRUNK, role, settings().warehouse, is_writable=True)
    branch = branch or settings().branch
    if branch == TRUNK:
        return _access(TRUNK, "reader", settings().warehouse, is_writable=False)
    with connect("builder") as connection:
        found = connection.execute(
            "select kind, location, access_key, secret_key"
            " from lake.refs left join lake.keys on ref = name where name = %s",
            [branch],
        ).fetchone()
    if found is None:
        raise LakeError(f"there is no branch `{branch}`: make it with `lake branch create`")
    kind, location, access_key, secret_key = found
    if kind != "branch":
        return _access(branch, "reader", settings().warehouse, is_writable=False)
    password = credentials().roles["builder"].password
    warehouse = f"s3://{settings().bucket}/{location}"
    return Access(branch, "builder", password, access_key, secret_key, warehouse, True)


def _access(branch: str, role: Role, warehouse: str, *, is_writable: bool) -> Access:
    secrets = credentials().roles[role]
    return Access(
        branch, role, secrets.password, role, secrets.s3_secret_key, warehouse, is_writable
    )


def connect(role: Role, database: str | None = None) -> psycopg.Connection:
    """A connection to the catalog's database, or another one, that commits each statement.

    Raises LakeError where it can't be reached.
    """
    return _connect(role, credentials().roles[role].password, database)


@contextmanager
def alone(verb: str, role: Role, on: str = "") -> Iterator[None]:
    """Keep two of a verb apart, by a lock that the database lets go of when its holder dies.

    Raises LakeError where another one is at work (`on` the same thing, where one is named).
    """
    lock = [f"{verb} {on}"]
    with connect(role) as connection:
        taken = connection.execute("select pg_try_advisory_lock(hashtext(%s))", lock).fetchone()
        if taken != (True,):
            raise LakeError(f"a `{verb}` is at work: wait for it")
        try:
            yield
        finally:  # a closed connection's lock is let go of later than it closes
            with suppress(psycopg.Error):
                connection.execute("select pg_advisory_unlock(hashtext(%s))", lock)


def _connect(user: str, password: str, database: str | None = None) -> psycopg.Connection:
    try:
        return psycopg.connect(
            host=settings().host,
            port=settings().ports.postgres,
            dbname=database or settings().catalog_database,
            user=user,
            password=password,
            connect_timeout=5,
            autocommit=True,
        )
    except psycopg.OperationalError as error:
        said = str(error).strip().splitlines()[0]
        raise LakeError(f"the catalog can't be opened: {said}; is it up? `lake status`") from None


def jdbc_url() -> str:
    """Where the catalog's database is, for the Java engines; holds no password."""
    address = f"{settings().host}:{settings().ports.postgres}"
    return f"jdbc:postgresql://{address}/{settings().catalog_database}"


def for_pyiceberg(opened: Access) -> dict[str, str]:
    """What PyIceberg needs to open a branch; as those below, with secrets: not for disk or logs."""
    return {
        "type": "sql",
        "init_catalog_tables": "false",
        "schema_version": "v1",  # what the Java engines write
        "uri": f"postgresql+psycopg://{opened.role}:{opened.password}"
        f"@{settings().host}:{settings().ports.postgres}/{settings().catalog_database}",
        "warehouse": opened.warehouse,
        "s3.endpoint": settings().s3_endpoint,
        "s3.access-key-id": opened.access_key,
        "s3.secret-access-key": opened.secret_key,
        "s3.region": "us-east-1",
        "s3.force-virtual-addressing": "false",
    }


def for_spark(opened: Access) -> dict[str, str]:
    """What a Spark session sets to work on a branch."""
    catalog = f"spark.sql.catalog.{opened.branch}"
    return {
        "spark.sql.defaultCatalog": opened.branch,
        catalog: "org.apache.iceberg.spark.SparkCatalog",
        f"{catalog}.type": "jdbc",
        f"{catalog}.uri": jdbc_url(),
        f"{catalog}.jdbc.user": opened.role,
        f"{catalog}.jdbc.password": opened.password,
        f"{catalog}.jdbc.schema-version": "V1",
        f"{catalog}.warehouse": opened.warehouse,
        f"{catalog}.io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        f"{catalog}.s3.endpoint": settings().s3_endpoint,
        f"{catalog}.s3.path-style-access": "true",
        f"{catalog}.s3.access-key-id": opened.access_key,
        f"{catalog}.s3.secret-access-key": opened.secret_key,
        f"{catalog}.cache-enabled": "false",
    }


def for_trino(opened: Access, key_file: Path) -> dict[str, str]:
    """What makes a catalog of Trino's, which shows it to everybody: there is no secret in it.

    Passwords are in Trino's environment, the object store's key in a file (`stack/trino.py`).
    """
    return {
        "iceberg.catalog.type": "jdbc",
        "iceberg.jdbc-catalog.catalog-name": opened.branch,
        "iceberg.jdbc-catalog.driver-class": "org.postgresql.Driver",
        "iceberg.jdbc-catalog.schema-version": "V1",
        "iceberg.jdbc-catalog.connection-url": jdbc_url(),
        "iceberg.jdbc-catalog.connection-user": opened.role,
        "iceberg.jdbc-catalog.connection-password": f"${{ENV:{opened.role.upper()}_PASSWORD}}",
        "iceberg.jdbc-catalog.default-warehouse-dir": opened.warehouse,
        "iceberg.unique-table-location": "true",
        "iceberg.format-version": "2",
        "iceberg.allowed-extra-properties": "*",  # what dbt declares for Spark's merges
        "fs.native-s3.enabled": "true",
        "s3.endpoint": settings().s3_endpoint,
        "s3.region": "us-east-1",
        "s3.path-style-access": "true",
        "s3.security-mapping.enabled": "true",
        "s3.security-mapping.config-file": str(key_file),
    }


def catalog(role: Role | None = None) -> "Catalog":
    """The tables of this process's branch as PyIceberg sees them; by `role`, those of `lake`."""
    return open_catalog(settings().branch, role)


@lru_cache
def open_catalog(branch: str, role: Role | None = None) -> "Catalog":
    """The tables of a branch as PyIceberg sees them.

    Raises LakeError where there is no such branch.
    """
    from pyiceberg.catalog.sql import SqlCatalog

    opened = access(branch, role)
    return SqlCatalog(opened.branch, **for_pyiceberg(opened))


def metadata(branch: str, table: str) -> Mapping[str, Any] | None:
    """A table's metadata file, in the words of Iceberg's specification; None without the table.

    For what is asked often: PyIceberg takes more than a second to import.

    Raises LakeError where the file can't be read.
    """
    location = pointer(branch, table)
    return None if location is None else metadata_at(location)


def pointer(branch: str, table: str) -> str | None:
    """Where a table's metadata file is; None without the table."""
    namespace, _, name = table.partition(".")
    with connect("reader") as connection:
        found = connection.execute(
            "select metadata_location from iceberg_tables"
            " where (catalog_name, table_namespace, table_name) = (%s, %s, %s)",
            [branch, namespace, name],
        ).fetchone()
    return found[0] if found else None


def metadata_at(location: str) -> dict[str, Any]:
    """A metadata file. Raises LakeError where it can't be read."""
    text = object_store.read(location, "reader", credentials().roles["reader"].s3_secret_key)
    read: dict[str, Any] = json.loads(gzip.decompress(text) if ".gz." in location else text)
    return read


def row_count(table: "Table") -> int:
    """How many rows a table without equality deletes has, from its metadata alone."""
    snapshot = table.current_snapshot()
    return total(snapshot, "records") - total(snapshot, "position-deletes")


def total(snapshot: "Snapshot | None", what: str) -> int:
    """A total of a snapshot's summary, such as that of `data-files`; 0 where it tells of none."""
    summary = snapshot.summary if snapshot else None
    return int((summary[f"total-{what}"] if summary else None) or 0)


def create() -> None:
    """Make the catalog, its roles' rights and its namespaces, or bring them up to date."""
    statements = (files("lake.branches") / "schema.sql").read_text()
    with _connect(OWNER, credentials().catalog_password) as connection, connection.transaction():
        connection.execute(statements.encode())
        for namespace in (*LAYERS, QUALITY):
            connection.execute(
                "insert into iceberg_namespace_properties values (%s, %s, 'exists', 'true')"
                " on conflict do nothing",
                [TRUNK, namespace],
            )
