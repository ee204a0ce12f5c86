"""The one home of configuration: the environment (`LAKE_…`), then `lake.toml`, then these defaults.

Every default works on one machine with nothing else installed. Nothing secret stands here: the
passwords of an installation are generated once and kept by `lake.credentials`.
"""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from lake.errors import LakeError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: where `dbt_project/` and the other rooms stand."""
TRUNK = "lake"
"""The branch that everybody reads, and that only capture and publishes move."""
LAYERS = ("bronze", "silver", "gold")
"""The namespaces of the catalog that rows go through, in the order of their way."""
BUILT = LAYERS[1:]
"""Those that dbt builds, each of the models in the folder of its name."""
QUALITY = "quality"
"""The namespace of what is found out about them; written on `lake` alone, run by run."""
APPENDED = ("bronze", QUALITY)
"""The namespaces that are appended to on `lake`; no branch writes them."""


Directory = Annotated[Path, AfterValidator(Path.absolute)]
"""The same directory, wherever the process is: sockets and processes are found by its name."""


def _user() -> str:
    try:
        return getpass.getuser()
    except KeyError:  # a user without a name
        return str(os.getuid())


class _Group(BaseModel):
    """Settings that belong together, as `LAKE_PORTS__…`; a misspelt one is no setting."""

    model_config = ConfigDict(extra="forbid")


class Ports(_Group):
    """TCP ports on the loopback interface."""

    postgres: int = 15432
    source: int = 15433
    minio: int = 19000
    minio_console: int = 19001
    valkey: int = 16379
    trino: int = 18080
    spark: int = 15002
    capture: int = 18081
    serving: int = 18082


Size = Annotated[str, Field(pattern=r"^\d+[mgMG]$")]


class Heap(_Group):
    """JVM heap limits, as `-Xmx` takes them: 800m, 4g."""

    trino: Size = "800m"
    spark: Size = "1200m"
    capture: Size = "256m"


class Source(_Group):
    """The Postgres that is captured. The stack brings its own; `host` names another."""

    host: str | None = None
    port: int | None = None
    database: str = "source"
    user: str = "capture"
    password: SecretStr | None = Field(None, description="of a Postgres that is not the stack's")
    slot: str = "lake"
    publication: str = "lake"


class Parts(_Group):
    """A part that the machine already has, instead of the downloaded one."""

    go: Path | None = Field(None, description="the `go` command that builds MinIO")
    minio: Path | None = Field(None, description="a `minio` binary")
    java_spark: Path | None = Field(None, description="home of a Java 17 or 21 for Spark and Flink")
    java_trino: Path | None = Field(None, description="home of a Java 24 or later for Trino")


class Retention(_Group):
    """How long the lake keeps what nobody reads any more; `lake maintain` goes by it."""

    branch_days: float = Field(7, description="a branch is dropped that long after its start")
    publish_days: float = Field(7, description="how long a publish can be rolled back to", ge=0)
    publishes: int = Field(10, description="so many of the last ones can be, however old", ge=1)
    ready_keys: int = Field(
        5, description="so many keys wait for the branches of users who can't make keys", ge=0
    )
    reader_hours: float = Field(
        24, description="a reader or writer may hold on to old files that long", gt=0
    )


class Compaction(_Group):
    """When `lake maintain` writes a table of `lake` anew."""

    small_bytes: int = Field(32 * 1024**2, description="a data file is small below that")
    files: int = Field(16, description="so many small ones in one partition are merged", ge=2)
    manifests: int = Field(32, description="so many manifests are merged", ge=2)
    deleted_ratio: float = Field(0.3, description="a table so much of which is deleted", gt=0, le=1)


class Queries(_Group):
    """What people may take of Trino; builds and the lake's own queries are not held to it."""

    minutes: float = Field(30, description="a query that has run that long is ended", gt=0)
    running: int = Field(4, description="so many run at a time, the others wait", ge=1)
    running_each: int = Field(2, description="... of one user", ge=1)
    queued_each: int = Field(50, description="so many of one user may wait", ge=1)


class Settings(BaseSettings):
    """What one installation runs with."""

    model_config = SettingsConfigDict(
        env_prefix="LAKE_", env_nested_delimiter="__", toml_file=ROOT / "lake.toml", extra="forbid"
    )

    state_dir: Directory = Field(ROOT / ".lake", description="data, logs, credentials")
    project_dir: Directory = Field(
        ROOT / "dbt_project", description="the dbt project: the contract"
    )
    cache_dir: Directory = Field(
        Path(platformdirs.user_cache_dir("lake")), description="downloads and builds, shared"
    )
    host: str = "127.0.0.1"
    branch: str = Field(TRUNK, description="the branch, tag or publish that every engine works on")
    bucket: str = "lake"
    catalog_database: str = Field("catalog", description="where in Postgres the catalog is")
    author: str = Field(default_factory=_user, description="who branches and publishes")
    retention: Retention = Retention()
    compaction: Compaction = Compaction()
    queries: Queries = Queries()
    checkpoint_seconds: float = Field(1.0, description="how often capture commits to the lake")
    free_disk_bytes: int = Field(2 * 1024**3, description="what the disk must offer at a start")
    bulk_workers: int = Field(2, description="connections that copy tables side by side", ge=1)
    ports: Ports = Ports()
    heap: Heap = Heap()
    source: Source = Source()
    parts: Parts = Parts()

    @property
    def s3_endpoint(self) -> str:
        return f"http://{self.host}:{self.ports.minio}"

    @property
    def warehouse(self) -> str:
        return f"s3://{self.bucket}/warehouse"

    @property
    def spark_remote(self) -> str:
        return f"sc://{self.host}:{self.ports.spark}"

    @property
    def source_host(self) -> str:
        return self.source.host or self.host

    @property
    def source_port(self) -> int:
        return self.source.port or self.ports.source

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


@lru_cache
def settings() -> Settings:
    """The settings of this process, read once. Raises LakeError where one makes no sense."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = error.errors()[0]
        name = "__".join(str(part) for part in wrong["loc"]).upper()
        raise LakeError(f"setting LAKE_{name} = {wrong['input']!r}: {wrong['msg']}") from None


def environment() -> dict[str, str]:
    """This process's settings as `LAKE_…` variables, for the programs that it starts."""
    chosen = {k: v for k, v in os.environ.items() if k.startswith("LAKE_")}
    fixed = {"LAKE_STATE_DIR": str(settings().state_dir), "LAKE_BRANCH": settings().branch}
    return chosen | fixed


@contextmanager
def on_branch(name: str) -> Iterator[None]:
    """Work on another branch for a while: this process, and the programs that it starts."""
    before = settings().branch
    settings().branch = name
    try:
        yield
    finally:
        settings().branch = before
