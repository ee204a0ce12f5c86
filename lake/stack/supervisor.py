"""supervisord: keeps the started parts running, restarts what dies with a growing pause, and logs.

It runs apart from the terminal, so that a stack outlives the command that started it. It is spoken
to over a socket with a password; its file of settings holds the parts' secrets and is private.
"""

import hashlib
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from supervisor.xmlrpc import SupervisorTransport

from lake.credentials import credentials, write_private
from lake.errors import LakeError
from lake.settings import environment, settings
from lake.stack.program import Program

USER = "lake"


@dataclass(frozen=True)
class Process:
    """What supervisord knows of one part."""

    name: str
    state: str  # RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL …
    pid: int | None
    since: float  # seconds since the epoch


def start(programs: list[Program]) -> None:
    """Start supervisord if need be, and have it know `programs` as they are configured now."""
    for program in programs:
        program.directory.mkdir(parents=True, exist_ok=True)
        program.log.parent.mkdir(parents=True, exist_ok=True)
    write_private(_configuration_path(), _configuration(programs))
    if running():
        _reload()
        return
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(_configuration_path())]
    done = subprocess.run(command, env=os.environ | environment(), capture_output=True, text=True)
    if done.returncode:
        raise LakeError(f"supervisord did not start: {(done.stderr or done.stdout).strip()}")
    while not running():
        time.sleep(0.05)


def running() -> bool:
    """Whether this installation's supervisord answers."""
    if not _configuration_path().exists():
        return False
    try:
        _rpc().getState()
    except (OSError, xmlrpc.client.ProtocolError):
        return False
    return True


def processes() -> dict[str, Process]:
    """Every part that supervisord knows, by name; none where it does not run."""
    if not running():
        return {}
    return {
        info["name"]: Process(info["name"], info["statename"], info["pid"] or None, info["start"])
        for info in cast(list[dict[str, Any]], _rpc().getAllProcessInfo())
    }


def start_program(name: str) -> None:
    """Start one part; does not wait until it is ready."""
    if processes()[name].state not in ("RUNNING", "STARTING", "BACKOFF"):
        _rpc().startProcess(name, False)


def stop_program(name: str) -> None:
    """Stop one part and wait until it is gone."""
    if processes()[name].state in ("RUNNING", "STARTING", "BACKOFF"):
        _rpc().stopProcess(name)


def shutdown() -> None:
    """Stop every part and supervisord itself; returns when they are gone."""
    if not running():
        return
    pid = int(_rpc().getPID())
    _rpc().shutdown()
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.05)


def _rpc() -> Any:
    password = credentials().supervisor_password
    transport = SupervisorTransport(USER, password, serverurl=f"unix://{_socket()}")
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor


def _reload() -> None:
    """Have a running supervisord read its settings again; parts that changed are restarted."""
    ((added, changed, removed),) = _rpc().reloadConfig()
    for name in [*changed, *removed]:
        _rpc().stopProcessGroup(name)
        _rpc().removeProcessGroup(name)
    for name in [*added, *changed]:
        _rpc().addProcessGroup(name)


def _configuration_path() -> Path:
    return settings().state_dir / "supervisord.conf"


def _socket() -> Path:
    """A short path, because a socket's may have 108 bytes only, in a directory of our own."""
    directory = Path(f"/tmp/lake-{os.getuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise LakeError(f"{directory} belongs to somebody else: remove it")
    return directory / (hashlib.sha256(bytes(settings().state_dir)).hexdigest()[:16] + ".sock")


def _configuration(programs: list[Program]) -> str:
    state = settings().state_dir
    user = ["user=root"] if os.geteuid() == 0 else []
    sections = [
        "[supervisord]",
        f"logfile={_escaped(str(state / 'logs' / 'supervisord.log'))}",
        f"pidfile={_escaped(str(state / 'supervisord.pid'))}",
        *user,
        "[unix_http_server]",
        f"file={_socket()}",
        "chmod=0600",
        f"username={USER}",
        f"password={credentials().supervisor_password}",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    return "\n".join([*sections, *(_section(program) for program in programs), ""])


def _section(program: Program) -> str:
    pairs = ",".join(f'{name}="{_quoted(value)}"' for name, value in program.environment.items())
    return f"""
[program:{program.name}]
command={_escaped(shlex.join(program.command))}
directory={_escaped(str(program.directory))}
environment={_escaped(pairs)}
autostart=false
autorestart=true
startsecs=2
startretries=100
stopsignal={program.stop_signal}
stopwaitsecs={program.stop_seconds}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile={_escaped(str(program.log))}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=1"""


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _escaped(value: str) -> str:
    return value.replace("%", "%%")
