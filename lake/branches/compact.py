"""Tables of `lake` are kept in shape: small files merged, deletes applied, old snapshots let go.

All of it only moves pointers of `lake` to the same rows, and deletes nothing: `sweep.py` does that.
A publish takes such a move for none (`lake.is_rewrite_of` in `schema.sql`), so neither is in the
other's way; where both come at once, the later one is refused by the catalog.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import DataFileContent
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.update import AssertRefSnapshotId, AssertTableUUID, RemoveSnapshotsUpdate

from lake import catalog
from lake.branches.sweep import Progress, last_captured
from lake.settings import TRUNK, settings
from lake.stack.program import listens

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

APART = timedelta(minutes=5)
"""Of bronze's snapshots, the last one in so much time is listed: capture makes one a second, and
each commit writes the whole list. Readers of one in between still have its files: what neither the
one before nor the one after reaches is as young as the time between them, and not swept."""


@dataclass(frozen=True)
class Wear:
    """What a table's current snapshot consists of, and what of that makes it worth compacting.

    `small` are data files that stand with many other small ones in a partition, `loose` are delete
    files that outnumber the data files of theirs, `riddled` is the part of the rows deleted.
    """

    data_files: int
    delete_files: int
    manifests: int
    small: int
    loose: int
    riddled: float

    @property
    def is_worn(self) -> bool:
        compaction = settings().compaction
        return (
            self.small > 0
            or self.loose > 0
            or self.manifests >= compaction.manifests
            or self.riddled >= compaction.deleted_ratio
        )


@dataclass(frozen=True)
class Tended:
    """What became of the tables, by name, or would become of them; `skipped` says why not.

    `compacted` has each table's wear before and after (None: it only would be); `expired` how many
    snapshots were let go.
    """

    compacted: Mapping[str, tuple[Wear, Wear | None]]
    expired: Mapping[str, int]
    skipped: Mapping[str, str]


def tend(now: datetime, progress: Progress, *, apply: bool) -> Tended:
    """Compact the tables of `lake` that are worn, and let their old snapshots go."""
    compacted: dict[str, tuple[Wear, Wear | None]] = {}
    expired: dict[str, int] = {}
    skipped: dict[str, str] = {}
    names = tables()
    with _compactor() as spark:
        for number, name in enumerate(names):
            progress("looking at tables", number, len(names))
            before = wear(_load(name))
            if before.is_worn and not apply:
                compacted[name] = before, None
            elif before.is_worn and not listens("spark"):
                skipped[name] = "not compacted: spark is not up, start it with `lake up`"
            elif before.is_worn:
                progress(f"compacting {name}", number, len(names))
                if failure := spark.compact(name):
                    skipped[name] = f"compacted in part or not at all: {failure}"
                compacted[name] = before, wear(_load(name))
            if count := _expire(name, now, apply=apply):
                expired[name] = count
    return Tended(compacted, expired, skipped)


def tables() -> list[str]:
    """The tables of `lake`."""
    opened = catalog.open_catalog(TRUNK)
    found = opened.list_namespaces()
    return sorted(".".join(name) for space in found for name in opened.list_tables(space))


def _load(name: str) -> Table:
    return catalog.open_catalog(TRUNK, "maintenance").load_table(name)


def wear(table: Table) -> Wear:
    """How worn a table is."""
    snapshot = table.current_snapshot()
    if snapshot is None:
        return Wear(0, 0, 0, 0, 0, 0)
    compaction = settings().compaction
    data, small, deletes = Counter[object](), Counter[object](), Counter[object]()
    manifests = snapshot.manifests(table.io)
    for manifest in manifests:
        for entry in manifest.fetch_manifest_entry(table.io):
            file = entry.data_file
            partition = manifest.partition_spec_id, repr(file.partition)
            if file.content == DataFileContent.DATA:
                data[partition] += 1
                small[partition] += file.file_size_in_bytes < compaction.small_bytes
            else:
                deletes[partition] += 1
    rows, deleted = (catalog.total(snapshot, what) for what in ("records", "position-deletes"))
    many = compaction.files
    return Wear(
        data.total(),
        deletes.total(),
        len(manifests),
        small=sum(count for count in small.values() if count >= many),
        loose=sum(count for of, count in deletes.items() if count >= many and count > data[of]),
        riddled=deleted / rows if rows else 0,
    )


class _Compactor:
    """A session of maintenance's own on the warm Spark, opened when it is first needed."""

    session: "SparkSession | None" = None

    def compact(self, name: str) -> str | None:
        """Have Iceberg's procedures merge a table's files; returns why, if that fails."""
        from pyspark.errors import PySparkException  # heavy

        from lake.stack import spark

        if self.session is None:
            self.session = spark.session(catalog.for_spark(catalog.access(role="maintenance")))
        try:
            for statement in _statements(name):
                self.session.sql(statement).collect()
        except PySparkException as error:
            return (str(error).strip().splitlines() or ["it failed"])[0][:200]
        return None


