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

from lake.errors import LakeError
from lake.settings import LAYERS, settings
from quality.counting import SAMPLES, Breaks, count, rows_query, samples
from quality.finding import Finding
from quality.suite import NO_ROWS, Expectation

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COUNTS = "lake.counts"
"""Our metric: the counts for all expectations of a table; Great Expectations computes it once."""


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
    breaks = [(one.where, one.query) for one in expectations]
    suite = gx.ExpectationSuite(
        name=table,
        expectations=[_made(one, nth, table, breaks) for nth, one in enumerate(expectations)],
    )
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
    return tuple(
        _finding(table, expectations[one.expectation_config.meta["nth"]], one, frame.sparkSession)
        for one in result.results
    )


def _made(of: Expectation, nth: int, table: str, breaks: Sequence[Breaks]) -> Any:
    """An expectation, the nth of its table, as Great Expectations has it."""
    severity = "warning" if of.warns else "critical"
    is_counted = of.where or of.query
    made = _counted(of.name) if is_counted else getattr(_expectations(), of.name)
    meta = {"nth": nth, "table": table, "breaks": breaks}
    shown = {"unexpected_rows_query": rows_query(of)} if of.name == NO_ROWS else {}
    return made(**of.arguments, **shown, description=of.words, severity=severity, meta=meta)


def _expectations() -> Any:
    return import_module("great_expectations.expectations")


@lru_cache
def _counted(name: str) -> Any:
    """A class of Great Expectations', with the metric `COUNTS` in place of its own metrics."""
    _define_counts()
    expectations = _expectations()
    base = (
        expectations.UnexpectedRowsExpectation if name == NO_ROWS else getattr(expectations, name)
    )
    metric: Any = import_module("great_expectations.validator.metric_configuration")

    def get_validation_dependencies(self: Any, *of: Any, **named: Any) -> Any:
        needed = expectations.Expectation.get_validation_dependencies(self, *of, **named)
        asked = {key: self.meta[key] for key in ("table", "breaks")}
        needed.set_metric_configuration(COUNTS, metric.MetricConfiguration(COUNTS, {}, asked))
        return needed

    def _validate(self: Any, metrics: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        rows, counts = metrics[COUNTS]
        count = counts[self.meta["nth"]]
        if isinstance(count, str):
            raise LakeError(count)
        found = {"element_count": rows, "unexpected_count": count, "observed_value": count}
        share = {"unexpected_percent": 100 * count / rows if rows else 0.0}
        return {"success": count == 0, "result": found | share}

    return type(base)(
        NO_ROWS if name == NO_ROWS else f"{name}Counted",  # its own is taken
        (base,),
        {
            "__module__": __name__,
            "get_validation_dependencies": get_validation_dependencies,
            "_validate": _validate,
        },
    )


@lru_cache
def _define_counts() -> None:
    """Make our metric known to Great Expectations."""
    engine: Any = import_module("great_expectations.execution_engine")
    provider: Any = import_module("great_expectations.expectations.metrics.metric_provider")
    of_table: Any = import_module("great_expectations.expectations.metrics.table_metric_provider")

    class Counts(of_table.TableMetricProvider):  # type: ignore[misc]
        metric_name = COUNTS
        domain_keys = ()
        value_keys = ("table", "breaks")

        @provider.metric_value(engine=engine.SparkDFExecutionEngine)  # type: ignore[untyped-decorator]
        def _spark(
            cls: Any,  # noqa: N805
            execution_engine: Any,
            metric_value_kwargs: Mapping[str, Any],
            **_: Any,
        ) -> Any:
            session = execution_engine.get_domain_records({}).sparkSession
            return count(session, metric_value_kwargs["table"], metric_value_kwargs["breaks"])


def _finding(table: str, of: Expectation, result: Any, session: "SparkSession") -> Finding:
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
        observed=_observed(table, of, found, raised, session),
        value=float(counted) if isinstance(counted, int | float) else None,
    )


def _observed(
    table: str,
    of: Expectation,
    found: Mapping[str, Any],
    raised: Mapping[str, Any],
    session: "SparkSession",
) -> str:
    """What was found, short enough for a line."""
    if raised.get("raised_exception"):
        return f"an error: {str(raised['exception_message']).strip().splitlines()[0]}"
    if "unexpected_count" not in found:
        return str(found.get("observed_value"))
    broken = found["unexpected_count"]
    words = f"{broken} rows" if of.name == NO_ROWS else f"{broken} of {found['element_count']} rows"
    if not broken:
        return words
    if of.where or of.query:
        seen = samples(session, table, of)
    else:
        listed = dict.fromkeys(map(str, found.get("partial_unexpected_list") or []))
        seen = ", ".join([*listed][:SAMPLES])
    return f"{words}, as {seen}"[:300] if seen else words


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
