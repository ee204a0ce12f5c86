"""The capture job: Flink, from the source's slot into `bronze.changes`."""

import json
import os

from lake import catalog, lag, parts, source
from lake.errors import LakeError
from lake.settings import ROOT, TRUNK, settings
from lake.stack.program import Program, answer, home, tied


def program() -> Program:
    captured, lake = settings().source, catalog.access(role="capture")
    return Program(
        name="capture",
        command=tied([str(parts.flink_python()), str(ROOT / "streaming" / "capture.py")]),
        ports={"capture": settings().ports.capture},
        ready=_ready,
        environment={
            "JAVA_HOME": str(parts.java("spark").parent.parent),
            "LAKE_CAPTURE_CLASSES": os.pathsep.join(map(str, parts.capture_classes())),
            "LAKE_CAPTURE_DIRECTORY": str(home("capture") / "tmp"),
            "LAKE_CAPTURE_SOURCE_HOST": settings().source_host,
            "LAKE_CAPTURE_SOURCE_PORT": str(settings().source_port),
            "LAKE_CAPTURE_SOURCE_DATABASE": captured.database,
            "LAKE_CAPTURE_SOURCE_USER": captured.user,
            "LAKE_CAPTURE_SOURCE_PASSWORD": source.password(),
            "LAKE_CAPTURE_SOURCE_OPTIONS": source.pinned_options(),
            "LAKE_CAPTURE_SLOT": captured.slot,
            "LAKE_CAPTURE_PUBLICATION": captured.publication,
            "LAKE_CAPTURE_CATALOG_URI": catalog.jdbc_url(),
            "LAKE_CAPTURE_CATALOG_USER": lake.role,
            "LAKE_CAPTURE_CATALOG_PASSWORD": lake.password,
            "LAKE_CAPTURE_CATALOG_NAME": lake.branch,
            "LAKE_CAPTURE_WAREHOUSE": lake.warehouse,
            "LAKE_CAPTURE_S3_ENDPOINT": settings().s3_endpoint,
            "LAKE_CAPTURE_S3_ACCESS_KEY": lake.access_key,
            "LAKE_CAPTURE_S3_SECRET_KEY": lake.secret_key,
            "LAKE_CAPTURE_HOST": settings().host,
            "LAKE_CAPTURE_PORT": str(settings().ports.capture),
            "LAKE_CAPTURE_HEAP": settings().heap.capture,
            "LAKE_CAPTURE_CHECKPOINT_SECONDS": str(settings().checkpoint_seconds),
        },
    )


def has_begun() -> bool:
    """Whether there is a slot whose bulk load is complete: `lake ingest` makes both."""
    try:
        with source.connect() as connection:
            slot = source.slot(connection)
        changes = catalog.metadata(TRUNK, lag.CHANGES)
    except LakeError:
        return False
    if slot is None or changes is None or lag.SLOT_LSN not in changes["properties"]:
        return False
    columns = {field["name"] for schema in changes["schemas"] for field in schema["fields"]}
    return "commit_lsn" in columns  # and not of an older lake


def missed() -> str:
    """Why capture can't go on from what bronze holds; nothing where it can, or nobody can say."""
    try:
        with source.connect() as connection:
            return lag.missed(source.slot(connection))
    except LakeError:
        return ""


def _ready() -> bool:
    jobs = answer(settings().ports.capture, "/jobs")
    return jobs is not None and [job["status"] for job in json.loads(jobs)["jobs"]] == ["RUNNING"]
