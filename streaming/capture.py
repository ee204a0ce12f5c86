"""The capture job: every change in the source's WAL, in the WAL's order, into `bronze.changes`.

One Flink job with one sink, in a JVM that this process starts, watches and takes down with it.
Run it with the Python of this directory's environment. All that it needs is in the environment:

    JAVA_HOME                          home of a Java 17 or 21
    LAKE_CAPTURE_JARS                  the connectors' jars, separated by `os.pathsep`
    LAKE_CAPTURE_DIRECTORY             where checkpoints and temporary files are kept
    LAKE_CAPTURE_SOURCE_HOST, …_SOURCE_PORT, …_SOURCE_DATABASE, …_SOURCE_USER, …_SOURCE_PASSWORD
                                       the captured Postgres
    LAKE_CAPTURE_SLOT                  its replication slot, which exists (`lake`)
    LAKE_CAPTURE_PUBLICATION           its publication, which lists what is captured (`lake`)
    LAKE_CAPTURE_CATALOG_URI           `jdbc:postgresql://host:port/database`
    LAKE_CAPTURE_CATALOG_USER, …_CATALOG_PASSWORD
    LAKE_CAPTURE_CATALOG_NAME          the catalog's name, which is the branch (`lake`)
    LAKE_CAPTURE_WAREHOUSE             `s3://bucket/path`
    LAKE_CAPTURE_S3_ENDPOINT, …_S3_ACCESS_KEY, …_S3_SECRET_KEY, …_S3_REGION (`us-east-1`)
    LAKE_CAPTURE_HOST, …_PORT          where Flink's REST API listens (127.0.0.1, 18081)
    LAKE_CAPTURE_HEAP                  the JVM's heap (`512m`)
    LAKE_CAPTURE_CHECKPOINT_SECONDS    how often changes are committed to the lake (1)
    LAKE_CAPTURE_HEARTBEAT_SECONDS     how often `lake.heartbeat` is touched (10)

A start resumes from the newest checkpoint in the directory, or else from where the slot is.
Exit codes: 0 after SIGTERM or SIGINT, 1 when the job has failed for good, 2 for a bad environment.
"""

import fcntl
import logging
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError
from pyflink.java_gateway import get_gateway
from pyflink.pyflink_gateway_server import (
    construct_flink_classpath,
    get_jvm_opts,
    prepare_environment_variables,
)
from pyflink.util.exceptions import JavaException

CHANGES = "bronze.changes"
HEARTBEAT = "lake.heartbeat"
PREFIX = "LAKE_CAPTURE_"

TAIL = (
    r'"source":\{"version":"[^"]*","connector":"[^"]*","name":"[^"]*","ts_ms":(\d+),'
    r'"snapshot":"[^"]*","db":"(?:[^"\\]|\\.)*","sequence":"\[(?:null|\\"(\d+)\\"),\\"\d+\\"\]",'
    r'"schema":"((?:[^"\\]|\\.)*)","table":"((?:[^"\\]|\\.)*)","txId":\d+,"lsn":(\d+),'
    r'"xmin":[^}]*\},"op":"\w","ts_ms":\d+,"transaction":null\}\z'
)
"""How an envelope ends: commit time, prior commit's LSN, schema, table, LSN.

It can't match inside a row's values, whatever they are: JSON escapes their quotes, and the match
must reach the envelope's end.
"""
COMMITTED_AT, PRIOR_COMMIT_LSN, SCHEMA, TABLE, LSN = range(1, 6)


class CaptureError(Exception):
    """What keeps capture from running, in one line."""


@dataclass(frozen=True)
class Options:
    """What one capture job runs with."""

    jars: str
    directory: Path
    source_host: str
    source_port: int
    source_database: str
    source_user: str
    source_password: str
    slot: str
    publication: str
    catalog_name: str
    catalog: Mapping[str, str]  # Iceberg's catalog properties
    host: str
    port: int
    heap: str
    checkpoint_seconds: float
    heartbeat_seconds: float

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def temporary(self) -> Path:
        return self.directory / "tmp"


