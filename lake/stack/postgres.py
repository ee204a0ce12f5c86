"""Postgres: the source, the catalog, Feast's registry: three databases, each with its owner."""

import os
import shutil
import subprocess
from collections.abc import Callable

import psycopg
from psycopg import sql

from lake import parts
from lake.catalog import OWNER
from lake.credentials import ROLES, credentials, write_private
from lake.errors import LakeError
from lake.settings import settings
from lake.stack.program import NOBODY, Program, home, tied, unprivileged


def program() -> Program:
    data = home("postgres") / "data"
    server = [str(parts.postgres() / "postgres"), "-D", str(data)]
    return Program(
        name="postgres",
        command=tied(server, unprivileged=True),
        ports={"postgres": settings().ports.postgres},
        ready=_ready,
        stop_signal="INT",  # "fast" shutdown: clients are told, data is flushed
    )


def configure() -> None:
    """Make the data directory where there is none, and write its settings afresh."""
    data = home("postgres") / "data"
    if not (data / "PG_VERSION").exists():
        _initialise()
    for name, text in (("postgresql.conf", _configuration()), ("pg_hba.conf", _ACCESS)):
        write_private(data / name, text)
        _own(data / name)


def _initialise() -> None:
    """Run initdb into a draft directory and rename it, so that a stopped one leaves nothing."""
    draft = home("postgres") / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    _own(draft)
    password = settings().state_dir / "initdb-password"
    write_private(password, credentials().postgres_password)
    locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    arguments = ["-D", str(draft), "-U", "postgres", "--pwfile", str(password), *locale]
    initdb = [str(parts.postgres() / "initdb"), *arguments, "--locale=C", "-A", "scram-sha-256"]
    try:
        done = subprocess.run(unprivileged(initdb), capture_output=True, text=True, cwd="/")
    finally:
        password.unlink()
    if done.returncode:
        raise LakeError(f"Postgres could not make its data directory: {done.stderr.strip()}")
    draft.rename(home("postgres") / "data")


def _own(path: os.PathLike[str]) -> None:
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)


def _configuration() -> str:
    return f"""\
listen_addresses = '{settings().host}'
port = {settings().ports.postgres}
unix_socket_directories = ''
timezone = 'UTC'
log_timezone = 'UTC'
shared_buffers = 128MB
max_wal_size = 2GB
wal_level = logical
max_slot_wal_keep_size = 8GB  # a slot that nobody reads must not fill the disk
password_encryption = scram-sha-256
"""


# No line for `replication`: capture, which may replicate, could copy every database by it.
_ACCESS = "host all all samehost scram-sha-256\n"


def connect(database: str, user: str, password: str) -> psycopg.Connection:
    """A connection of `user` to a database of this stack, which commits each statement."""
    return psycopg.connect(
        host=settings().host,
        port=settings().ports.postgres,
        dbname=database,
        user=user,
        password=password,
        connect_timeout=5,
        autocommit=True,
    )


def admin(database: str = "postgres") -> psycopg.Connection:
    """A superuser's connection."""
    return connect(database, "postgres", credentials().postgres_password)


def source_owner() -> Callable[[], psycopg.Connection] | None:
    """How to set up the captured source, where it is this stack's; None where it is not."""
    return None if settings().source.host else lambda: admin(settings().source.database)


def _ready() -> bool:
    try:
        admin().close()
    except psycopg.OperationalError:
        return False
    return True


def create_databases() -> None:
    """Make the roles and their databases where they are missing; passwords are set afresh."""
    secrets = credentials()
    with admin() as connection:
        _role(connection, "source", secrets.source_password)
        _role(connection, OWNER, secrets.catalog_password)
        _role(connection, "feast", secrets.feast_password)
        for role in ROLES:
            _role(connection, role, secrets.roles[role].password)
        connection.execute("alter role capture with replication")
        for database, owner, users in (
            ("source", "source", ("capture",)),
            ("feast", "feast", ()),
            (settings().catalog_database, OWNER, ROLES),
        ):
            _database(connection, database, owner, users)
        connection.execute("revoke all on database postgres, template1 from public")


def _database(
    connection: psycopg.Connection, database: str, owner: str, users: tuple[str, ...]
) -> None:
    """Make a database that nobody but its owner and users can open."""
    name = sql.Identifier(database)
    found = connection.execute("select 1 from pg_database where datname = %s", [database])
    if not found.fetchone():
        make = sql.SQL("create database {} owner {}")
        connection.execute(make.format(name, sql.Identifier(owner)))
    connection.execute(sql.SQL("revoke all on database {} from public").format(name))
    for user in (owner, *users):
        allow = sql.SQL("grant connect on database {} to {}")
        connection.execute(allow.format(name, sql.Identifier(user)))


def _role(connection: psycopg.Connection, role: str, password: str) -> None:
    found = connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone()
    statement = sql.SQL(f"{'alter' if found else 'create'} role {{}} with login password {{}}")
    connection.execute(statement.format(sql.Identifier(role), sql.Literal(password)))
