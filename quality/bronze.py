"""Bronze is what the source holds: its columns, its rows, lately, and every change with its key.

Columns, keys and freshness are the contract's. By hand: that a TRUNCATE, which no merge can apply,
stops the run, and how far behind capture may be.
"""

from great_expectations.expectations.expectation import Expectation

from lake.manifest import manifest, source_tables
from quality.suite import Suite, between, key, none, one_of

BEHIND_BYTES = 256 * 1024**2


def suite() -> Suite:
    loaded: dict[str, list[Expectation]] = {
        table.bronze: key(*table.key) for table in source_tables()
    }
    return loaded | {
        "bronze.columns": [
            none(
                "every declared column is there, in its type",
                "select * from {batch} where found is null or found <> declared",
            ),
        ],
        "bronze.rows": [
            none(
                "as many rows as the source, but for the changes of the last minute",
                "select * from {batch} where abs(in_source - in_bronze) > changed_lately",
            ),
        ],
        "bronze.capture": [
            one_of("wal_status", "reserved", "extended"),
            between("bytes_behind", 0, BEHIND_BYTES, "capture keeps up with the source"),
        ],
        "bronze.changes": [
            none(
                f"a change was landed in the last {_seconds() // 60} minutes",
                "select max(ingested_at) as newest from {batch} "
                f"having max(ingested_at) < current_timestamp - interval {_seconds()} seconds",
            ),
            none(
                "no table was truncated since its snapshot",
                "select source_table, lsn from {batch} where op = 't' and is_since_snapshot",
            ),
            none(
                "every change is one of a row, and has its key",
                "select source_table, lsn, op from {batch} "
                "where op is null or (is_since_snapshot and not has_key)",
            ),
        ],
    }


def _seconds() -> int:
    """How old the newest change may be, as the contract says."""
    changes = manifest()["sources"]["source.lakehouse.bronze.changes"]
    limit = changes["freshness"]["error_after"]
    return int(limit["count"]) * {"minute": 60, "hour": 3600, "day": 86400}[limit["period"]]