def read_options(environment: Mapping[str, str]) -> Options:
    """The options in `environment`. Raises CaptureError where one is missing or unreadable."""

    def take(name: str, default: str | None = None) -> str:
        value = environment.get(PREFIX + name, default)
        if not value:
            raise CaptureError(f"{PREFIX}{name} is not set")
        return value

    try:
        return Options(
            jars=take("JARS"),
            directory=Path(take("DIRECTORY")).resolve(),
            source_host=take("SOURCE_HOST"),
            source_port=int(take("SOURCE_PORT")),
            source_database=take("SOURCE_DATABASE"),
            source_user=take("SOURCE_USER"),
            source_password=take("SOURCE_PASSWORD"),
            slot=take("SLOT", "lake"),
            publication=take("PUBLICATION", "lake"),
            catalog_name=take("CATALOG_NAME", "lake"),
            catalog={
                "type": "iceberg",
                "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
                "uri": take("CATALOG_URI"),
                "jdbc.user": take("CATALOG_USER"),
                "jdbc.password": take("CATALOG_PASSWORD"),
                "jdbc.schema-version": "V1",
                "warehouse": take("WAREHOUSE"),
                "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
                "client.region": take("S3_REGION", "us-east-1"),
                "s3.endpoint": take("S3_ENDPOINT"),
                "s3.path-style-access": "true",
                "s3.access-key-id": take("S3_ACCESS_KEY"),
                "s3.secret-access-key": take("S3_SECRET_KEY"),
            },
            host=take("HOST", "127.0.0.1"),
            port=int(take("PORT", "18081")),
            heap=take("HEAP", "512m"),
            checkpoint_seconds=float(take("CHECKPOINT_SECONDS", "1")),
            heartbeat_seconds=float(take("HEARTBEAT_SECONDS", "10")),
        )
    except ValueError as error:
        raise CaptureError(f"a {PREFIX}… variable is not a number: {error}") from None


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest complete checkpoint, of whichever run; Flink writes `_metadata` last, at once."""
    complete = checkpoints.glob("*/chk-*/_metadata")
    newest = max(complete, key=lambda metadata: metadata.stat().st_mtime_ns, default=None)
    return newest.parent if newest else None


def remove_outlived(checkpoints: Path, kept: Path | None) -> None:
    """Remove what former runs left beside the checkpoint that is `kept`."""
    for run in checkpoints.iterdir():
        if kept is None or run != kept.parent:
            shutil.rmtree(run)


@contextmanager
def only_run(directory: Path) -> Iterator[int]:
    """A lock on `directory`, as a file descriptor for the JVM to share.

    The JVM of a run that was killed lives on for seconds, and may complete one more checkpoint:
    a new run that had chosen its checkpoint before would land those changes again.
    """
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for a former run to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


@contextmanager
def running_jvm(options: Options, lock: int) -> Iterator[subprocess.Popen[bytes]]:
    """A JVM with Flink and the connectors on its class path, and PyFlink's gateway tied to it.

    PyFlink's watchdog ends the JVM when this process is gone, however it went.
    """
    environment = dict(os.environ)
    prepare_environment_variables(environment)
    handshake = options.temporary / "gateway"
    environment["_PYFLINK_CONN_INFO_PATH"] = str(handshake)
    java = Path(environment["JAVA_HOME"]) / "bin" / "java" if "JAVA_HOME" in environment else "java"
    command = [
        str(java),
        f"-Xmx{options.heap}",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        f"-Djava.io.tmpdir={options.temporary}",
        f"-Dlog4j.configurationFile={Path(__file__).with_name('log4j2.properties')}",
        *(option for option in get_jvm_opts(environment) if "jdk.compiler" not in option),
        "-cp",
        os.pathsep.join([construct_flink_classpath(environment), options.jars]),
        "org.apache.flink.client.python.PythonGatewayServer",
    ]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[lock])
    try:
        while not handshake.exists():
            if process.poll() is not None:
                raise CaptureError("the JVM did not start")
            time.sleep(0.02)
        (port,) = struct.unpack_from("!I", handshake.read_bytes())
        os.environ["PYFLINK_GATEWAY_PORT"] = str(port)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Source:
    """The captured Postgres, as capture itself speaks to it."""

    def __init__(self, options: Options, jvm: Any) -> None:
        self._options = options
        self._jvm = jvm
        self._connection: Any = None

    def slot_lsn(self) -> int:
        """Up to where the slot's changes are in the lake, in bytes of WAL.

        Raises CaptureError where the source can't be reached or has no such slot.
        """
        query = "select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = ?"
        found = self._column(query, self._options.slot)
        if not found:
            raise CaptureError(f"the source has no replication slot `{self._options.slot}`")
        return int(found[0])

    def tables(self) -> list[tuple[str, str]]:
        """The schema and name of every table in the publication.

        Raises CaptureError where there is no such publication, or it is empty.
        """
        name = self._options.publication
        query = (
            "select schemaname || E'\\x01' || tablename from pg_publication_tables"
            " where pubname = ?"
        )
        found = self._column(query, name)
        if not found:
            raise CaptureError(f"the source has no publication `{name}` with tables in it")
        return [(schema, table) for schema, table in (row.split("\x01") for row in found)]

    def beat(self) -> None:
        """Touch the heartbeat, so that the slot moves on while the captured tables are idle.

        Debezium's own `heartbeat.action.query` is silent from a start to the first change.
        """
        try:
            self._connect().createStatement().executeUpdate(
                f"update {HEARTBEAT} set beat_at = now()"
            )
        except Py4JJavaError as error:
            _say(f"no heartbeat: {_cause(error)}")
            self._connection = None

    def _column(self, query: str, parameter: str) -> list[str]:
        try:
            statement = self._connect().prepareStatement(query)
            statement.setString(1, parameter)
            rows = statement.executeQuery()
            found = []
            while rows.next():
                found.append(str(rows.getString(1)))
            return found
        except Py4JJavaError as error:
            raise CaptureError(f"the source can't be read: {_cause(error)}") from None

    def _connect(self) -> Any:
        if self._connection is None:
            o = self._options
            properties = _properties(
                self._jvm,
                {
                    "user": o.source_user,
                    "password": o.source_password,
                    "ApplicationName": "lake capture",
                    "connectTimeout": "5",
                    "socketTimeout": "10",
                },
            )
            url = f"jdbc:postgresql://{o.source_host}:{o.source_port}/{o.source_database}"
            self._connection = self._jvm.org.postgresql.Driver().connect(url, properties)
        return self._connection


def submit(options: Options, jvm: Any, source: Source, checkpoint: Path | None) -> Any:
    """Start the job, from `checkpoint` or the slot; returns Flink's JobClient."""
    slot_lsn, captured = source.slot_lsn(), source.tables()
    _say(f"{len(captured)} tables, from {checkpoint or f'the slot, at {slot_lsn}'}")
    settings = {
        "pipeline.name": "capture",
        "parallelism.default": "1",
        "rest.bind-address": options.host,
        "rest.bind-port": str(options.port),
        "rest.address": options.host,
        "web.submit.enable": "false",
        "web.cancel.enable": "false",
        "security.delegation.tokens.enabled": "false",
        "jobmanager.bind-host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.numberOfTaskSlots": "1",
        "taskmanager.memory.managed.size": "1m",
        "taskmanager.memory.network.min": "8m",
        "taskmanager.memory.network.max": "8m",
        "io.tmp.dirs": str(options.temporary),
        "execution.checkpointing.dir": options.checkpoints.as_uri(),
        "execution.checkpointing.storage": "filesystem",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.interval": f"{options.checkpoint_seconds * 1000:.0f} ms",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.state-recovery.claim-mode": "CLAIM",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "30 s",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": "10",
    }
    if checkpoint:
        settings["execution.state-recovery.path"] = checkpoint.as_uri()
    configuration = jvm.org.apache.flink.configuration.Configuration()
    for name, value in settings.items():
        configuration.setString(name, value)

    streams = jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment
    environment = streams.getExecutionEnvironment(configuration)
    watermarks = jvm.org.apache.flink.api.common.eventtime.WatermarkStrategy.noWatermarks()
    wal = environment.fromSource(_wal(options, jvm, captured), watermarks, "wal")

    bridge = jvm.org.apache.flink.table.api.bridge.java.StreamTableEnvironment
    tables = bridge.create(environment)
    tables.createTemporaryView("wal", wal)
    catalog = jvm.org.apache.flink.configuration.Configuration.fromMap(dict(options.catalog))
    descriptor = jvm.org.apache.flink.table.catalog.CatalogDescriptor
    tables.createCatalog(options.catalog_name, descriptor.of(options.catalog_name, catalog))
    insert = tables.executeSql(insert_statement(options.catalog_name, slot_lsn))
    return insert.getJobClient().get()


