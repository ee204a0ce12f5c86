"""Spark: one warm Connect server that dbt, the gates and notebooks share."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pyspark

from lake import parts
from lake.catalog import access, for_spark
from lake.credentials import write_private
from lake.settings import TRUNK, settings
from lake.stack.program import Program, home, tied

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def program() -> Program:
    distribution = Path(pyspark.__file__).parent
    classpath = [str(home("spark") / "conf"), f"{distribution / 'jars'}/*"]
    classpath += [str(jar) for jar in parts.jars("spark")]
    java = [str(parts.java("spark")), f"-Xmx{settings().heap.spark}", *_JVM]
    java += [f"-Djava.io.tmpdir={home('spark') / 'scratch'}"]
    submit = ["org.apache.spark.deploy.SparkSubmit", "--class", _SERVER]
    options = ["--properties-file", str(home("spark") / "conf" / "spark.conf"), "spark-internal"]
    return Program(
        name="spark",
        command=tied([*java, "-cp", os.pathsep.join(classpath), *submit, *options]),
        ports={"spark": settings().ports.spark},
        ready=_ready,
        environment={
            "AWS_REGION": "us-east-1",
            "SPARK_LOCAL_IP": settings().host,
        },
    )


_SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
# What Spark's launcher would pass (JavaModuleOptions), without the vector module that the runtime
# lacks; the serial collector keeps a small server small.
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:+IgnoreUnrecognizedVMOptions",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djdk.reflect.useDirectMethodHandle=false",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.type=pooled",
    "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",
    "--enable-native-access=ALL-UNNAMED",
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            "java.lang",
            "java.lang.invoke",
            "java.lang.reflect",
            "java.io",
            "java.net",
            "java.nio",
            "java.util",
            "java.util.concurrent",
            "java.util.concurrent.atomic",
            "jdk.internal.ref",
            "sun.nio.ch",
            "sun.nio.cs",
            "sun.security.action",
            "sun.util.calendar",
        )
    ),
)


def configure() -> None:
    """Write Spark's settings and its logging."""
    conf = home("spark") / "conf"
    (home("spark") / "scratch").mkdir(parents=True, exist_ok=True)
    lake = "\n".join(f"{name} {value}" for name, value in for_spark(access(TRUNK)).items())
    write_private(
        conf / "spark.conf",
        f"""\
spark.master local[2]
spark.app.name lake
spark.driver.host {settings().host}
spark.driver.bindAddress {settings().host}
spark.ui.enabled false
spark.connect.grpc.binding.address {settings().host}
spark.connect.grpc.binding.port {settings().ports.spark}
spark.connect.session.manager.defaultSessionTimeout 15m
spark.sql.connect.serverStacktrace.enabled false
spark.local.dir {home("spark") / "scratch"}
spark.sql.warehouse.dir {home("spark") / "warehouse"}
spark.sql.catalogImplementation in-memory
spark.sql.session.timeZone UTC
spark.sql.shuffle.partitions 2
spark.sql.extensions org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions
{lake}
""",
    )
    write_private(
        conf / "log4j2.properties",
        """\
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %m%n%ex{5}
""",
    )


_sessions: list["SparkSession"] = []
"""Every session that this process has opened, also the stopped ones, so that none is collected.

PySpark closes a thread pool that all sessions share when a session is collected. If the collector
runs while another session submits to that pool, the two wait for one lock for ever.
"""


def session(configured: Mapping[str, str]) -> "SparkSession":
    """A new session on the warm server with these settings; who opens it stops it."""
    from pyspark.sql import SparkSession  # heavy

    builder = SparkSession.builder.remote(settings().spark_remote)
    for name, value in configured.items():
        builder = builder.config(name, value)
    opened: SparkSession = builder.create()
    _sessions.append(opened)
    return opened


def _ready() -> bool:
    channel = grpc.insecure_channel(f"{settings().host}:{settings().ports.spark}")
    try:
        grpc.channel_ready_future(channel).result(timeout=1)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True
