"""MinIO: the object store. Who may do what in it stands in `lake/object_store.py`."""

from lake import parts
from lake.credentials import credentials
from lake.object_store import ROOT_USER
from lake.settings import settings
from lake.stack.program import Program, answer, home, tied


def program() -> Program:
    ports = settings().ports
    listen = ["--address", f"{settings().host}:{ports.minio}"]
    console = ["--console-address", f"{settings().host}:{ports.minio_console}"]
    return Program(
        name="minio",
        command=tied(
            [str(parts.minio()), "server", *listen, *console, str(home("minio") / "data")]
        ),
        ports={"minio": ports.minio, "minio_console": ports.minio_console},
        ready=lambda: answer(ports.minio, "/minio/health/ready") is not None,
        environment={
            "MINIO_ROOT_USER": ROOT_USER,
            "MINIO_ROOT_PASSWORD": credentials().minio_root_password,
            "MINIO_UPDATE": "off",
            "MINIO_CALLHOME_ENABLE": "off",
            "GOMEMLIMIT": "512MiB",
        },
    )