def insert_statement(catalog: str, slot_lsn: int) -> str:
    """Flink SQL from the stream `wal` into the changes; few and cheap columns beside the envelope.

    The first transaction after a start from the slot names no prior commit: `slot_lsn` stands in.
    """

    def tail(group: int) -> str:
        return f"regexp_extract(envelope, '{TAIL}', {group})"

    return f"""
        insert into {_quoted(catalog)}.{CHANGES}
        with envelopes as (
            select f0 as envelope from default_catalog.default_database.wal
        )
        select
            {tail(SCHEMA)} || '.' || {tail(TABLE)} as source_table,
            cast({tail(LSN)} as bigint) as lsn,
            coalesce(
                cast({tail(PRIOR_COMMIT_LSN)} as bigint), {slot_lsn}
            ) as prior_commit_lsn,
            to_timestamp_ltz(cast({tail(COMMITTED_AT)} as bigint), 3) as committed_at,
            current_timestamp as ingested_at,
            envelope
        from envelopes
    """


def _wal(options: Options, jvm: Any, tables: list[tuple[str, str]]) -> Any:
    """The source's WAL as a stream of Debezium's JSON envelopes."""
    debezium = {
        "publication.name": options.publication,
        "publication.autocreate.mode": "disabled",
        "decimal.handling.mode": "string",
        "truncate.handling.mode": "include",
        "skipped.operations": "none",
        "max.queue.size": "2048",
        "max.batch.size": "1024",
    }
    cdc = jvm.org.apache.flink.cdc
    schemas = [re.escape(schema) for schema in dict.fromkeys(schema for schema, _ in tables)]
    names = [re.escape(f"{schema}.{table}") for schema, table in tables]
    return (
        cdc.connectors.postgres.source.PostgresSourceBuilder.PostgresIncrementalSource.builder()
        .hostname(options.source_host)
        .port(options.source_port)
        .database(options.source_database)
        .schemaList(_array(jvm, schemas))
        .tableList(_array(jvm, names))
        .username(options.source_user)
        .password(options.source_password)
        .slotName(options.slot)
        .decodingPluginName("pgoutput")
        .startupOptions(cdc.connectors.base.options.StartupOptions.committed())
        .debeziumProperties(_properties(jvm, debezium))
        .deserializer(cdc.debezium.JsonDebeziumDeserializationSchema())
        .build()
    )


