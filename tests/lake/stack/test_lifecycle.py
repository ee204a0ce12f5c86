"""Starting and stopping, and what goes wrong meanwhile: each test on an installation of its own."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import free_ports, lake, secret_values, wait_for_another


@pytest.fixture
def own(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of an installation of its own, which is down and wiped afterwards."""
    environment = {"LAKE_STATE_DIR": str(tmp_path / "state"), **free_ports()}
    yield environment
    lake("down", "--wipe", **environment)
    assert processes_of(tmp_path) == []


def processes_of(directory: Path) -> list[str]:
    """Every process whose arguments name `directory`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if any(str(directory) in argument for argument in arguments):
            found.append(" ".join(arguments)[:200])
    return found


def test_a_taken_port_is_named_with_who_has_it_and_how_to_move(own: dict[str, str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(own["LAKE_PORTS__TRINO"])))
        other.listen()
        done = lake("up", **own)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert own["LAKE_PORTS__TRINO"] in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert "LAKE_PORTS__TRINO" in done.stderr


def test_a_part_that_dies_while_starting_is_reported_at_once_and_nothing_is_left_running(
    own: dict[str, str], tmp_path: Path
) -> None:
    began = time.monotonic()
    done = lake("up", **own, LAKE_HEAP__TRINO="1m")
    assert done.returncode == 2
    assert "trino died while starting" in done.stderr
    assert "lake logs trino" in done.stderr
    assert time.monotonic() - began < 60
    assert processes_of(tmp_path) == []


def test_a_full_disk_is_refused_before_anything_starts(own: dict[str, str]) -> None:
    done = lake("up", **own, LAKE_FREE_DISK_BYTES=str(2**60))
    assert done.returncode == 2
    assert "GiB free" in done.stderr
    assert "LAKE_STATE_DIR" in done.stderr


@pytest.mark.parametrize("seconds", [1.0, 3.0, 6.0])
def test_an_interrupt_at_any_moment_leaves_nothing_running_and_a_second_up_resumes(
    own: dict[str, str], tmp_path: Path, seconds: float
) -> None:
    command = [str(Path(sys.executable).with_name("lake")), "up"]
    up = subprocess.Popen(command, env=os.environ | own, start_new_session=True)
    time.sleep(seconds)
    os.killpg(up.pid, signal.SIGINT)
    assert up.wait(timeout=60) == 130
    assert processes_of(tmp_path) == []
    assert lake("up", **own).returncode == 0


@pytest.mark.parametrize("verb", ["ingest", "build", "validate", "materialize"])
def test_a_verb_that_needs_the_stack_says_at_once_that_it_is_down(
    own: dict[str, str], verb: str
) -> None:
    never = lake(verb, **own)
    assert (never.returncode, len(never.stderr.splitlines())) == (2, 1)
    assert "lake up" in never.stderr


def test_secrets_are_private_and_in_no_argument_list(lake_stack: Path) -> None:
    path = lake_stack / "credentials.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secrets = secret_values()
    for process in psutil.process_iter(["cmdline"]):
        arguments = " ".join(process.info["cmdline"] or [])
        assert not any(secret in arguments for secret in secrets), arguments


def test_every_part_listens_on_loopback_only(lake_stack: Path) -> None:
    from lake.settings import settings
    from lake.stack import supervisor

    listening = []
    for process in supervisor.processes().values():
        if process.pid:
            family = psutil.Process(process.pid)
            for member in [family, *family.children(recursive=True)]:
                listening += [c for c in member.net_connections("tcp") if c.status == "LISTEN"]
    addresses = {connection.laddr.ip for connection in listening}
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert settings().ports.trino in {connection.laddr.port for connection in listening}


def test_a_part_that_is_killed_is_started_again(lake_stack: Path) -> None:
    from lake.stack import supervisor

    before = supervisor.processes()["valkey"].pid
    assert before
    os.kill(before, signal.SIGKILL)
    wait_for_another("valkey", before, 30)


def test_status_as_json_tells_each_part(lake_stack: Path) -> None:
    done = lake("status", "--json")
    assert done.returncode == 0, done.stderr
    parts = {part["name"]: part for part in json.loads(done.stdout)["parts"]}
    assert set(parts) == {"postgres", "source", "minio", "valkey", "trino", "spark", "capture"}
    assert parts["trino"]["state"] == "ready"
    assert parts["trino"]["memory_bytes"] > 50 * 1024**2


def test_doctor_finds_nothing_wrong_with_a_running_stack(demo: str) -> None:
    done = lake("doctor")
    assert done.returncode == 0, done.stdout


def test_logs_shows_a_part_and_refuses_what_is_none(lake_stack: Path) -> None:
    assert "ready to accept connections" in lake("logs", "postgres", "-n", "100000").stdout
    refused = lake("logs", "oracle")
    assert refused.returncode == 2
    assert "postgres" in refused.stderr
