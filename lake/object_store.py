"""Who may do what in the object store: a key for each role, and one for each branch.

Nobody but maintenance overwrites or deletes a file that `lake` may need. A branch's key writes and
deletes below that branch's own location only, which no other branch ever has again, and is gone
before the branch is published.
"""

import json
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

from lake.credentials import ROLES, credentials
from lake.errors import LakeError
from lake.settings import QUALITY, settings

if TYPE_CHECKING:  # half a CPU-second to import
    from minio import Minio, MinioAdmin

ROOT_USER = "minio"
KEY_OWNER = "branches"
"""Who gives branches their keys, and does nothing else; no key can do more than its owner."""
REGION = "us-east-1"
"""MinIO's default; to say so saves a request that asks for it."""
WRITABLE = ("warehouse", "branches")
"""Where tables are; one that was made on a branch stays where it was made when it is published."""
MODELS = "models"
"""Where trained models are."""


def create() -> None:
    """Make the bucket, a user for each role, and what it is allowed; or bring them up to date."""
    root = credentials().minio_root_password
    store = client(ROOT_USER, root)
    if not store.bucket_exists(bucket_name=settings().bucket):
        store.make_bucket(bucket_name=settings().bucket)
    admin = _admin(ROOT_USER, root)
    found = json.loads(admin.user_list())
    secrets: dict[str, str] = {r: credentials().roles[r].s3_secret_key for r in ROLES}
    secrets[KEY_OWNER] = credentials().key_owner_secret_key
    for user, secret in secrets.items():
        policy = f"{settings().bucket}-{user}"
        admin.policy_add(policy, policy=_policy(*_ALLOWED[user]))
        if user not in found:
            admin.user_add(user, secret)
        if policy not in found.get(user, {}).get("policyName", "").split(","):
            admin.attach_policy([policy], user=user)


def create_key(
    location: str, expires_at: datetime, like: tuple[str, str] | None = None
) -> tuple[str, str]:
    """A new key that reads all, and writes and deletes below `location`: (access, secret).

    It dies at `expires_at`, if it isn't removed before. It may be `like` one that was removed.
    """
    access_key, secret_key = like or (None, None)
    made = _key_owner().add_service_account(
        access_key=access_key,
        secret_key=secret_key,
        name=f"branch_{secrets.token_hex(4)}",
        description=settings().bucket,
        policy=_policy((location,), (location,)),
        expiration=f"{expires_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    found = json.loads(made)["credentials"]
    return found["accessKey"], found["secretKey"]


def remove_key(access_key: str) -> None:
    """Remove a branch's key, unless it has expired or is removed already."""
    from minio.error import MinioAdminException  # slow to import

    with suppress(MinioAdminException):
        _key_owner().delete_service_account(access_key)


def branch_keys() -> dict[str, datetime]:
    """The access keys of this lake's branches, gone ones among them, and when each dies."""
    listed = json.loads(_key_owner().list_service_account(KEY_OWNER))["accounts"] or []
    return {
        account["accessKey"]: datetime.fromisoformat(account["expiration"])
        for account in listed
        if account.get("description") == settings().bucket
    }


_ALLOWED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # below which of the bucket's paths it may write, and delete
    "reader": ((), ()),
    "builder": ((), ()),  # it writes by the keys of its branches
    KEY_OWNER: (("branches",), ("branches",)),
    "publisher": ((), ()),
    "ingest": (("warehouse/bronze",), ()),
    "recorder": ((f"warehouse/{QUALITY}",), ()),
    "capture": (("warehouse/bronze/changes", "warehouse/bronze/schema_changes"), ()),
    "maintenance": (("",), ("",)),
    "trainer": ((MODELS,), ()),
}


def _policy(write: tuple[str, ...], delete: tuple[str, ...]) -> dict[str, object]:
    bucket = f"arn:aws:s3:::{settings().bucket}"
    read = ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"]
    statements: list[dict[str, object]] = [
        {"Effect": "Allow", "Action": read, "Resource": [bucket, f"{bucket}/*"]}
    ]
    for actions, below in (
        (["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"], write),
        (["s3:DeleteObject"], delete),
    ):
        if below:
            paths = [f"{bucket}/{path}/*" if path else f"{bucket}/*" for path in below]
            statements.append({"Effect": "Allow", "Action": actions, "Resource": paths})
    return {"Version": "2012-10-17", "Statement": statements}


@lru_cache
def _client(user: str, secret: str) -> "Minio":
    return client(user, secret)


def client(user: str, secret: str) -> "Minio":
    """The object store, as somebody who has a key."""
    from minio import Minio

    return Minio(
        endpoint=_address(), access_key=user, secret_key=secret, secure=False, region=REGION
    )


def read(location: str, user: str, secret: str) -> bytes:
    """A file, by its whole address, such as `s3://lake/warehouse/…`.

    Raises LakeError where it can't be read.
    """
    from minio.error import MinioException
    from urllib3.exceptions import HTTPError

    bucket, _, key = location.removeprefix("s3://").partition("/")
    try:
        answer = _client(user, secret).get_object(bucket_name=bucket, object_name=key)
        try:
            found: bytes = answer.read()
        finally:
            answer.close()
            answer.release_conn()
    except (MinioException, HTTPError) as error:
        said = str(error).splitlines()[0]
        raise LakeError(f"{location} can't be read: {said}; is MinIO up? `lake status`") from None
    return found


def write(location: str, text: bytes, user: str, secret: str) -> None:
    """Write a file, by its whole address, such as `s3://lake/branches/…`.

    Raises LakeError where it can't be written.
    """
    from minio.error import MinioException
    from urllib3.exceptions import HTTPError

    bucket, _, key = location.removeprefix("s3://").partition("/")
    try:
        _client(user, secret).put_object(
            bucket_name=bucket, object_name=key, data=BytesIO(text), length=len(text)
        )
    except (MinioException, HTTPError) as error:
        said = str(error).splitlines()[0]
        raise LakeError(f"{location} can't be written: {said}") from None


def _key_owner() -> "MinioAdmin":
    return _admin(KEY_OWNER, credentials().key_owner_secret_key)


def _admin(user: str, secret: str) -> "MinioAdmin":
    from minio import MinioAdmin
    from minio.credentials.providers import StaticProvider

    return MinioAdmin(endpoint=_address(), credentials=StaticProvider(user, secret), secure=False)


def _address() -> str:
    return f"{settings().host}:{settings().ports.minio}"
