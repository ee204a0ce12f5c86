"""What people may do on Trino, and how much of it they may take: its rules and resource groups.

Whoever isn't one of `SERVICES` is people, whatever the name: nobody is asked for a password here.
What keeps `lake` whole is the reader's rights in Postgres and MinIO; these rules keep people out
of each other's way, and say so before anything is tried.
"""

from typing import Any

from lake.settings import TRUNK, settings

SERVICE = "lake"
"""The user that tells Trino of branches; what this installation asks by itself, it asks as that."""
SERVICES = f"{SERVICE}|dbt"
SERVICE_SESSION = {"query_max_execution_time": "1d"}
"""What services set, because the time limit of Trino's own settings is that of people."""

Json = dict[str, Any]


def rules() -> Json:
    """The rules of Trino's file-based access control; the first that matches is the one that holds.

    A branch's catalog is open to all, as its builder; whose it is, Trino can't know.
    """
    return {
        "catalogs": [
            {"user": SERVICE, "allow": "owner"},  # which is to make and to drop them
            {"catalog": rf"{TRUNK}|publish_\d+", "allow": "read-only"},
            {"allow": "all"},
        ],
        "queries": [  # one's own can always be seen and killed
            {"user": SERVICE, "allow": ["execute", "kill", "view"]},
            {"allow": ["execute"]},
        ],
        # Of every catalog, or none but Trino's own; what they change, the rules above still keep.
        "functions": [{"privileges": ["EXECUTE"]}],
        "procedures": [{"privileges": ["EXECUTE"]}],
        "system_information": [{"user": SERVICE, "allow": ["read", "write"]}],  # of the server
        "system_session_properties": [
            {"user": SERVICES, "allow": True},
            {"property": r"query_max_.*|query_priority|resource_overcommit", "allow": False},
            {"allow": True},
        ],
    }


def groups() -> Json:
    """The resource groups: services have a room of their own, each person a share of the other.

    A query over a limit of `running` waits; one over a limit of `queued` is refused.
    """
    limits = settings().queries
    each = {
        "name": "${USER}",
        "softMemoryLimit": "100%",
        "hardConcurrencyLimit": limits.running_each,
        "maxQueued": limits.queued_each,
    }
    people = {
        "name": "people",
        "softMemoryLimit": "50%",
        "hardConcurrencyLimit": limits.running,
        "maxQueued": 10 * limits.queued_each,
        "subGroups": [each],
    }
    services = {
        "name": "services",
        "softMemoryLimit": "100%",
        "hardConcurrencyLimit": 100,
        "maxQueued": 1000,
    }
    return {
        "rootGroups": [services, people],
        "selectors": [{"user": SERVICES, "group": "services"}, {"group": "people.${USER}"}],
    }
