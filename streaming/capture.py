"""The capture job: every change in the source's WAL, in the WAL's order, into `bronze.changes`.

One Flink job (`src/lakehouse/capture`, Java), in a JVM that this process starts, watches and takes
down with it. No Python is in the path of a row. Run it with the Python of this directory's
environment. All that it needs is in the environment:

    JAVA_HOME                          home of a Java 21
    LAKE_CAPTURE_CLASSES               the job's class path, separated by `os.pathsep`
    LAKE_CAPTURE_DIRECTORY             where temporary files are kept
    LAKE_CAPTURE_SOURCE_HOST, …_SOURCE_PORT, …_SOURCE_DATABASE, …_SOURCE_USER, …_SOURCE_PASSWORD
                                       the captured Postgres
    LAKE_CAPTURE_SOURCE_OPTIONS        options of its connections, which pin how values are printed
    LAKE_CAPTURE_SLOT                  its replication slot, which exists (`lake`)
    LAKE_CAPTURE_PUBLICATION           its publication, which lists what is captured (`lake`)
    LAKE_CAPTURE_CATALOG_URI           `jdbc:postgresql://host:port/database`
    LAKE_CAPTURE_CATALOG_USER, …_CATALOG_PASSWORD
    LAKE_CAPTURE_CATALOG_NAME          the catalog's name, which is the branch (`lake`)
    LAKE_CAPTURE_WAREHOUSE             `s3://bucket/path`
    LAKE_CAPTURE_S3_ENDPOINT, …_S3_ACCESS_KEY, …_S3_SECRET_KEY, …_S3_REGION (`us-east-1`)
    LAKE_CAPTURE_HOST, …_PORT          where Flink's REST API listens (127.0.0.1, 18081)
    LAKE_CAPTURE_HEAP                  the JVM's heap (`256m`)
    LAKE_CAPTURE_CHECKPOINT_SECONDS    how often changes are committed to the lake (1)
    LAKE_CAPTURE_HEARTBEAT_SECONDS     how often a message is written to the source's WAL (10)

A start goes on from what the lake holds: checkpoints only say when to commit, and are not kept.
Exit codes: 0 after SIGTERM or SIGINT, 1 when the job has failed for good, 2 for a bad environment.
"""

import logging
import os
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

PREFIX = "LAKE_CAPTURE_"


class CaptureError(Exception):
    """What keeps capture from running, in one line."""


@dataclass(frozen=True)
class Options:
    """What one capture job runs with; `job` is the Java side's part of it (`Options.java`)."""

    classes: str
    directory: Path
    host: str
    port: int
    heap: str
    checkpoint_seconds: float
    job: Mapping[str, str]


def read_options(environment: Mapping[str, str]) -> Options:
    """The options in `environment`. Raises CaptureError where one is missing or unreadable."""

    def take(name: str, default: str | None = None) -> str:
        value = environment.get(PREFIX + name, default)
        if not value:
            raise CaptureError(f"{PREFIX}{name} is not set")
        return value

    try:
        source = f"{take('SOURCE_HOST')}:{int(take('SOURCE_PORT'))}/{take('SOURCE_DATABASE')}"
        return Options(
            classes=take("CLASSES"),
            directory=Path(take("DIRECTORY")).resolve(),
            host=take("HOST", "127.0.0.1"),
            port=int(take("PORT", "18081")),
            heap=take("HEAP", "256m"),
            checkpoint_seconds=float(take("CHECKPOINT_SECONDS", "1")),
            job={
                "sourceUrl": f"jdbc:postgresql://{source}",
                "sourceUser": take("SOURCE_USER"),
                "sourcePassword": take("SOURCE_PASSWORD"),
                "sourceOptions": take("SOURCE_OPTIONS"),
                "slot": take("SLOT", "lake"),
                "publication": take("PUBLICATION", "lake"),
                "heartbeatSeconds": str(int(take("HEARTBEAT_SECONDS", "10"))),
                "catalogName": take("CATALOG_NAME", "lake"),
                "catalog.catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
                "catalog.uri": take("CATALOG_URI"),
                "catalog.jdbc.user": take("CATALOG_USER"),
                "catalog.jdbc.password": take("CATALOG_PASSWORD"),
                "catalog.jdbc.schema-version": "V1",
                "catalog.warehouse": take("WAREHOUSE"),
                "catalog.io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
                "catalog.client.region": take("S3_REGION", "us-east-1"),
                "catalog.s3.endpoint": take("S3_ENDPOINT"),
                "catalog.s3.path-style-access": "true",
                "catalog.s3.access-key-id": take("S3_ACCESS_KEY"),
                "catalog.s3.secret-access-key": take("S3_SECRET_KEY"),
            },
        )
    except ValueError as error:
        raise CaptureError(f"a {PREFIX}… variable is not a number: {error}") from None


@contextmanager
def running_jvm(options: Options) -> Iterator[subprocess.Popen[bytes]]:
    """A JVM with Flink and the job on its class path, and PyFlink's gateway tied to it.

    PyFlink's watchdog ends the JVM when this process is gone, however it went.
    """
    environment = dict(os.environ)
    prepare_environment_variables(environment)
    environment["MALLOC_ARENA_MAX"] = "2"  # else glibc keeps memory for each thread: some 50 MB
    handshake = options.directory / "gateway"
    environment["_PYFLINK_CONN_INFO_PATH"] = str(handshake)
    java = Path(environment["JAVA_HOME"]) / "bin" / "java" if "JAVA_HOME" in environment else "java"
    command = [
        str(java),
        f"-Xmx{options.heap}",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        f"-Djava.io.tmpdir={options.directory}",
        "-Duser.timezone=UTC",  # which the driver has the source print times in
        f"-Dlog4j.configurationFile={Path(__file__).with_name('log4j2.properties')}",
        *(option for option in get_jvm_opts(environment) if "jdk.compiler" not in option),
        "-cp",
        os.pathsep.join([options.classes, construct_flink_classpath(environment)]),
        "org.apache.flink.client.python.PythonGatewayServer",
    ]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
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


def submit(options: Options, jvm: Any) -> Any:
    """Start the job; returns Flink's JobClient."""
    settings = {
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
        "io.tmp.dirs": str(options.directory),
        "pipeline.object-reuse": "true",
        "execution.checkpointing.storage": "jobmanager",
        "execution.checkpointing.interval": f"{options.checkpoint_seconds * 1000:.0f} ms",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "30 s",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": "10",
    }
    configuration = jvm.org.apache.flink.configuration.Configuration()
    for name, value in settings.items():
        configuration.setString(name, value)

    streams = jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment
    environment = streams.getExecutionEnvironment(configuration)
    watermarks = jvm.org.apache.flink.api.common.eventtime.WatermarkStrategy.noWatermarks()
    capture = jvm.lakehouse.capture
    job = capture.Options.of(dict(options.job))
    wal = environment.fromSource(capture.WalSource(job), watermarks, "wal")
    wal.sinkTo(capture.LakeSink(job)).name("lake")
    return environment.executeAsync("capture")


def watch(process: subprocess.Popen[bytes], job: Any) -> None:
    """Say how the job is. Raises CaptureError when it has ended."""
    end = job.getJobExecutionResult()
    status = ""
    while process.poll() is None and not end.isDone():
        if status != (status := _status(job) or status):
            _say(f"the job is {status}")
        time.sleep(1)
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
    shutil.rmtree(options.directory, ignore_errors=True)
    options.directory.mkdir(parents=True, mode=0o700)
    with running_jvm(options) as process:
        try:
            watch(process, submit(options, get_gateway().jvm))
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
