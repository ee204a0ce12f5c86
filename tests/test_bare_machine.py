"""The README's first command, as somebody runs it who has uv, git and nothing else."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake.settings import ROOT, settings
from tests.conftest import free_ports

ORDINARY_USER = 65534  # nobody: initdb wants one that has a name
NETWORK = ("PROXY", "CERT", "CA_BUNDLE", "CAINFO", "INDEX")  # how registries are reached here


@pytest.fixture
def bare() -> Iterator[Path]:
    """A directory with an empty home, a `bin` of uv and git, a clone, and a copy of the cache."""
    directory = Path(tempfile.mkdtemp(prefix="bare-"))
    for name in ("home", "bin", "cache"):
        (directory / name).mkdir()
    for program in ("uv", "git"):
        shutil.copy2(_real(program), directory / "bin" / program)
    subprocess.run(["git", "clone", "--quiet", ROOT, directory / "some lake"], check=True)
    if settings().cache_dir.exists():  # to save time: the code that fills it is the same
        subprocess.run(["cp", "-a", f"{settings().cache_dir}/.", directory / "cache"], check=True)
    if os.geteuid() == 0:
        owner = f"{ORDINARY_USER}:{ORDINARY_USER}"
        subprocess.run(["chown", "-R", owner, directory], check=True)
    yield directory
    shutil.rmtree(directory)


def _real(program: str) -> str:
    """The program itself, not a version manager's shim."""
    found = os.environ.get("UV") if program == "uv" else shutil.which(program, path="/usr/bin:/bin")
    found = found or shutil.which(program)
    assert found, f"{program} is not on the PATH"
    return found


@pytest.mark.skipif("CI" not in os.environ, reason="takes minutes: CI runs it, or CI=true does")
def test_the_demo_runs_for_an_ordinary_user_with_uv_and_git_and_is_taken_up_when_interrupted(
    bare: Path,
) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if any(word in name.upper() for word in NETWORK)
    }
    environment |= free_ports()
    environment |= {"HOME": str(bare / "home"), "LAKE_CACHE_DIR": str(bare / "cache")}
    environment |= {"PATH": f"{bare / 'bin'}:/usr/bin:/bin"}
    identity = [f"--reuid={ORDINARY_USER}", f"--regid={ORDINARY_USER}", "--clear-groups"]
    become = ["setpriv", *identity] if os.geteuid() == 0 else []

    state = bare / "some lake" / ".lake"

    def lake(*arguments: str) -> "subprocess.Popen[bytes]":
        command = [*become, "uv", "run", "lake", *arguments]
        return subprocess.Popen(command, cwd=bare / "some lake", env=environment)

    try:
        first = lake("demo", "--rows", "2000")
        while not (state / "logs" / "capture.log").exists():  # until it is in the midst of things
            assert first.poll() is None
            time.sleep(0.2)
        first.terminate()
        assert first.wait() == 130
        assert lake("status").wait() == 1, "the interrupted run has left its stack running"
        assert lake("demo", "--rows", "2000").wait() == 0
        assert lake("status").wait() == 0
    finally:
        assert lake("down", "--wipe").wait() == 0
    assert not state.exists()
