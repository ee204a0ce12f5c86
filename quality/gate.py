"""The gate: judge layers by their suites and by their history, and say in a line what is wrong.

What has passed is a fact about pointers (`validations`), and is taken over where it is one of what
is there now.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lake.errors import LakeError
from lake.settings import LAYERS
from quality import gx, validations
from quality.finding import Finding, Report
from quality.suite import view_of
from quality.suites import read_beside, suites
from quality.validations import Passed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Progress = Callable[[str, str], None]
"""Called with the layer and the table that is being judged."""


def validate(
    layers: Sequence[str] = LAYERS,
    progress: Progress | None = None,
    *,
    only_what_moved: bool = False,
) -> Report:
    """Judge layers as they are now, and write their data docs anew; or `only_what_moved` of them
    since it passed.

    Raises LakeError where a layer or one of its tables is missing; failed expectations do not.
    """
    for layer in layers:
        if layer not in LAYERS:
            raise LakeError(f"there is no layer `{layer}`: choose of {', '.join(LAYERS)}")
    from quality import history
    from quality.frames import frames, judged_on, spark

    try:
        before = validations.judged_of(layers)
        passed = validations.passed(layers) if only_what_moved else {}
        read = {layer: frames(layer, _needed(layer, judged_on(layer), passed)) for layer in layers}
        judged = judge(read, progress, passed)
        if validations.judged_of(layers) == before:  # or nobody can tell what of it was judged
            validations.record(before, judged)
        return Report((*judged.findings, *history.judge(layers)))
    finally:
        spark().stop()  # one that outlives its server makes Python wait for minutes


def judge(
    layers: Mapping[str, Mapping[str, "DataFrame"]],
    progress: Progress | None = None,
    passed: Mapping[str, Passed] | None = None,
) -> Report:
    """Judge frames, by layer and name, by the suites of their layers, but for those that passed."""
    findings: list[Finding] = []
    passed = passed or {}
    for layer, frames in layers.items():
        needed = _needed(layer, [*frames], passed)
        with _at_hand({name: frame for name, frame in frames.items() if name in needed}):
            for table, expectations in suites(layer).items():
                if earlier := passed.get(table):
                    findings += [replace(one, judged_by=earlier.by) for one in earlier.findings]
                elif expectations:
                    if progress:
                        progress(layer, table)
                    findings += gx.judge(table, expectations, frames[table])
    return Report(tuple(findings))


def _needed(layer: str, tables: Sequence[str], passed: Mapping[str, Passed]) -> set[str]:
    """The tables that are to be judged, and those that their suites read beside them."""
    waiting = {
        table: expectations
        for table, expectations in suites(layer).items()
        if expectations and table not in passed
    }
    return {*waiting}.union(*(read_beside(one, tables) for one in waiting.values()))


@contextmanager
def _at_hand(frames: Mapping[str, "DataFrame"]) -> Iterator[None]:
    """Keep frames in the server, as views: read from the lake once, not once an expectation."""
    for name, frame in frames.items():
        frame.persist().createOrReplaceTempView(view_of(name))
    try:
        yield
    finally:
        for name, frame in frames.items():
            frame.unpersist()
            frame.sparkSession.catalog.dropTempView(view_of(name))
