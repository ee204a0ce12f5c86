"""A run: build on a branch of its own, judge what was built, publish it; all of it or nothing.

What it finds is kept in `quality.results`, before it is published, and where it fails too.
"""

import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from lake import catalog, lag, provenance, published, results, rules
from lake.branches import branch, keys, publish
from lake.build import Say, build, chooses_itself, selects
from lake.errors import LakeError
from lake.manifest import manifest_text
from lake.results import Result
from lake.settings import BUILT, TRUNK, on_branch
from quality import gate, validations
from quality.finding import Report

PREFIX, RUNNING = "run_", "running"
START = -1
"""An LSN before all that was landed."""


@dataclass(frozen=True)
class Run:
    """What a run found, and published as what; None and nothing where nothing had changed.

    Where nothing was stale it was `idle`, and nothing was built or judged.
    """

    judged: Report
    publish: int | None
    tables: Sequence[str]
    is_idle: bool = False


def run(options: Sequence[str], say: Say, *, drop_undeclared: bool = False) -> Run:
    """Build the stale tables, judge all layers and publish; `say` gets a line for each step.

    `options` are for `dbt build`, and may select models. It does nothing where no table is stale.
    With `drop_undeclared`, tables of models that are gone are dropped.

    Raises LakeError where a step fails, GateError where it was a gate; `lake` is then untouched,
    and the branch is kept to look into.
    """
    with catalog.alone("lake run", "builder"):
        for name in unfinished(PREFIX):
            branch.drop(name)
            say(f"dropped {name}: its run was killed")
        reached = lag.captured()
        gone = provenance.undeclared(TRUNK) if drop_undeclared else []
        if chooses_itself(options) and not provenance.stale(TRUNK, reached) and not gone:
            if reached:
                publish.extend(reached)
            return Run(Report(()), None, (), is_idle=True)
        provenance.must_be_landed(TRUNK)
        manifest_text()  # read once: an edit during the run is left to the next run
        name = f"{PREFIX}{datetime.now(UTC):%m%d_%H%M%S}_{secrets.token_hex(2)}"
        keys.keep_ready()
        branch.create(name, in_trino="trino" in options)  # which is slow to forget catalogs
        branch.call("builder", "select lake.mark_branch(%s, %s)", name, RUNNING)
        found: list[Result] = []
        try:
            with on_branch(name), ThreadPoolExecutor(1) as beside:
                say(f"building on {name}")
                landed = beside.submit(gate.validate, ["bronze"], only_what_moved=True)
                try:
                    build(["--quiet", *options], say, found, gate_follows=True)
                    branch.drop_tables(name, gone)
                    _trace(say)
                    say("judging")
                    bronze = landed.result()
                    built = gate.validate(BUILT, only_what_moved=True)
                    judged = Report((*bronze.findings, *built.findings))
                except LakeError:
                    _record_failure(name, found, say)
                    raise
                results.record(name, found + [finding.result for finding in judged.findings])
                judged.enforce()
            made = publish.publish(
                name, manifest_text(), validations.project(), is_whole=not selects(options)
            )
        except Exception as error:
            branch.show_in_trino(name)
            why = (str(error) or type(error).__name__).splitlines()[0][:200]
            branch.call("builder", "select lake.mark_branch(%s, %s)", name, why)
            if not isinstance(error, LakeError):
                raise
            raise type(error)(
                f"{error}\n`lake` is untouched, the branch is kept: `lake diff {name}`, "
                f"catalog {name} of Trino; then `lake branch drop {name}`"
            ) from None
        except KeyboardInterrupt:
            branch.drop(name)
            raise
    if made is None:
        return Run(judged, None, ())
    published.record(say)
    return Run(judged, made, publish.log(1)[0].tables)


def replay(names: Sequence[str], since: int = START) -> list[str]:
    """Options of `dbt build` that have what was landed since an LSN judged again.

    That is what the rules of the named models touch, or what follows from the named tables of the
    source; everything, where none is named.

    Raises LakeError where a name is neither.
    """
    select = ["--select", *rules.touched_by(names)] if names else []
    return [*select, "--vars", f"{{replay_from: {since}}}"]


def _trace(say: Say) -> None:
    """Record the lineage, which describes what is built and is no part of it."""
    from lake import lineage  # slow to import

    try:
        lineage.record()
    except LakeError as error:
        say(f"the lineage stays as it was: {error}")


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
