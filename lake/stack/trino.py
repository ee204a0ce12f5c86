"""Trino: SQL for people. One small node that coordinates and works."""

import json
import shutil
from pathlib import Path
from typing import Any

from lake import parts
from lake.catalog import Access, for_trino
from lake.credentials import credentials, write_private
from lake.settings import settings
from lake.stack import people
from lake.stack.program import Program, answer, home, listens, tied


def program() -> Program:
    lib, _ = parts.trino()
    etc = home("trino") / "etc"
    java = [str(parts.java("trino")), f"-Xmx{settings().heap.trino}", *_JVM, *_compilers()]
    where = [
        f"-Dconfig={etc / 'config.properties'}",
        f"-Dcatalog.config-dir={etc / 'catalog'}",
        f"-Dlog.levels-file={etc / 'log.properties'}",
        f"-Dnode.data-dir={home('trino')}",
        "-Dnode.environment=lake",
        "-Dnode.id=lake",
    ]
    return Program(
        name="trino",
        command=tied([*java, *where, "-cp", f"{lib}/*", "io.trino.server.TrinoServer"]),
        ports={"trino": settings().ports.trino},
        ready=_ready,
        environment={
            "READER_PASSWORD": credentials().roles["reader"].password,
            "BUILDER_PASSWORD": credentials().roles["builder"].password,
        },
    )


# What Trino's launcher would pass, without the vector module that the runtime lacks; the serial
# collector keeps a small node small.
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:ReservedCodeCacheSize=256M",
    "-XX:-OmitStackTraceInFastThrow",
    "-Djdk.attach.allowAttachSelf=true",
    "-Dfile.encoding=UTF-8",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)


LARGE_MEGABYTES = 2048


def _compilers() -> tuple[str, ...]:
    """Java's first compiler alone for a small node: it is ready sooner, its queries are short."""
    heap = settings().heap.trino.lower()
    size = int(heap[:-1]) * (1024 if heap.endswith("g") else 1)
    return () if size >= LARGE_MEGABYTES else ("-XX:TieredStopAtLevel=1",)


def configure() -> None:
    """Write Trino's files; secrets stay in its environment."""
    etc = home("trino") / "etc"
    plugins = home("trino") / "plugin"
    plugins.mkdir(parents=True, exist_ok=True)
    _, found = parts.trino()
    for plugin in found:
        link = plugins / plugin.name
        link.unlink(missing_ok=True)
        link.symlink_to(plugin)
    address = f"http://{settings().host}:{settings().ports.trino}"
    write_private(
        etc / "config.properties",
        f"""\
coordinator=true
node-scheduler.include-coordinator=true
node.internal-address={settings().host}
http-server.http.port={settings().ports.trino}
node.bind-ip={settings().host}
discovery.uri={address}
plugin.dir={plugins}
query.max-memory-per-node=70%
memory.heap-headroom-per-node=19%
task.concurrency=2
catalog.management=dynamic
catalog.store=file
query.max-execution-time={settings().queries.minutes}m
""",
    )
    rules, groups = etc / "rules.json", etc / "resource-groups.json"
    write_private(rules, json.dumps(people.rules(), indent=2))
    write_private(groups, json.dumps(people.groups(), indent=2))
    write_private(
        etc / "access-control.properties",
        f"access-control.name=file\nsecurity.config-file={rules}\n",
    )
    write_private(
        etc / "resource-groups.properties",
        f"resource-groups.configuration-manager=file\nresource-groups.config-file={groups}\n",
    )
    if not listens("trino"):  # what it knew may have another key by now; `lake up` tells it anew
        shutil.rmtree(etc / "catalog", ignore_errors=True)
    (etc / "catalog").mkdir(mode=0o700, exist_ok=True)
    write_private(etc / "log.properties", "io.trino=WARN\nio.airlift=WARN\n")


def add_catalog(opened: Access, name: str | None = None) -> None:
    """Have Trino know a branch, as a catalog of its name or another, unless it does."""
    name = name or opened.branch
    mapping = {"accessKey": opened.access_key, "secretKey": opened.secret_key}
    write_private(_key_file(name), json.dumps({"mappings": [mapping]}))
    properties = for_trino(opened, _key_file(name))
    listed = ", ".join(f"\"{key}\" = '{value}'" for key, value in properties.items())
    ask(f'create catalog if not exists "{name}" using iceberg with ({listed})')


def drop_catalog(name: str) -> None:
    """Have Trino forget a branch."""
    ask(f'drop catalog if exists "{name}"')
    _key_file(name).unlink(missing_ok=True)


def _key_file(name: str) -> Path:
    """Where a catalog's key to the object store is: Trino's statements are seen by everybody."""
    return home("trino") / "etc" / "keys" / f"{name}.json"


def catalogs() -> list[str]:
    """The branches that Trino knows."""
    return [name for (name,) in ask("show catalogs") if name != "system"]


def ask(query: str) -> list[list[Any]]:
    """The rows that Trino answers, on this process's branch."""
    _, rows = describe(query)
    return rows


def describe(query: str) -> tuple[list[str], list[list[Any]]]:
    """The columns' names and the rows that Trino answers, on this process's branch."""
    from trino.dbapi import connect  # slow to import

    host, port, branch = settings().host, settings().ports.trino, settings().branch
    with connect(
        host=host,
        port=port,
        user=people.SERVICE,
        catalog=branch,
        session_properties=people.SERVICE_SESSION,
    ) as connection:
        cursor = connection.cursor()
        rows = cursor.execute(query).fetchall()
        return [column.name for column in cursor.description or ()], rows


def _ready() -> bool:
    info = answer(settings().ports.trino, "/v1/info")
    return info is not None and json.loads(info)["starting"] is False