@contextmanager
def _compactor() -> Iterator[_Compactor]:
    compactor = _Compactor()
    try:
        yield compactor
    finally:
        if compactor.session:
            compactor.session.stop()


def _statements(name: str) -> Sequence[str]:
    """Iceberg's procedures; what is small and what is many is here as in `wear`."""
    compaction = settings().compaction
    deletes: dict[str, object] = {"min-input-files": compaction.files}
    data = deletes | {
        "min-file-size-bytes": compaction.small_bytes,
        "delete-ratio-threshold": compaction.deleted_ratio,
        "remove-dangling-deletes": "true",
        "partial-progress.enabled": "true",
        "partial-progress.max-failed-commits": 0,
    }
    rewrites = {"rewrite_data_files": data, "rewrite_position_delete_files": deletes}
    calls = []
    for procedure, options in rewrites.items():
        listed = ", ".join(f"'{key}', '{value}'" for key, value in options.items())
        calls.append(f"{procedure}(table => '{name}', options => map({listed}))")
    calls.append(f"rewrite_manifests(table => '{name}')")
    return [f"call {TRUNK}.system.{call}" for call in calls]


def _expire(name: str, now: datetime, *, apply: bool) -> int:
    """Take old snapshots out of a table's metadata; returns how many.

    None where somebody else commits at the same moment: the next maintenance does it.
    """
    table = _load(name)
    ids = expirable(table.metadata, now, is_thinned=name.startswith("bronze."))
    if not ids or not apply:
        return len(ids)
    unmoved = (
        AssertTableUUID(uuid=table.metadata.table_uuid),
        AssertRefSnapshotId(ref=MAIN_BRANCH, snapshot_id=table.metadata.current_snapshot_id),
    )
    try:
        table.catalog.commit_table(table, unmoved, (RemoveSnapshotsUpdate(snapshot_ids=ids),))
    except CommitFailedException:
        return 0
    return len(ids)


def expirable(metadata: TableMetadata, now: datetime, *, is_thinned: bool) -> list[int]:
    """The ids of the snapshots that need not be listed any more.

    Those are the ones that were replaced more than `reader_hours` ago, and where the table
    `is_thinned` those that soon were; never one by which capture finds its place again.
    """
    since = _ms(now) - settings().retention.reader_hours * 3_600_000
    began = {one.snapshot_id: one.timestamp_ms for one in metadata.snapshots}
    began |= {entry.snapshot_id: entry.timestamp_ms for entry in metadata.snapshot_log}
    times = sorted(began.values())
    kept = {ref.snapshot_id for ref in metadata.refs.values()} | set(last_captured(metadata) or ())
    apart = APART / timedelta(milliseconds=1)
    last = {at // apart: one for one, at in sorted(began.items(), key=lambda item: item[1])}
    leaving = []
    for snapshot in metadata.snapshots:
        one = snapshot.snapshot_id
        later = bisect_right(times, began[one])
        if one in kept or later == len(times):
            continue
        is_between = is_thinned and last[began[one] // apart] != one
        if is_between or times[later] < since:
            leaving.append(one)
    return leaving


def _ms(at: datetime) -> float:
    return at.timestamp() * 1000
