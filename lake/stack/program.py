"""A part of the stack as a program to run: what `supervisor` starts and `lifecycle` waits for."""

import os
import shutil
import socket
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lake.errors import LakeError
from lake.settings import settings

PARTS = ("postgres", "source", "minio", "valkey", "trino", "spark", "capture")


@dataclass(frozen=True)
class Program:
    """`ready` answers whether the part does its work now; it may raise what its client raises."""

    name: str
    command: tuple[str, ...]
    ports: Mapping[str, int]
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    stop_seconds: int = 10

    @property
    def directory(self) -> Path:
        return home(self.name)

    @property
    def log(self) -> Path:
        return _log(self.name)


def home(name: str) -> Path:
    """The directory where the part `name` keeps its data."""
    return settings().state_dir / name


def log_of(part: str) -> Path:
    """The log of a part. Raises LakeError where there is no such part, or it never ran."""
    if part not in PARTS:
        raise LakeError(f"there is no part `{part}`: one of {', '.join(PARTS)}")
    found = _log(part)
    if not found.exists():
        raise LakeError(f"{part} has no log yet: start it with `lake up`")
    return found


def _log(name: str) -> Path:
    return settings().state_dir / "logs" / f"{name}.log"


def tied(command: list[str], *, unprivileged: bool = False) -> tuple[str, ...]:
    """`command`, made to die with its parent, so that nothing is ever left behind."""
    identity = _NOBODY_OPTIONS if unprivileged and os.geteuid() == 0 else ()
    return _setpriv("--pdeathsig", "KILL", *identity, *command)


def unprivileged(command: list[str]) -> tuple[str, ...]:
    """`command` as it must run for Postgres, which refuses to be root.

    As root it runs as `nobody`, who keeps the one capability to reach files below root's home.
    """
    return _setpriv(*_NOBODY_OPTIONS, *command) if os.geteuid() == 0 else tuple(command)


NOBODY = 65534
_NOBODY_OPTIONS = (
    "--securebits=+no_setuid_fixup",  # access(2) too then heeds the capability
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=+dac_override",
)


def _setpriv(*arguments: str) -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LakeError("setpriv is not on the PATH: install util-linux")
    return (setpriv, *arguments)


def require(*names: str) -> None:
    """Raise LakeError unless these parts listen: their clients would wait for minutes."""
    for name in names:
        if not listens(name):
            raise LakeError(f"{name} is not up: start it with `lake up`, or see `lake status`")


def listens(name: str) -> bool:
    """Whether somebody listens on a part's port."""
    try:
        address = settings().host, getattr(settings().ports, name)
        socket.create_connection(address, timeout=2).close()
    except OSError:
        return False
    return True


def answer(port: int, path: str) -> bytes | None:
    """What a part answers to a GET; None where it does not, or not well."""
    url = f"http://{settings().host}:{port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bytes(response.read())
    except OSError:  # of which urllib's errors are a kind
        return None
