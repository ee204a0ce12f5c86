"""What the suites are judged on."""

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from ingestion import bronze
from ingestion.snapshot import ingest
from lake import lag
from lake.catalog import catalog
from lake.manifest import Column, SourceTable
from lake.source import inspection
from lake.stack import postgres
from quality import frames
from tests.conftest import end_spark_session
from tests.ingestion.conftest import declared, owner  # noqa: F401 - a fixture


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
        assert frames.snapshots([thing])["public.thing"].counted == 0
        land(5, ("a", 1), ("b", 2), ("b", 3))
        land(9, ("a", 1), ("a", 2))
        taken = frames.snapshots([thing])["public.thing"]
        assert (taken.lsn, taken.counted, taken.rows.count()) == (9, 2, 2)
        land(12, (None, None), unheld=bronze.NO_ROW)
        taken = frames.snapshots([thing])["public.thing"]
        assert (taken.lsn, taken.counted, taken.rows.count()) == (12, 0, 0)
    finally:
        end_spark_session()


ODD = 'a "b" é.$'
EVENT = SourceTable(
    "bronze.event",
    "public",
    "event",
    ("key", "day"),
    (
        Column("key", "text", ODD),
        Column("day", "date", "day"),
        Column("amount", "numeric(9,2)", "n"),
    ),
)
LOG = declared("log", (), at="timestamp", word="text")


def land(*changes: dict[str, Any]) -> None:
    """Have changes landed, one transaction each, after all that has been committed by now."""
    table = catalog("ingest").load_table("bronze.changes")
    with table.update_spec() as spec:
        spec.remove_field("ingested_at_day")  # which PyIceberg alone can't write
    lsn = max(lag.snapshot_lsn(one.bronze) or 0 for one in (EVENT, LOG))
    with_images = [
        change
        | {name: json.dumps(change[name]) for name in ("key", "before", "after") if name in change}
        | {"commit_lsn": lsn + change["commit_lsn"], "ordinal": 1, "ingested_at": datetime.now(UTC)}
        for change in changes
    ]
    table.append(pa.Table.from_pylist(with_images, schema=table.schema().as_arrow()))


def test_changes_rows_and_values_that_are_not_held_are_judged_by_the_source_s_own_names(
    owner: psycopg.Connection,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lag, "catch_up", lambda *_: 0)
    for module in (frames, inspection):
        monkeypatch.setattr(module, "source_tables", lambda: [EVENT, LOG])
    owner.execute(
        """
        create table event ("a ""b"" é.$" text, day date, n numeric(9, 2), primary key (1, 2));
        """.replace("(1, 2)", '("a ""b"" é.$", day)')
    )
    owner.execute("create table log (at timestamp, word text)")
    owner.execute("alter table log replica identity full")
    owner.execute("insert into event values ('x', '2026-01-01', 'NaN'), ('y', '2026-01-01', 1)")
    ingest([EVENT, LOG], postgres.source_owner(), lambda *_: None)
    key = {ODD: "x", "day": "2026-01-02"}
    event, log = {"source_table": "public.event"}, {"source_table": "public.log"}
    land(
        event | {"op": "c", "commit_lsn": -1, "after": {}},  # in the snapshot
        event | {"op": "c", "commit_lsn": 1, "key": key, "after": key | {"n": "NaN"}},
        event | {"op": "u", "commit_lsn": 2, "after": key | {"n": "2.00"}},  # logs whole rows
        event | {"op": "u", "commit_lsn": 3, "key": {"day": "2026-01-02"}, "after": key},
        event | {"op": "d", "commit_lsn": 4, "key": key, "before": key},
        log | {"op": "t", "commit_lsn": 5},
        log | {"op": "c", "commit_lsn": 6, "after": {"at": "0044-03-15 00:00:00 BC", "word": "x"}},
        log | {"op": "c", "commit_lsn": 7, "after": {"at": "-infinity", "word": "infinity"}},
        {"source_table": "message", "op": "m", "commit_lsn": 8, "after": {"content": ""}},
        event | {"op": "c", "commit_lsn": 2**40, "key": key, "after": key},  # later than counted
    )
    owner.execute("insert into log values ('infinity', 'x'), ('infinity', 'x')")
    end_spark_session()  # that of another lake
    try:
        found = frames.bronze()
        assert [
            row.commit_lsn for row in found["bronze.changes"].where("not has_key").collect()
        ] == [
            row.commit_lsn
            for row in found["bronze.changes"].orderBy("commit_lsn").collect()
            if row.commit_lsn in _positions(-1, 3)
        ]
        assert {tuple(row) for row in found["bronze.unheld"].collect()} == {
            ("public.event", "amount", 2),
            ("public.log", "at", 2),
        }
        assert {tuple(row) for row in found["bronze.rows"].collect()} == {
            ("public.event", 2, 2, None),
            ("public.log", 2, 2, None),
        }
        assert found["bronze.tables"].collect() == []
        owner.execute("alter table log replica identity default")
        (trouble,) = frames.bronze()["bronze.tables"].collect()
        assert trouble.source_table == "public.log"
    finally:
        end_spark_session()


def _positions(*after: int) -> set[int]:
    return {max(lag.snapshot_lsn(one.bronze) or 0 for one in (EVENT, LOG)) + n for n in after}
