"""What the suites are judged on."""

from datetime import UTC, datetime

import pyarrow as pa

from ingestion import bronze
from lake.catalog import catalog
from quality import frames
from tests.conftest import end_spark_session
from tests.ingestion.conftest import declared


def test_the_newest_snapshot_is_what_counts_and_it_may_be_of_no_rows(own_lake: str) -> None:
    thing = declared("thing", ("part", "id"), part="text", id="integer")
    table = catalog("ingest").create_table(thing.bronze, bronze.snapshot_schema(thing.columns))

    def land(lsn: int, *rows: tuple[str | None, int | None], unheld: str | None = None) -> None:
        own = {"_snapshot_lsn": lsn, "_ingested_at": datetime.now(UTC), "_unheld": unheld}
        landed = [{"part": part, "id": number} | own for part, number in rows]
        catalog("ingest").load_table(thing.bronze).append(
            pa.Table.from_pylist(landed, schema=table.schema().as_arrow())
        )

    end_spark_session()  # that of another lake
    try:
        assert frames.snapshot(thing).counted == 0
        land(5, ("a", 1), ("b", 2), ("b", 3))
        land(9, ("a", 1), ("a", 2))
        taken = frames.snapshot(thing)
        assert (taken.lsn, taken.counted, taken.rows.count()) == (9, 2, 2)
        land(12, (None, None), unheld=bronze.NO_ROW)
        taken = frames.snapshot(thing)
        assert (taken.lsn, taken.counted, taken.rows.count()) == (12, 0, 0)
    finally:
        end_spark_session()
