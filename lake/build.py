"""A build: dbt makes what is stale on a branch.

Which tables are made anew, and what all are made of, is dbt's plugin's matter (`dbt_lake`), whoever
runs dbt.
"""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from lake import provenance, results
from lake.manifest import dbt
from lake.provenance import Stale
from lake.results import Result
from lake.settings import settings
from lake.state import with_state

ALL = "--all"
"""The option that has everything built, stale or not."""
LEFT_TO_THE_GATE = ("--exclude-resource-type", "unit_test", "--exclude", "test_name:is_key")
"""Options of `dbt build` in a run: unit tests judge code on rows of their own, and so are for who
edits it (`lake build`, `lake ci`); the gate judges the key of every row."""
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

    Unless they say what to build, that is what is stale.

    Raises LakeError where dbt fails.
    """
    select: list[str] = []
    if chooses_itself(options):
        provenance.must_be_landed(settings().branch)
        waiting = provenance.stale(settings().branch)
        if not waiting:
            say("nothing to build: every table is what the code makes of what was landed")
            return
        say(_count(waiting))
        select = ["--select", *(one.code.name for one in waiting)]
    options = [*with_state([one for one in options if one != ALL]), *select]
    options += LEFT_TO_THE_GATE if gate_follows else ()
    began = time.time()
    try:
        dbt("build", *options)
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


def _count(waiting: Sequence[Stale]) -> str:
    anew = sum(one.how in ("replay", "rebuild") for one in waiting)
    of = f"{len(waiting)} of {len(provenance.codes())} tables"
    return f"{of}, {anew} of them anew" if anew else of
