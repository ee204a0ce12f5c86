"""How far the changes have come: what the source wrote, what bronze holds, what silver holds.

LSNs are positions in the source's WAL, in bytes: their differences are bytes, their order is time.
"""

import time
from dataclasses import dataclass

from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.types import LongType

from lake import source
from lake.catalog import catalog
from lake.errors import LakeError

CHANGES = "bronze.changes"
HEARTBEAT = "lake.heartbeat"


@dataclass(frozen=True)
class Lag:
    """LSNs; None where that step was not reached yet."""

    source_lsn: int | None
    captured_lsn: int | None
    silver_lsn: int | None


def lag() -> Lag:
    """Where each step is now. The LSN of silver is the newest change of any of its tables."""
    try:
        with source.connect() as connection:
            slot = source.slot(connection)
            (current,) = connection.execute("select pg_current_wal_lsn() - '0/0'").fetchone() or (
                0,
            )
    except LakeError:
        return Lag(None, None, silver_lsn())
    return Lag(int(current), slot.confirmed_lsn if slot else None, silver_lsn())


def silver_lsn() -> int | None:
    """The newest change in silver, read from its tables' metadata alone."""
    newest = [_newest(".".join(name)) for name in catalog().list_tables("silver")]
    return max((lsn for lsn in newest if lsn is not None), default=None)


def _newest(table: str) -> int | None:
    """The upper bound of `_lsn` over the table's data files."""
    loaded = catalog().load_table(table)
    snapshot = loaded.current_snapshot()
    columns = {field.name: field.field_id for field in loaded.schema().fields}
    if snapshot is None or "_lsn" not in columns:
        return None
    bounds = [
        entry.data_file.upper_bounds.get(columns["_lsn"])
        for manifest in snapshot.manifests(loaded.io)
        for entry in manifest.fetch_manifest_entry(loaded.io)
        if entry.data_file.content.name == "DATA" and entry.data_file.upper_bounds
    ]
    newest = (int(from_bytes(LongType(), bound)) for bound in bounds if bound)
    return max(newest, default=None)


def catch_up(timeout: float = 120) -> int:
    """Wait until all that the source had committed by now is in `bronze.changes`; returns its LSN.

    It touches the heartbeat, whose change lands after all that were committed before it.

    Raises LakeError where that takes longer than `timeout` seconds.
    """
    with source.connect() as connection:
        row = connection.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert row is not None
        lsn = int(row[0])
        connection.execute(f"update {HEARTBEAT} set beat_at = now()")
    landed = f"source_table = '{HEARTBEAT}' and lsn >= {lsn}"
    began = time.monotonic()
    while time.monotonic() - began < timeout:
        try:
            scan = catalog().load_table(CHANGES).scan(landed, selected_fields=("lsn",), limit=1)
        except NoSuchTableError:
            raise LakeError("nothing is captured yet: run `lake ingest`") from None
        if scan.to_arrow().num_rows:
            return lsn
        time.sleep(0.2)
    raise LakeError(f"capture did not reach LSN {lsn} in {timeout:.0f} s: see `lake logs capture`")
