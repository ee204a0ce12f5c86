"""Who may do what in the object store: a key for each role, and one for each branch.

Nobody but maintenance deletes a file that `lake` may need. A branch's key deletes below that
branch's own location only, which no other branch ever has again.
"""

import json

from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider

from lake.credentials import ROLES, Role, credentials
from lake.settings import settings

ROOT_USER = "minio"
WRITABLE = ("warehouse", "branches")
"""Where tables are; one that was made on a branch stays where it was made when it is published."""
CAPTURE = "capture"
"""Where capture keeps the lists of files that it has written and not committed yet."""


def create() -> None:
    """Make the bucket, a user for each role, and what it is allowed; or bring them up to date."""
    root = credentials().minio_root_password
    client = Minio(endpoint=_address(), access_key=ROOT_USER, secret_key=root, secure=False)
    if not client.bucket_exists(bucket_name=settings().bucket):
        client.make_bucket(bucket_name=settings().bucket)
    admin = _admin(ROOT_USER, root)
    for role in ROLES:
        policy = f"{settings().bucket}-{role}"
        admin.user_add(role, credentials().roles[role].s3_secret_key)
        admin.policy_add(policy, policy=_policy(*_ALLOWED[role]))
        attached = json.loads(admin.user_info(role)).get("policyName", "").split(",")
        if policy not in attached:
            admin.attach_policy([policy], user=role)


def create_key(location: str, expires_at: str) -> tuple[str, str]:
    """A new key that may read everything, write, and delete below `location`: (access, secret).

    It dies at `expires_at`, ISO 8601 in UTC, if it isn't removed before.
    """
    made = _builder().add_service_account(
        name=location.rpartition("/")[2][:32],
        policy=_policy(WRITABLE, (location,)),
        expiration=expires_at,
    )
    found = json.loads(made)["credentials"]
    return found["accessKey"], found["secretKey"]


def remove_key(access_key: str) -> None:
    """Remove a branch's key."""
    _builder().delete_service_account(access_key)


def keys() -> list[str]:
    """The access keys of all branches that have one, and of those that are gone but left it."""
    listed = json.loads(_builder().list_service_account("builder"))
    return [account["accessKey"] for account in listed["accounts"] or []]


_ALLOWED: dict[Role, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # below which of the bucket's paths it may write, and delete
    "reader": ((), ()),
    "builder": (WRITABLE, ("branches",)),  # what it may give to its branches' keys
    "publisher": ((), ()),
    "ingest": (("warehouse/bronze",), ()),
    "capture": (("warehouse/bronze/changes", CAPTURE), (CAPTURE,)),
    "maintenance": (("",), ("",)),
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


def _builder() -> MinioAdmin:
    return _admin("builder", credentials().roles["builder"].s3_secret_key)


def _admin(user: str, secret: str) -> MinioAdmin:
    return MinioAdmin(endpoint=_address(), credentials=StaticProvider(user, secret), secure=False)


def _address() -> str:
    return f"{settings().host}:{settings().ports.minio}"
