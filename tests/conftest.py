"""One running stack for the whole session, in a state directory and on ports of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pyspark.sql.connect.session import SparkSession

from lake.catalog import open_catalog
from lake.credentials import credentials
from lake.settings import Ports, settings

# A shell without job control has what it starts in the background ignore interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is cancelled ends its stack

REAL_CSV = Path(__file__).resolve().parents[2] / "shared" / "data" / "loan_data.csv"

SOAK = "LAKE_TEST_SOAK" in os.environ
"""Whether minutes of load, kills and repetitions are asked for (docs/soak.md)."""
soak = pytest.mark.skipif(not SOAK, reason="minutes of load and kills: LAKE_TEST_SOAK=1 runs it")

Lake = Callable[..., "subprocess.CompletedProcess[str]"]


def free_ports() -> dict[str, str]:
    """A free port for each part, as the settings' variables."""
    with ExitStack() as held:
        ports = {}
        for name in Ports.model_fields:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports[f"LAKE_PORTS__{name.upper()}"] = str(probe.getsockname()[1])
    return ports


def forget_settings() -> None:
    """Have the settings, and what is made from them, read afresh."""
    for cached in (settings, credentials, open_catalog):
        cached.cache_clear()


def secret_values() -> list[str]:
    """Every secret of the installation."""
    drawn = credentials().model_dump()
    roles = drawn.pop("roles")
    return [*drawn.values(), *(secret for role in roles.values() for secret in role.values())]


def lake(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the `lake` command as a user does; its output is kept, not judged."""
    command = [str(Path(sys.executable).with_name("lake")), *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def wait_for_another(part: str, pid: int, seconds: float) -> None:
    """Wait until a part that was killed, the process `pid`, has been started again and is ready."""
    from lake.stack import lifecycle, supervisor

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process = supervisor.processes()[part]
        if process.pid not in (None, pid) and lifecycle.programs()[part].ready():
            return
        time.sleep(0.2)
    pytest.fail(f"{part} was not started again")


def end_spark_session() -> None:
    """End this process's session, whichever thread opened it.

    One that outlives its server makes Python wait for ten minutes before it exits.
    """
    if session := SparkSession._default_session:
        session.stop()


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The settings of this session's own lake; nothing runs yet."""
    with pytest.MonkeyPatch.context() as patch:
        state = tmp_path_factory.mktemp("lake")
        patch.setenv("LAKE_STATE_DIR", str(state))
        for name, port in free_ports().items():
            patch.setenv(name, port)
        forget_settings()
        yield state
    forget_settings()


@pytest.fixture(scope="session")
def lake_stack(installation: Path) -> Iterator[Path]:
    """A running stack; yields its state directory."""
    from lake.stack import lifecycle

    lifecycle.up()
    try:
        yield installation
    finally:
        end_spark_session()
        lifecycle.down()


OWN = "own"
SHARED_TRINO = "LAKE_TEST_SHARED_TRINO"
"""The variable that has the port of the Trino that the lake `own` is hidden from."""


@contextmanager
def settings_of_own() -> Iterator[None]:
    """Be on the lake `own`: another catalog database and bucket on the shared servers.

    Trino, whose catalogs all share one list of names, is left out of it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKE_CATALOG_DATABASE", OWN)
        patch.setenv("LAKE_BUCKET", OWN)
        patch.setenv(SHARED_TRINO, os.environ["LAKE_PORTS__TRINO"])
        patch.setenv("LAKE_PORTS__TRINO", free_ports()["LAKE_PORTS__TRINO"])
        forget_settings()
        yield
    forget_settings()


@pytest.fixture(scope="session")
def made_own(lake_stack: Path) -> None:
    """The lake `own`, made once: a role's policy and key are slow to make."""
    from lake import catalog, object_store
    from lake.stack import postgres

    with settings_of_own():
        postgres.create_databases()
        object_store.create()
        catalog.create()


@pytest.fixture
def own_lake(made_own: None) -> Iterator[str]:
    """The lake `own`, empty; yields its name."""
    with settings_of_own():
        empty_own()
        yield OWN


def empty_own() -> None:
    """Have the lake `own` hold nothing."""
    from lake import catalog, object_store
    from lake.branches import sweep

    assert settings().catalog_database == OWN
    with catalog._connect(catalog.OWNER, credentials().catalog_password) as owner:
        owner.execute(
            "truncate iceberg_tables, lake.refs, lake.bases, lake.keys, lake.ready_keys,"
            " lake.publishes, lake.moves, lake.rewrites, lake.origins, lake.provenance,"
            " lake.validations, lake.exceptions"
        )
        owner.execute("delete from iceberg_namespace_properties where catalog_name <> 'lake'")
    open_catalog.cache_clear()
    sweep._delete([key for key, _, _ in sweep.listed()], lambda *_: None)
    for key in object_store.branch_keys():
        object_store.remove_key(key)


@pytest.fixture(scope="session")
def demo(lake_stack: Path) -> str:
    """The main job has run on the stack, on the real data where it is; yields what it printed."""
    filled = ["--csv", str(REAL_CSV)] if REAL_CSV.exists() else ["--rows", "5000"]
    done = lake("demo", *filled)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
