"""Great Expectations at work: a table is judged by its suite, and gets a page of the data docs."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from html import escape
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from threading import Thread
from typing import TYPE_CHECKING, Any

from jinja2.bccache import Bucket, BytecodeCache

from lake.settings import LAYERS, settings
from quality.finding import Finding
from quality.suite import NO_ROWS, Expectation

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ROW_COUNT = "unexpected_rows_query.row_count"
SAMPLES = 3


def prepare() -> None:
    """Begin to import it, beside what the caller waits for: that takes 6 CPU-seconds."""
    Thread(target=_great_expectations).start()


@lru_cache
def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported
    imported = import_module("great_expectations")
    # It makes an environment of templates for each page, and so would compile them for each.
    view: Any = import_module("great_expectations.render.view.view")
    view.Environment = partial(view.Environment, bytecode_cache=_Compiled())
    return imported


class _Compiled(BytecodeCache):
    """Templates that this process has compiled already."""

    def __init__(self) -> None:
        self._code: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if found := self._code.get(bucket.key):
            bucket.bytecode_from_string(found)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._code[bucket.key] = bucket.bytecode_to_string()


def judge(
    table: str, expectations: Sequence[Expectation], frame: "DataFrame"
) -> tuple[Finding, ...]:
    """Judge a frame, and write the table's page anew."""
    gx = _great_expectations()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_spark("lake").add_dataframe_asset(table)
    suite = gx.ExpectationSuite(name=table, expectations=[_made(one) for one in expectations])
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name=table,
            data=asset.add_batch_definition_whole_dataframe("all"),
            suite=context.suites.add(suite),
        )
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=table, validation_definitions=[definition])
    )
    (result,) = checkpoint.run({"dataframe": frame}).run_results.values()
    _write_docs(context, table)
    return tuple(_finding(table, one, frame) for one in result.results)


def _made(of: Expectation) -> Any:
    """An expectation, as Great Expectations has it."""
    severity = "warning" if of.warns else "critical"
    if of.name == NO_ROWS:
        made, arguments = _no_rows(), {"unexpected_rows_query": of.arguments["query"]}
    else:
        made, arguments = getattr(_expectations(), of.name), dict(of.arguments)
    return made(**arguments, description=of.words, severity=severity)


def _expectations() -> Any:
    return import_module("great_expectations.expectations")


@lru_cache
def _no_rows() -> Any:
    """Great Expectations' own but that it only counts: to fetch rows runs the query once more."""
    expectations = _expectations()

    class NoRows(expectations.UnexpectedRowsExpectation):  # type: ignore[misc, name-defined]
        metric_dependencies = (ROW_COUNT,)

        def _validate(self, metrics: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
            count = metrics[ROW_COUNT]
            return {"success": count == 0, "result": {"observed_value": count}}

    return NoRows


def _finding(table: str, result: Any, frame: "DataFrame") -> Finding:
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
        layer=table.partition(".")[0],
        table=table,
        column=config.kwargs.get("column"),
        expectation=config.description,
        status="error" if has_raised else "pass" if result.success else failed,
        expected=", ".join(f"{name}={value}" for name, value in expected.items()),
        observed=_observed(found, raised, config.kwargs.get("unexpected_rows_query"), frame),
        value=float(counted) if isinstance(counted, int | float) else None,
    )


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


def _write_docs(context: Any, table: str) -> None:
    """Write a table's site, in place of its last one: plain files, that load nothing of ours."""
    where = settings().state_dir / "data_docs"
    site = where.joinpath(*table.split("."))
    rmtree(site, ignore_errors=True)
    for name in list(context.get_site_names()):
        context.delete_data_docs_site(name)
    context.add_data_docs_site(
        table,
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(site),
            },
        },
    )
    context.build_data_docs()
    (site / "branch").write_text(settings().branch)
    _write_index(where)


def _write_index(where: Path) -> None:
    """Write the page that leads to each table's site."""
    lines = []
    for layer in LAYERS:
        for page in sorted((where / layer).glob("*/index.html")):
            at = datetime.fromtimestamp(page.stat().st_mtime, UTC)
            branch = (page.parent / "branch").read_text()
            lines.append(
                f'<li><a href="{page.relative_to(where)}">{layer}.{escape(page.parent.name)}</a>, '
                f"judged {at:%Y-%m-%d %H:%M} UTC on {escape(branch)}</li>"
            )
    title = "<!doctype html><meta charset=utf-8><title>Data docs</title><h1>Data docs</h1>"
    (where / "index.html").write_text(f"{title}<ul>{''.join(lines)}</ul>")