def watch(options: Options, process: subprocess.Popen[bytes], source: Source, job: Any) -> None:
    """Keep the heart beating, and say how the job is. Raises CaptureError when it has ended."""
    end = job.getJobExecutionResult()
    status, beat_at = "", 0.0
    while process.poll() is None and not end.isDone():
        if status != (status := _status(job) or status):
            _say(f"the job is {status}")
        if time.monotonic() >= beat_at:
            source.beat()
            beat_at = time.monotonic() + options.heartbeat_seconds
        time.sleep(min(1.0, options.heartbeat_seconds))
    if process.poll() is not None:
        raise CaptureError(f"the JVM ended with exit code {process.returncode}")
    try:
        end.get()
    except (Py4JJavaError, JavaException) as error:
        raise CaptureError(f"the job failed: {_cause(error)}") from None
    raise CaptureError("the job ended, though the WAL never does")


def _status(job: Any) -> str | None:
    try:
        return str(job.getJobStatus().get().toString())
    except Py4JJavaError:  # it has just ended, its cluster with it
        return None


def run(options: Options) -> None:
    """Capture until a signal; raises CaptureError where that can't go on."""
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    with only_run(options.directory) as lock:
        checkpoint = newest_checkpoint(options.checkpoints)
        remove_outlived(options.checkpoints, checkpoint)
        shutil.rmtree(options.temporary, ignore_errors=True)
        options.temporary.mkdir(mode=0o700)
        with running_jvm(options, lock) as process:
            capture(options, process, checkpoint)


def capture(options: Options, process: subprocess.Popen[bytes], checkpoint: Path | None) -> None:
    """Run the job in the JVM `process`; raises CaptureError when it can't start or has ended."""
    try:
        jvm = get_gateway().jvm
        source = Source(options, jvm)
        watch(options, process, source, submit(options, jvm, source, checkpoint))
    except (Py4JJavaError, JavaException) as error:
        raise CaptureError(f"the job could not start: {_cause(error)}") from None
    except (Py4JError, OSError) as error:
        raise CaptureError(f"the JVM is gone: {error}") from None


def _cause(error: Py4JJavaError | JavaException) -> str:
    """The innermost Java exception, in one line."""
    if isinstance(error, JavaException):  # PyFlink's own form of it: the stack trace
        lines = str(error).splitlines()
        causes = [line for line in lines if line.startswith("Caused by: ")]
        return causes[-1].removeprefix("Caused by: ") if causes else lines[0]
    exception = error.java_exception
    while exception.getCause() is not None:
        exception = exception.getCause()
    return " ".join(str(exception.toString()).split())


def _array(jvm: Any, values: list[str]) -> Any:
    array = get_gateway().new_array(jvm.java.lang.String, len(values))
    for position, value in enumerate(values):
        array[position] = value
    return array


def _properties(jvm: Any, values: Mapping[str, str]) -> Any:
    properties = jvm.java.util.Properties()
    for name, value in values.items():
        properties.setProperty(name, value)
    return properties


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _say(line: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", flush=True)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # once is enough, and must not cut the end short
    sys.exit(0)


def main() -> int:
    logging.disable()  # py4j logs what it raises as well
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        options = read_options(os.environ)
    except CaptureError as error:
        _say(str(error))
        return 2
    try:
        run(options)
    except CaptureError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
