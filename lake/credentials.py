"""The passwords and keys of one installation: generated once, readable by its user only.

They are handed to programs by environment or by files of the same mode, never as arguments.
"""

import secrets
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, Field, ValidationError

from lake.errors import LakeError
from lake.settings import settings

Role = Literal[
    "reader", "builder", "publisher", "ingest", "capture", "recorder", "maintenance", "trainer"
]
"""Who works on the lake; what each may do stands in `branches/schema.sql` and `object_store.py`."""
ROLES: tuple[Role, ...] = get_args(Role)


def _secret() -> str:
    return secrets.token_urlsafe(24)


class RoleSecrets(BaseModel, extra="forbid"):
    """What a role of the lake logs in with: to the catalog, and to the object store."""

    password: str = Field(default_factory=_secret)
    s3_secret_key: str = Field(default_factory=_secret)


class Credentials(BaseModel, extra="forbid"):
    """One secret for each service and role; a new installation draws them all."""

    postgres_password: str = Field(default_factory=_secret)
    catalog_password: str = Field(default_factory=_secret)
    source_password: str = Field(default_factory=_secret)
    feast_password: str = Field(default_factory=_secret)
    minio_root_password: str = Field(default_factory=_secret)
    valkey_password: str = Field(default_factory=_secret)
    supervisor_password: str = Field(default_factory=_secret)
    key_owner_secret_key: str = Field(default_factory=_secret)
    roles: dict[Role, RoleSecrets] = Field(
        default_factory=lambda: {role: RoleSecrets() for role in ROLES}
    )

    @property
    def make_keys(self) -> bool:
        """Whether they are enough to make branches' keys. Those of a job of CI are not."""
        return "key_owner_secret_key" in self.model_fields_set


def _path() -> Path:
    return settings().state_dir / "credentials.json"


def generate() -> None:
    """Write new credentials; where this installation has some, those of new roles alone."""
    known = credentials() if _path().exists() else Credentials()
    roles = {role: RoleSecrets() for role in ROLES} | known.roles
    if roles != known.roles or not _path().exists():
        credentials.cache_clear()
        known = known.model_copy(update={"roles": roles})
        write_private(_path(), known.model_dump_json(indent=2))


@lru_cache
def credentials() -> Credentials:
    """The credentials of this installation.

    Raises LakeError where there is no installation yet, or its file was damaged.
    """
    try:
        return Credentials.model_validate_json(_path().read_text())
    except FileNotFoundError:
        raise LakeError(f"no lake in {settings().state_dir}: start one with `lake up`") from None
    except ValidationError as error:
        raise LakeError(
            f"{_path()} is damaged, or of another version ({error.error_count()} faults): "
            "start over in another LAKE_STATE_DIR, or remove this one"
        ) from None


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all, readable by this user only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.rename(path)
