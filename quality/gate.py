"""The gate: judge layers by their suites and by their history, and say in a line what is wrong."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from html import escape
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from threading import Thread
from typing import TYPE_CHECKING, Any

from lake.errors import LakeError
from lake.settings import LAYERS, settings
from quality.finding import Finding, Report

if TYPE_CHECKING:  # 6 CPU-seconds to import: only a verb that judges pays for it
    from great_expectations.expectations.expectation import Expectation
    from pyspark.sql import DataFrame

Progress = Callable[[str, str], None]
"""Called with the layer and the table that is being judged."""


def prepare() -> None:
    """Begin to import what judges, beside what the caller waits for: it takes seconds."""
    Thread(target=_great_expectations).start()


def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported
    return import_module("great_expectations")


def validate(layers: Sequence[str] = LAYERS, progress: Progress | None = None) -> Report:
    """Judge layers as they are now, and write their data docs anew.

    Raises LakeError where a layer or one of its tables is missing; failed expectations do not.
    """
    for layer in layers:
        if layer not in LAYERS:
            raise LakeError(f"there is no layer `{layer}`: choose of {', '.join(LAYERS)}")
    from quality import history
    from quality.frames import frames, spark

    try:
        judged = judge({layer: frames(layer) for layer in layers}, progress)
        return Report((*judged.findings, *history.judge(layers)))
    finally:
        spark().stop()  # one that outlives its server makes Python wait for minutes


def judge(
    layers: Mapping[str, Mapping[str, "DataFrame"]], progress: Progress | None = None
) -> Report:
    """Judge frames, by layer and name, by the suites of their layers."""
    gx = _great_expectations()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    from quality import bronze, gold, silver

    suites = {"bronze": bronze.suite, "silver": silver.suite, "gold": gold.suite}
    findings: list[Finding] = []
    for layer, frames in layers.items():
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        datasource = context.data_sources.add_spark("lake")
        with _at_hand(frames):
            for table, expectations in suites[layer]().items():
                if progress:
                    progress(layer, table)
                result = _check(context, datasource, table, expectations, frames[table])
                findings += [_finding(layer, table, one, frames[table]) for one in result.results]
        _write_docs(context, layer)
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


def _check(
    context: Any,
    datasource: Any,
    table: str,
    expectations: Sequence["Expectation"],
    frame: "DataFrame",
) -> Any:
    """What Great Expectations finds on a frame; kept by `context` for the data docs."""
    import great_expectations as gx

    batch = datasource.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=list(expectations)))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=table, data=batch, suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=table, validation_definitions=[definition])
    )
    (result,) = checkpoint.run({"dataframe": frame}).run_results.values()
    return result


def _finding(layer: str, table: str, result: Any, frame: "DataFrame") -> Finding:
    config, found = result.expectation_config, result.result
    raised = result.exception_info or {}
    if "raised_exception" not in raised:  # by metric
        raised = next(iter(raised.values()), {})
    has_raised = bool(raised.get("raised_exception"))
    failed = "warn" if config.severity == "warning" else "fail"
    expected = {
        name: value
        for name, value in config.kwargs.items()
        if name not in ("batch_id", "column", "column_list")
    }
    counted = found.get("unexpected_count", found.get("observed_value"))
    return Finding(
        layer=layer,
        table=table,
        column=config.kwargs.get("column"),
        expectation=config.description,
        status="error" if has_raised else "pass" if result.success else failed,
        expected=", ".join(f"{name}={value}" for name, value in expected.items()),
        observed=_observed(found, raised, config.kwargs.get(_QUERY), frame),
        value=float(counted) if isinstance(counted, int | float) else None,
    )


_QUERY = "unexpected_rows_query"
SAMPLES = 3


def _observed(
    found: Mapping[str, Any], raised: Mapping[str, Any], query: str | None, frame: "DataFrame"
) -> str:
    """What was found, short enough for a line."""
    if raised.get("raised_exception"):
        return f"an error: {str(raised['exception_message']).strip().splitlines()[0]}"
    if query and found["observed_value"]:  # GX would bring all the rows here, or none
        rows = frame.sparkSession.sql(query, batch=frame).take(SAMPLES)
        samples = (", ".join(f"{k} {v}" for k, v in row.asDict().items()) for row in rows)
        return f"{found['observed_value']} rows, as {'; '.join(samples)}"[:300]
    if "unexpected_count" in found:
        seen = list(dict.fromkeys(map(str, found.get("partial_unexpected_list") or [])))
        first = f", as {', '.join(seen[:5])}" if seen else ""
        return f"{found['unexpected_count']} of {found['element_count']} rows{first}"[:300]
    return str(found.get("observed_value"))


def _write_docs(context: Any, layer: str) -> None:
    """Write a layer's site, in place of its last one: plain files, that load nothing of ours."""
    where = settings().state_dir / "data_docs"
    rmtree(where / layer, ignore_errors=True)
    for site in list(context.get_site_names()):
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        layer,
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(where / layer),
            },
        },
    )
    context.build_data_docs()
    _write_index(where)


def _write_index(where: Path) -> None:
    """Write the page that leads to each layer's site."""
    sites = [(layer, where / layer / "index.html") for layer in LAYERS]
    lines = [
        f'<li><a href="{layer}/index.html">{escape(layer)}</a>, judged '
        f"{datetime.fromtimestamp(site.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC</li>"
        for layer, site in sites
        if site.exists()
    ]
    title = "<!doctype html><meta charset=utf-8><title>Data docs</title><h1>Data docs</h1>"
    (where / "index.html").write_text(f"{title}<ul>{''.join(lines)}</ul>")
