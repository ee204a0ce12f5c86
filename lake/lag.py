"""How far the changes have come: what the source wrote, what bronze holds, what silver holds.

LSNs are positions in the source's WAL, in bytes: their differences are bytes, their order is time.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.manifest import DataFileContent, ManifestFile
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
    """Where each step is now."""
    try:
        with source.connect() as connection:
            slot = source.slot(connection)
            row = connection.execute("select pg_current_wal_lsn() - '0/0'").fetchone()
    except LakeError:
        return Lag(None, None, None)
    captured = slot.confirmed_lsn if slot else None
    return Lag(int(row[0]) if row else None, captured, silver_lsn())


def silver_lsn() -> int | None:
    """The LSN that silver has reached on this process's branch; None where it is not built.

    It is that of the last landed change, whatever its table, if silver holds the last one that is
    silver's. Read from the tables' metadata alone.
    """
    built = [
        bound for name in catalog().list_tables("silver") for _, bound in _bounds(name, "_lsn")
    ]
    silver = max(built, default=None)
    if silver is None or not catalog().table_exists(CHANGES):
        return silver
    landed = _bounds(tuple(CHANGES.split(".")), "lsn")
    last = max((bound for table, bound in landed if table != HEARTBEAT), default=0)
    return silver if last > silver else max([silver, *(bound for _, bound in landed)])


def _bounds(name: tuple[str, ...], column: str) -> list[tuple[object, int]]:
    """Of each data file: the first value of its partition, and the upper bound of a column."""
    loaded = catalog().load_table(name)
    snapshot = loaded.current_snapshot()
    fields = {field.name: field.field_id for field in loaded.schema().fields}
    if snapshot is None or column not in fields:
        return []

    def read(manifest: ManifestFile) -> list[tuple[object, int]]:
        files = [entry.data_file for entry in manifest.fetch_manifest_entry(loaded.io)]
        return [
            (file.partition[0] if len(file.partition) else None, int(from_bytes(LongType(), bound)))
            for file in files
            if file.content == DataFileContent.DATA
            and (bound := (file.upper_bounds or {}).get(fields[column]))
        ]

    with ThreadPoolExecutor(8) as pool:  # capture leaves a hundred of them before they are merged
        read_all = pool.map(read, snapshot.manifests(loaded.io))
        return [one for found in read_all for one in found]


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
