"""A run: build on a branch of its own, judge what was built, publish it; all of it or nothing.

What it finds is kept in `quality.results`, before it is published, and where it fails too.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from lake import catalog, lineage, results, rules
from lake.branches import branch, publish
from lake.errors import LakeError
from lake.manifest import dbt, manifest_text
from lake.results import Result
from lake.settings import LAYERS, on_branch
from quality import gate

PREFIX, RUNNING = "run_", "running"
START = -1
"""An LSN before all that was landed."""
Say = Callable[[str], None]
NO_UNIT_TESTS = ("--exclude-resource-type", "unit_test")
"""They judge code on rows of their own, and so are for who edits it: `lake build`, `lake ci`."""
_SELECTING = {"--select", "-s", "--models", "-m", "--exclude", "--selector", "--resource-type"}
"""The options of dbt that leave out a part of the project."""


if TYPE_CHECKING:
    from quality.finding import Report


@dataclass(frozen=True)
class Run:
    """What a run found, and published as what; None and nothing where nothing had changed."""

    judged: "Report"
    publish: int | None
    tables: Sequence[str]


def run(options: Sequence[str], say: Say, layers: Sequence[str] = LAYERS) -> Run:
    """Build, judge layers and publish; `options` are for `dbt build`, `say` is told each step.

    Where a model's rules are not those by which the published rows were judged, what they touch is
    judged again, all of it.

    Raises LakeError where a step fails, GateError where it was a gate; `lake` is then untouched,
    and the branch is kept to look into.
    """
    with catalog.alone("lake run", "builder"):
        for name in unfinished(PREFIX):
            branch.drop(name)
            say(f"dropped {name}: its run was killed")
        name = f"{PREFIX}{datetime.now(UTC):%m%d_%H%M%S}_{secrets.token_hex(2)}"
        branch.create(name, in_trino="trino" in options)  # which is slow to forget catalogs
        branch.call("builder", "select lake.mark_branch(%s, %s)", name, RUNNING)
        found: list[Result] = []
        try:
            with on_branch(name):
                say(f"building on {name}")
                gate.prepare()
                try:
                    _build(options, found, say, gate_follows=set(LAYERS) <= set(layers))
                    _trace(say)
                    say("judging")
                    judged = gate.validate(layers)
                except LakeError:
                    _record_failure(name, found, say)
                    raise
                results.record(name, found + [finding.result for finding in judged.findings])
                judged.enforce()
            published = publish.publish(name, manifest_text(), is_whole=not _selects(options))
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


def replay(names: Sequence[str], since: int = START) -> list[str]:
    """Options of `dbt build` that have what was landed since an LSN judged again.

    That is what the rules of the named models touch, or what follows from the named tables of the
    source; everything, where none is named.

    Raises LakeError where a name is neither.
    """
    select = ["--select", *rules.touched_by(names)] if names else []
    return [*select, "--vars", f"{{replay_from: {since}}}"]


def _build(options: Sequence[str], found: list[Result], say: Say, *, gate_follows: bool) -> None:
    """Have dbt build, and add what it did to `found`. Raises LakeError where it fails."""
    steps = [publish.with_state(options)]
    changed = rules.changed()
    if changed and not _judges_all(options, rules.touched_by(changed)):
        say(f"the rules of {', '.join(changed)} have changed: judging again what they touch")
        told = dict(pairwise(options))
        target = ["--target", told["--target"]] if "--target" in told else []
        steps.insert(0, [*replay(changed), *target])
    for step in steps:
        began = time.time()
        try:
            dbt("build", "--quiet", *NO_UNIT_TESTS, *step, gate_follows=gate_follows)
        finally:
            found += results.of_dbt(step, began)


def _trace(say: Say) -> None:
    """Record the lineage, which describes what is built and is no part of it."""
    try:
        lineage.record()
    except LakeError as error:
        say(f"the lineage stays as it was: {error}")


def _judges_all(options: Sequence[str], touched: Sequence[str]) -> bool:
    """Whether a build with these options judges again all that rules have touched."""
    is_whole = "--full-refresh" in options or replay([])[-1] in options
    return is_whole and (not _selects(options) or set(touched) <= set(options))


def _selects(options: Sequence[str]) -> bool:
    """Whether a build with these options leaves out a part of the project."""
    return any(option.partition("=")[0] in _SELECTING for option in options)


def _record_failure(name: str, found: Sequence[Result], say: Say) -> None:
    """Keep what a run found that fails; where that can't be, why the run fails matters more."""
    try:
        results.record(name, found)
    except LakeError as error:
        say(str(error))


def unfinished(prefix: str) -> list[str]:
    """The branches of runs that are at work or were killed, by how their names begin."""
    return [
        ref.name
        for ref in branch.refs()
        if ref.name.startswith(prefix) and ref.state in (RUNNING, "")
    ]
