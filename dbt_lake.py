"""Has dbt work on a branch, `LAKE_BRANCH=mine dbt build`.

Models whose code has changed are made anew, and what each table was made of is recorded.

dbt loads modules whose names begin with `dbt_` as its plugins. On Spark a branch is a catalog that
each session brings along, secrets included, which have no place in `profiles.yml`.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Set
from contextlib import suppress
from functools import partial
from pathlib import Path

from dbt.flags import get_flags
from dbt.plugins.manager import dbtPlugin
from dbt_common.context import get_invocation_context
from dbt_common.events.base_types import EventMsg
from dbt_common.events.event_manager_client import add_callback_to_manager
from dbt_common.exceptions import DbtRuntimeError

from lake.catalog import access, for_spark
from lake.errors import LakeError
from lake.manifest import BUILT, PROJECT, changed_at, check
from lake.settings import TRUNK, settings

BUILDING = ("build", "run", "seed", "snapshot", "clone")
OFFLINE = ("clean", "debug", "deps", "init", "list", "parse")


class Branch(dbtPlugin):
    """Checks the project, and opens the branch that the process is on, before dbt does anything."""

    def initialize(self) -> None:
        """Raise DbtRuntimeError for mistakes, for no such branch, and for one not to build on."""
        # dbt-spark asks for Hive's catalog at each statement, and Spark Connect has none.
        warnings.filterwarnings("ignore", message="Failed to set spark.sql.catalogImplementation")
        if "dbt.adapters.spark" in sys.modules:  # dbt loads its adapter before its plugins
            tell_mistakes_shortly()
        if "dbt.adapters.trino" in sys.modules:
            tell_decimals_apart()
        flags, branch = get_flags(), settings().branch  # type: ignore[no-untyped-call]
        command, project = flags.WHICH, Path(flags.PROJECT_DIR).resolve()
        written = project / (flags.TARGET_PATH or "target") / "manifest.json"
        add_callback_to_manager(partial(date_manifest, written, changed_at(project)))
        try:
            check(project)
            if command in OFFLINE or (branch == TRUNK and command not in BUILDING):
                return
            opened = access()
        except LakeError as error:
            raise DbtRuntimeError(str(error)) from None
        if command in BUILDING and not opened.is_writable:
            raise DbtRuntimeError(
                f"`{branch}` is not built on: `lake branch create NAME`, then LAKE_BRANCH=NAME"
            )
        # What PySpark sets in each session that it opens.
        os.environ["PYSPARK_REMOTE_INIT_CONF_LEN"] = "1"
        os.environ["PYSPARK_REMOTE_INIT_CONF_0"] = json.dumps(for_spark(opened))
        if command not in BUILDING:
            return
        reset: set[str] = set()
        if project == PROJECT:
            from lake import provenance  # slow to import

            with suppress(LakeError):  # of a project that does not parse: dbt says so itself
                seen_by_macros = get_invocation_context().env  # a copy of the environment
                assert isinstance(seen_by_macros, dict)
                outdated = provenance.outdated(branch)
                for variable, how in (("LAKE_REBUILT", "rebuild"), ("LAKE_REPLAYED", "replay")):
                    names = (one.code.name for one in outdated if one.how == how)
                    seen_by_macros[variable] = " ".join(names)
                reset = {one.code.table for one in outdated if one.is_reset}
                add_callback_to_manager(record_at_the_end)
        add_callback_to_manager(partial(make_ready, reset))


def date_manifest(written: Path, read: float, message: EventMsg) -> None:
    """Give a manifest the time of the files that it is of: what is edited meanwhile is newer."""
    if message.info.name == "CommandCompleted" and written.exists():
        os.utime(written, (read, read))


def make_ready(reset: Set[str], message: EventMsg) -> None:
    """Make a table writable on the branch before dbt builds it.

    A table in `reset` is first set back to its state at the branch's creation.
    """
    if message.info.name != "NodeStart" or message.data.node_info.resource_type not in BUILT:
        return
    from lake.branches import branch

    built = message.data.node_info.node_relation
    table = f"{built.schema}.{built.alias}"
    with suppress(LakeError):  # a new table; what else there is, the engine says
        if table in reset:
            branch.reset(settings().branch, table)
        branch.take(settings().branch, [table])


def record_at_the_end(message: EventMsg) -> None:
    """Record what was built once dbt has written what it did, well or not."""
    if message.info.name != "CommandCompleted":
        return
    from lake import provenance

    flags = get_flags()  # type: ignore[no-untyped-call]
    try:
        provenance.record(PROJECT / (flags.TARGET_PATH or "target"), flags.VARS or {})
    except (LakeError, OSError) as error:
        sys.stderr.write(f"what was built is not recorded, and so to be built again: {error}\n")


def tell_mistakes_shortly() -> None:
    """Have Spark's errors end where the query's plan would begin, and tell them once.

    An analyst's misspelt column is one line then, and not sixty after one of JSON.
    """
    # 0.2 s to import, which the other engine is spared
    from pyspark.errors.exceptions.connect import AnalysisException, SparkConnectGrpcException

    def without_plan(error: SparkConnectGrpcException) -> str:
        message = SparkConnectGrpcException.getMessage(error)
        return message.split(";\n", 1)[0] if type(error) is AnalysisException else message

    AnalysisException.getMessage = without_plan  # type: ignore[assignment, method-assign]
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)


def tell_decimals_apart() -> None:
    """Have a contract on Trino compare the digits of decimals, as it does on Spark.

    dbt-trino knows their type by its name alone, and so would have values rounded in silence.
    """
    from dbt.adapters.trino.connections import TrinoConnectionManager

    name_of = TrinoConnectionManager.data_type_code_to_name

    def with_digits(_: type[TrinoConnectionManager], code: str) -> str:
        return code.upper() if code.startswith("decimal") else name_of(code)

    TrinoConnectionManager.data_type_code_to_name = classmethod(with_digits)  # type: ignore[assignment, method-assign]


plugins = [Branch]
