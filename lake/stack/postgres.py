"""Postgres, twice: the lake's own, with catalog and registry; and the source, as production has it.

They are apart because whoever replicates from a server can copy all of it: capture, which must be
let into the source, is thereby nowhere near the catalog.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from lake import parts, registry
from lake.catalog import OWNER
from lake.credentials import ROLES, credentials, write_private
from lake.errors import LakeError
from lake.settings import settings
from lake.stack.program import NOBODY, Program, home, tied, unprivileged


@dataclass(frozen=True)
class Server:
    """One Postgres of the stack: its part's name, and what is configured there alone."""

    name: str
    configuration: str

    @property
    def port(self) -> int:
        return int(getattr(settings().ports, self.name))

    @property
    def data(self) -> Path:
        return home(self.name) / "data"

    def program(self) -> Program:
        command = [str(parts.postgres() / "postgres"), "-D", str(self.data)]
        return Program(
            name=self.name,
            command=tied(command, unprivileged=True),
            ports={self.name: self.port},
            ready=self._ready,
            stop_signal="INT",  # "fast" shutdown: clients are told, data is flushed
        )

    def configure(self) -> None:
        """Make the data directory where there is none, and write its settings afresh."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        common = _COMMON.format(host=settings().host, port=self.port)
        files = ("postgresql.conf", common + self.configuration), ("pg_hba.conf", _ACCESS)
        for name, text in files:
            write_private(self.data / name, text)
            _own(self.data / name)

    def _initialise(self) -> None:
        """Run initdb into a draft directory and rename it, so that a stopped one leaves nothing."""
        draft = home(self.name) / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        _own(draft)
        password = home(self.name) / "initdb-password"
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
        draft.rename(self.data)

    def connect(self, database: str, user: str, password: str) -> psycopg.Connection:
        """A connection of `user` to a database, which commits each statement."""
        return psycopg.connect(
            host=settings().host,
            port=self.port,
            dbname=database,
            user=user,
            password=password,
            connect_timeout=5,
            autocommit=True,
        )

    def admin(self, database: str = "postgres") -> psycopg.Connection:
        """A superuser's connection."""
        return self.connect(database, "postgres", credentials().postgres_password)

    def _ready(self) -> bool:
        try:
            self.admin().close()
        except psycopg.OperationalError:
            return False
        return True


_COMMON = """\
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
timezone = 'UTC'
log_timezone = 'UTC'
shared_buffers = 128MB
max_wal_size = 2GB
password_encryption = scram-sha-256
"""
LAKE = Server(
    "postgres",
    """\
max_connections = 300  # each session of Spark's that is on a branch has its own
wal_level = minimal
max_wal_senders = 0  # nobody replicates from here
""",
)
SOURCE = Server(
    "source",
    """\
wal_level = logical
max_prepared_transactions = 16  # whoever commits in two phases is captured too
max_slot_wal_keep_size = 8GB  # a slot that nobody reads must not fill the disk
""",
)
# No line for `replication`: only the physical kind would need one.
_ACCESS = "host all all samehost scram-sha-256\n"


def source_owner() -> Callable[[], psycopg.Connection] | None:
    """How to set up the captured source, where it is this stack's; None where it is not."""
    return None if settings().source.host else lambda: SOURCE.admin(settings().source.database)


def _own(path: os.PathLike[str]) -> None:
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)


def create_databases() -> None:
    """Make the lake's roles and databases where they are missing; passwords are set afresh."""
    secrets = credentials()
    with LAKE.admin() as connection:
        _role(connection, OWNER, secrets.catalog_password)
        _role(connection, "feast", secrets.feast_password)
        for role in ROLES:
            _role(connection, role, secrets.roles[role].password)
        _database(connection, "feast", "feast", ())
        of_the_catalog = tuple(role for role in ROLES if role != registry.OWNER)
        _database(connection, settings().catalog_database, OWNER, of_the_catalog)
        _database(connection, registry.DATABASE, registry.OWNER, (registry.READER,))
        connection.execute("revoke all on database postgres, template1 from public")
    with LAKE.admin(registry.DATABASE) as connection:
        connection.execute(
            f"alter default privileges for role {registry.OWNER}"
            f" grant select on tables to {registry.READER}"
        )


def create_source() -> None:
    """Make the source's database, its owner and the role that captures, where they are missing."""
    secrets = credentials()
    with SOURCE.admin() as connection:
        _role(connection, "source", secrets.source_password)
        _role(connection, "capture", secrets.roles["capture"].password)
        connection.execute("alter role capture with replication")
        _database(connection, "source", "source", ("capture",))
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
