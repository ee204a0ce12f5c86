"""What is published, as dbt's `--state`: so that its `state:modified` is what differs from that.

dbt compares the project with a manifest. Which project published last does not tell what each table
was built of; so models are as it is recorded of their tables, and the rest as that project had it.
"""

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from lake import provenance
from lake.branches import publish
from lake.credentials import write_private
from lake.errors import LakeError
from lake.manifest import BUILT, is_ephemeral, parsed, table_of
from lake.settings import settings


def engine(options: Sequence[str]) -> str:
    """The engine that dbt works on, given its options: `spark` or `trino`."""
    told = dict(pairwise(options))
    return told.get("--target") or told.get("-t") or os.environ.get("DBT_TARGET", "spark")


def state(options: Sequence[str] = ()) -> Path:
    """A directory with the manifest of what this process's branch began from, for dbt's options.

    Raises LakeError where no publish tells, or the project does not parse.
    """
    text = publish.manifest()
    if text is None:
        raise LakeError("no publish says by which project it was built: `lake run` makes one")
    found, now = json.loads(text), parsed(engine(options))
    built, nodes = provenance.built_as(settings().branch), found["nodes"]
    own = f"macro.{now['metadata']['project_name']}."
    found["macros"] = now["macros"] | {
        key: macro for key, macro in found["macros"].items() if key.startswith(own)
    }
    for key, node in now["nodes"].items():
        if node["resource_type"] not in BUILT or is_ephemeral(node):
            continue
        table = table_of(node)
        if table not in built:
            nodes.pop(key, None)
        elif provenance.codes()[table].fingerprint in built[table]:
            nodes[key] = node
        elif key in nodes:
            nodes[key]["checksum"]["checksum"] = "of other code, or of unknown"
    directory = settings().state_dir / "published" / settings().branch
    write_private(directory / "manifest.json", json.dumps(found))
    return directory


def with_state(options: Sequence[str]) -> list[str]:
    """Options of dbt's; where they select by state, with what is published as that state."""
    if not any("state:" in option for option in options) or "--state" in options:
        return [*options]
    return [*options, "--state", str(state(options))]
