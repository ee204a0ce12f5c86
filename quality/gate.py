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
from quality.suites import suites
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
    from quality.frames import frames, spark

    try:
        before = validations.judged_of(layers)
        passed = validations.passed(layers) if only_what_moved else {}
        judged = judge({layer: frames(layer) for layer in layers}, progress, passed)
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
    for layer, frames in layers.items():
        with _at_hand(frames):
            for table, expectations in suites(layer).items():
                if earlier := (passed or {}).get(table):
                    findings += [replace(one, judged_by=earlier.by) for one in earlier.findings]
                elif expectations:
                    if progress:
                        progress(layer, table)
                    findings += gx.judge(table, expectations, frames[table])
    return Report(tuple(findings))


@contextmanager
def _at_hand(frames: Mapping[str, "DataFrame"]) -> Iterator[None]:
    """Keep frames in the server, as views: read from the lake once, not once an expectation."""
    for name, frame in frames.items():
        frame.persist().createOrReplaceTempView(name.replace(".", "_"))
    try:
        yield
    finally:
        for name, frame in frames.items():
            frame.unpersist()
            frame.sparkSession.catalog.dropTempView(name.replace(".", "_"))
