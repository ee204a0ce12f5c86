"""The capture job: Flink CDC, from the source's slot into `bronze.changes`."""

import json
import os
import urllib.request
from urllib.error import URLError

import psycopg

from lake import parts, source
from lake.credentials import credentials
from lake.errors import LakeError
from lake.settings import ROOT, settings
from lake.stack.program import Program, home, tied


def program() -> Program:
    return Program(
        name="capture",
        command=tied([str(parts.flink_python()), str(ROOT / "streaming" / "capture.py")]),
        ports={"capture": settings().ports.capture},
        ready=_ready,
        environment={},
    )


def slot_exists() -> bool:
    """Whether there is a slot to stream from: `lake ingest` makes it."""
    try:
        with source.connect() as connection:
            return source.slot(connection) is not None
    except LakeError:
        return False


def _ready() -> bool:
    url = f"http://{settings().host}:{settings().ports.capture}/jobs"
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return [job["status"] for job in json.load(response)["jobs"]] == ["RUNNING"]
    except (URLError, OSError):
        return False
