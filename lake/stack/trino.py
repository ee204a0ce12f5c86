"""Trino: SQL for people. One small node that coordinates and works."""

import json

from lake import parts
from lake.catalog import USER, jdbc_url
from lake.credentials import credentials, write_private
from lake.settings import settings
from lake.stack.program import Program, answer, home, tied


def program() -> Program:
    lib, _ = parts.trino()
    etc = home("trino") / "etc"
    java = [str(parts.java("trino")), f"-Xmx{settings().heap.trino}", *_JVM]
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
            "CATALOG_PASSWORD": credentials().catalog_password,
            "S3_SECRET_KEY": credentials().s3_secret_key,
        },
    )


# What Trino's launcher would pass, without the vector module that the runtime lacks; the serial
# collector and the first compiler only keep a small node small.
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:ReservedCodeCacheSize=128M",
    "-XX:-OmitStackTraceInFastThrow",
    "-Djdk.attach.allowAttachSelf=true",
    "-Dfile.encoding=UTF-8",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)


def configure() -> None:
    """Write Trino's files; secrets stay in its environment."""
    etc = home("trino") / "etc"
    _, plugin = parts.trino()
    plugins = home("trino") / "plugin"
    plugins.mkdir(parents=True, exist_ok=True)
    link = plugins / "iceberg"
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
query.max-memory=400MB
query.max-memory-per-node=400MB
memory.heap-headroom-per-node=150MB
task.concurrency=2
""",
    )
    write_private(etc / "log.properties", "io.trino=WARN\nio.airlift=WARN\n")
    write_private(
        etc / "catalog" / "lake.properties",
        f"""\
connector.name=iceberg
iceberg.catalog.type=jdbc
iceberg.jdbc-catalog.catalog-name={settings().branch}
iceberg.jdbc-catalog.driver-class=org.postgresql.Driver
iceberg.jdbc-catalog.schema-version=V1
iceberg.jdbc-catalog.connection-url={jdbc_url()}
iceberg.jdbc-catalog.connection-user={USER}
iceberg.jdbc-catalog.connection-password=${{ENV:CATALOG_PASSWORD}}
iceberg.jdbc-catalog.default-warehouse-dir={settings().warehouse}
iceberg.unique-table-location=true
iceberg.format-version=2
fs.native-s3.enabled=true
s3.endpoint={settings().s3_endpoint}
s3.region=us-east-1
s3.path-style-access=true
s3.aws-access-key={credentials().s3_access_key}
s3.aws-secret-key=${{ENV:S3_SECRET_KEY}}
""",
    )


def _ready() -> bool:
    info = answer(settings().ports.trino, "/v1/info")
    return info is not None and json.loads(info)["starting"] is False
