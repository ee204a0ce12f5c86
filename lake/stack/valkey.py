"""Valkey: the online store of features."""

import redis

from lake import parts
from lake.credentials import credentials, write_private
from lake.settings import settings
from lake.stack.program import Program, home, tied


def program() -> Program:
    return Program(
        name="valkey",
        command=tied([str(parts.valkey()), str(home("valkey") / "valkey.conf")]),
        ports={"valkey": settings().ports.valkey},
        ready=_ready,
    )


def configure() -> None:
    """Write its settings, the password among them."""
    text = f"""\
bind {settings().host}
port {settings().ports.valkey}
requirepass {credentials().valkey_password}
appendonly yes
save ""
"""
    write_private(home("valkey") / "valkey.conf", text)


def _ready() -> bool:
    client = redis.Redis(
        settings().host, settings().ports.valkey, password=credentials().valkey_password
    )
    try:
        return bool(client.ping())
    except redis.ConnectionError:  # not up yet, or still loading
        return False
    finally:
        client.close()
