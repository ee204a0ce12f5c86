"""Bronze is what the source holds: its columns, its rows, and every change with its key.

Columns, keys and freshness are the contract's. By hand: how far behind capture may be. A table that
can't be captured, and values that its types can't hold, are told, and keep nobody else waiting.
"""

from lake.manifest import manifest, source_tables
from quality.suite import Expectation, Suite, between, key, no_row, none, one_of, present

BEHIND_BYTES = 256 * 1024**2


def suite() -> Suite:
    loaded: dict[str, list[Expectation]] = {
        table.bronze: key(*table.key) if table.key else [] for table in source_tables()
    }
    return loaded | {
        "bronze.columns": [
            no_row(
                "every declared column is there, in its type",
                "found is null or found <> declared",
            ),
        ],
        "bronze.rows": [
            no_row(
                "there are as many rows as at the source, at one LSN; if there are not, `lake "
                "ingest --again` takes a table anew",
                "in_source <> in_bronze",
                "source_table",
                "in_source",
                "in_bronze",
            ),
            none(
                "rows can be counted",
                "select distinct trouble from {batch} where trouble is not null",
                warns=True,
            ),
        ],
        "bronze.tables": [
            no_row("every declared table can be captured", "true", "trouble", warns=True),
        ],
        "bronze.unheld": [
            no_row(
                "every value can be held by its column's type, and is not null instead",
                "true",
                warns=True,
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
            one_of("op", "c", "u", "d", "t", "m"),
            present("op"),
            no_row(
                "every change has the declared key of its row",
                "is_since_snapshot and not has_key",
                "source_table",
                "commit_lsn",
                "ordinal",
                "op",
            ),
        ],
    }


def _seconds() -> int:
    """How old the newest change may be, as the contract says."""
    changes = manifest()["sources"]["source.lakehouse.bronze.changes"]
    limit = changes["freshness"]["error_after"]
    return int(limit["count"]) * {"minute": 60, "hour": 3600, "day": 86400}[limit["period"]]
