"""A run: build on a branch of its own, judge what was built, publish it; all of it or nothing."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lake import catalog, lineage
from lake.branches import branch, publish
from lake.errors import LakeError
from lake.manifest import dbt, manifest_text
from lake.settings import LAYERS, on_branch

PREFIX, RUNNING = "run_", "running"


if TYPE_CHECKING:
    from quality.gate import Report


@dataclass(frozen=True)
class Run:
    """What a run found, and published as what; None and nothing where nothing had changed."""

    judged: "Report"
    publish: int | None
    tables: Sequence[str]


def run(options: Sequence[str], say: Callable[[str], None], layers: Sequence[str] = LAYERS) -> Run:
    """Build, judge layers and publish; `options` are for `dbt build`, `say` is told each step.

    Raises LakeError where a step fails, GateError where it was a gate; `lake` is then untouched,
    and the branch is kept to look into.
    """
    from quality.gate import validate  # heavy

    with catalog.alone("lake run", "builder"):
        for name in _leftovers():
            branch.drop(name)
            say(f"dropped {name}: its run was killed")
        name = f"{PREFIX}{datetime.now(UTC):%m%d_%H%M%S}_{secrets.token_hex(2)}"
        branch.create(name, in_trino="trino" in options)  # which is slow to forget catalogs
        branch.call("builder", "select lake.mark_branch(%s, %s)", name, RUNNING)
        try:
            with on_branch(name):
                say(f"building on {name}")
                dbt("build", "--quiet", *publish.with_state(options))
                try:
                    lineage.record()
                except LakeError as error:  # which describes what is built, and is no part of it
                    say(f"the lineage stays as it was: {error}")
                say("judging")
                judged = validate(layers)
                judged.enforce()
            published = publish.publish(name, manifest_text())
        except LakeError as error:
            branch.show_in_trino(name)
            branch.call(
                "builder", "select lake.mark_branch(%s, %s)", name, str(error).splitlines()[0][:200]
            )
            raise type(error)(
                f"{error}\n`lake` is untouched, the branch is kept: `lake diff {name}`, "
                f"catalog {name} of Trino; then `lake branch drop {name}`"
            ) from None
        except KeyboardInterrupt:
            branch.drop(name)
            raise
    tables = publish.log(1)[0].tables if published else ()
    return Run(judged, published, tables)


def _leftovers() -> list[str]:
    """The branches of runs that were killed. To be asked while no run is at work."""
    return [
        ref.name
        for ref in branch.refs()
        if ref.name.startswith(PREFIX) and ref.state in (RUNNING, "")
    ]
