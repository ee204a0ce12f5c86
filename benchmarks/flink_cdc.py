"""The peer of `benchmarks.capture`: Flink CDC 3.5 into an Iceberg table, as one would set it up.

Run by `benchmarks.capture`, in the environment of Flink, with what it needs as JSON on standard
input. It lands Debezium's envelopes whole, with the few columns that pruning needs beside them.
"""

import json
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

from pyflink.java_gateway import get_gateway
from pyflink.pyflink_gateway_server import (
    construct_flink_classpath,
    get_jvm_opts,
    prepare_environment_variables,
)

TAIL = (
    r'"source":\{"version":"[^"]*","connector":"[^"]*","name":"[^"]*","ts_ms":(\d+),'
    r'"snapshot":"[^"]*","db":"(?:[^"\\]|\\.)*","sequence":"\[(?:null|\\"(\d+)\\"),\\"\d+\\"\]",'
    r'"schema":"((?:[^"\\]|\\.)*)","table":"((?:[^"\\]|\\.)*)","txId":\d+,"lsn":(\d+),'
    r'"xmin":[^}]*\},"op":"\w","ts_ms":\d+,"transaction":null\}\z'
)
COLUMNS = {
    "source_table": "regexp_extract(envelope, '{tail}', 4)",
    "lsn": "cast(regexp_extract(envelope, '{tail}', 5) as bigint)",
    "prior_commit_lsn": "coalesce(cast(regexp_extract(envelope, '{tail}', 2) as bigint), 0)",
    "committed_at": "to_timestamp_ltz(cast(regexp_extract(envelope, '{tail}', 1) as bigint), 3)",
    "ingested_at": "current_timestamp",
    "envelope": "envelope",
}


def main() -> None:
    told = json.load(sys.stdin)
    directory = Path(told["directory"])
    environment = dict(os.environ)
    prepare_environment_variables(environment)
    handshake = directory / "gateway"
    environment["_PYFLINK_CONN_INFO_PATH"] = str(handshake)
    command = [
        told["java"],
        f"-Xmx{told['heap']}",
        "-XX:+UseSerialGC",
        f"-Djava.io.tmpdir={directory}",
        f"-Dlog4j.configurationFile={told['log4j']}",
        *(option for option in get_jvm_opts(environment) if "jdk.compiler" not in option),
        "-cp",
        os.pathsep.join([construct_flink_classpath(environment), told["classes"]]),
        "org.apache.flink.client.python.PythonGatewayServer",
    ]
    jvm_process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    while not handshake.exists():
        time.sleep(0.02)
    (port,) = struct.unpack_from("!I", handshake.read_bytes())
    os.environ["PYFLINK_GATEWAY_PORT"] = str(port)
    submit(told, get_gateway().jvm)
    jvm_process.wait()


def submit(told: dict, jvm) -> None:  # type: ignore[no-untyped-def,type-arg]
    configuration = jvm.org.apache.flink.configuration.Configuration()
    for name, value in told["flink"].items():
        configuration.setString(name, value)
    streams = jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment
    environment = streams.getExecutionEnvironment(configuration)
    watermarks = jvm.org.apache.flink.api.common.eventtime.WatermarkStrategy.noWatermarks()
    wal = environment.fromSource(source(told["source"], jvm), watermarks, "wal")
    bridge = jvm.org.apache.flink.table.api.bridge.java.StreamTableEnvironment
    tables = bridge.create(environment)
    tables.createTemporaryView("wal", wal)
    catalog = jvm.org.apache.flink.configuration.Configuration.fromMap(told["catalog"])
    descriptor = jvm.org.apache.flink.table.catalog.CatalogDescriptor
    tables.createCatalog("lake", descriptor.of("lake", catalog))
    selected = ", ".join(one.replace("{tail}", TAIL) for one in COLUMNS.values())
    tables.executeSql(
        f"insert into lake.{told['table']}"
        f" select {selected} from"
        " (select f0 as envelope from default_catalog.default_database.wal)"
    )


def source(told: dict, jvm):  # type: ignore[no-untyped-def,type-arg]
    debezium = jvm.java.util.Properties()
    for name, value in {
        "publication.name": told["publication"],
        "publication.autocreate.mode": "disabled",
        "decimal.handling.mode": "string",
        "max.queue.size": "2048",
        "max.batch.size": "1024",
    }.items():
        debezium.setProperty(name, value)
    names = get_gateway().new_array(jvm.java.lang.String, 1)
    names[0] = re.escape(told["table"])
    schemas = get_gateway().new_array(jvm.java.lang.String, 1)
    schemas[0] = told["table"].partition(".")[0]
    cdc = jvm.org.apache.flink.cdc
    return (
        cdc.connectors.postgres.source.PostgresSourceBuilder.PostgresIncrementalSource.builder()
        .hostname(told["host"])
        .port(told["port"])
        .database(told["database"])
        .schemaList(schemas)
        .tableList(names)
        .username(told["user"])
        .password(told["password"])
        .slotName(told["slot"])
        .decodingPluginName("pgoutput")
        .startupOptions(cdc.connectors.base.options.StartupOptions.committed())
        .debeziumProperties(debezium)
        .deserializer(cdc.debezium.JsonDebeziumDeserializationSchema())
        .build()
    )


if __name__ == "__main__":
    main()
