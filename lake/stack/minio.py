"""MinIO: the object store. Its root account only makes the bucket and the lake's own key."""

from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider

from lake import parts
from lake.credentials import credentials
from lake.settings import settings
from lake.stack.program import Program, answer, home, tied

ROOT_USER = "minio"


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


def create_bucket() -> None:
    """Make the lake's bucket, and the key that may read and write it and nothing else."""
    endpoint = f"{settings().host}:{settings().ports.minio}"
    root = credentials().minio_root_password
    client = Minio(endpoint=endpoint, access_key=ROOT_USER, secret_key=root, secure=False)
    bucket = settings().bucket
    if not client.bucket_exists(bucket_name=bucket):
        client.make_bucket(bucket_name=bucket)
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Action": ["s3:*"], "Resource": resources}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    account = MinioAdmin(
        endpoint=endpoint, credentials=StaticProvider(ROOT_USER, root), secure=False
    )
    account.user_add(credentials().s3_access_key, credentials().s3_secret_key)
    account.policy_add("lake", policy=policy)
    account.policy_set("lake", user=credentials().s3_access_key)
