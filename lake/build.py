"""A build: dbt makes what is stale on a branch.

What tables are made of is recorded by dbt's plugin, `dbt_lake`, whoever runs dbt.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from lake import provenance, results
from lake.branches import publish
from lake.manifest import dbt
from lake.provenance import Stale
from lake.results import Result
from lake.settings import settings

ALL = "--all"
"""The option that has everything built, stale or not."""
START = -1
"""An LSN before all that was landed."""
Say = Callable[[str], None]
_SELECTING = {"--select", "-s", "--models", "-m", "--exclude", "--selector", "--resource-type"}
"""The options of dbt that leave out a part of the project."""


def build(
    options: Sequence[str],
    say: Say,
    found: list[Result] | None = None,
    *,
    gate_follows: bool = False,
) -> None:
    """Build this process's branch, and add what dbt did to `found`. `options` are for `dbt build`.

    Unless they select, what is stale is built. A table whose code has changed is made anew, whoever
    selected it.

    Raises LakeError where dbt fails.
    """
    waiting = provenance.stale(settings().branch)
    select: list[str] = []
    if chooses_itself(options):
        if not waiting:
            say("nothing to build: every table is what the code makes of what was landed")
            return
        say(_count(waiting))
        select = ["--select", *(one.code.name for one in waiting)]
    options = [*publish.with_state([one for one in options if one != ALL]), *select]
    began = time.time()
    try:
        dbt("build", *options, gate_follows=gate_follows, **_anew(waiting))
    finally:
        if found is not None:
            found += results.of_dbt(options, began)


def chooses_itself(options: Sequence[str]) -> bool:
    """Whether a build with these options is of what is stale, and of nothing else."""
    return not (selects(options) or {ALL, "--full-refresh", "-f"} & {*options} or _replays(options))


def selects(options: Sequence[str]) -> bool:
    """Whether a build with these options leaves out a part of the project that may be stale."""
    return any(option.partition("=")[0] in _SELECTING for option in options)


def _replays(options: Sequence[str]) -> bool:
    return any("replay_from" in one for name, one in pairwise(options) if name == "--vars")


def _anew(waiting: Iterable[Stale]) -> dict[str, str]:
    """What tells the project's macros which models are made anew (`macros/watermark.sql`)."""
    names: dict[str, list[str]] = {"rebuild": [], "replay": [], "increment": []}
    for one in waiting:
        names[one.how].append(one.code.name)
    return {
        "LAKE_REBUILT": " ".join(names["rebuild"]),
        "LAKE_REPLAYED": " ".join(names["replay"]),
    }


def _count(waiting: Sequence[Stale]) -> str:
    anew = sum(one.how != "increment" for one in waiting)
    of = f"{len(waiting)} of {len(provenance.codes())} tables"
    return f"{of}, {anew} of them anew" if anew else of
