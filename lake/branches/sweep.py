"""Files that nothing points to any more are deleted: here, and nowhere else. Mark, then sweep.

Why no file goes that anybody may come to need:

- A live pointer keeps all that its metadata lists. Pointers are read in one transaction, while no
  publish is under way. A pointer that comes to be later is a copy of one of them, or was committed
  on top of one, and so names files that they reach, or new ones.
- A file is deleted only if it is older than `reader_hours`, which is how long a writer may take to
  commit it, and than the oldest branch. What capture wrote waits for capture: while that is down,
  its checkpoint may name files that it has not committed yet.
- Where a file that a live pointer needs is missing, nothing is deleted at all.

To be killed is harmless at any point: what is left over is found again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from minio import Minio
from minio.deleteobjects import DeleteObject
from psycopg.rows import class_row
from pyiceberg.io import FileIO, load_file_io
from pyiceberg.manifest import ManifestFile, read_manifest_list
from pyiceberg.serializers import FromInputFile
from pyiceberg.table.metadata import TableMetadata

from lake import catalog, object_store
from lake.errors import LakeError
from lake.lag import CHANGES
from lake.object_store import WRITABLE
from lake.settings import APPENDED, TRUNK, settings

BATCH = 1000
READERS = 8

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is, and of how much, where that is known."""
Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Pointer:
    """A live pointer: who holds it, of which table, and the metadata file that it names.

    `kind` is lake, branch, tag, pin, base (of a branch), publish (one that is kept), or replaced
    (one of `lake` that somebody may still be reading).
    """

    kind: str
    holder: str
    table_namespace: str
    table_name: str
    location: str

    def __str__(self) -> str:
        whose = "`lake`" if self.holder == TRUNK else f"{self.kind} `{self.holder}`"
        return f"{self.table_namespace}.{self.table_name} of {whose}"

    @property
    def is_whole(self) -> bool:
        """Whether old snapshots count too. What is appended to has many; only `lake` needs them."""
        return self.kind == "lake" or self.table_namespace not in APPENDED

    @property
    def is_needed(self) -> bool:
        """Whether a missing file is a fault; a replaced one's may be gone, if a clock was wrong."""
        return self.kind != "replaced"


@dataclass(frozen=True)
class Live:
    """The live pointers, and when the oldest live branch began.

    `dropped` are the refs whose time was over, `forgotten` counts the publishes.
    """

    pointers: Sequence[Pointer]
    oldest: datetime | None
    dropped: Sequence[str]
    forgotten: int


@dataclass(frozen=True)
class Files:
    """So many objects, and their bytes."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: "Files") -> "Files":
        return Files(self.files + other.files, self.bytes + other.bytes)


@dataclass(frozen=True)
class Swept:
    """What was deleted, by where it stood; what is not needed, but `young`; what is `kept`."""

    deleted: Mapping[str, Files]
    young: Files
    kept: Files


class LostError(LakeError):
    """A file that a live pointer needs is missing."""

    def __init__(self, pointer: Pointer, path: str, why: str) -> None:
        super().__init__(
            f"{path} {why}, and {pointer} needs it: nothing was swept; "
            "bring it back, or drop what needs it"
        )
        self.pointer = pointer


def live(now: datetime, *, apply: bool) -> Live:
    """Drop the refs and forget the publishes whose time is over, and read what is live then.

    It is one transaction; without `apply` it is undone.
    """
    retention = settings().retention
    reader_since = now - timedelta(hours=retention.reader_hours)
    publish_since = now - timedelta(days=retention.publish_days)
    with (
        catalog.connect("maintenance") as connection,
        connection.transaction(force_rollback=not apply),
        connection.cursor(row_factory=class_row(Pointer)) as cursor,
    ):
        dropped = connection.execute("select lake.drop_expired(%s)", [now]).fetchall()
        forgotten = connection.execute(
            "select lake.forget_publishes(%s, %s)", [publish_since, retention.publishes]
        ).fetchone()
        connection.execute("select lake.forget_rewrites(%s)", [reader_since])
        oldest = connection.execute(
            "select min(created_at) from lake.refs where kind = 'branch'"
        ).fetchone()
        pointers = cursor.execute("select * from lake.live_pointers(%s)", [reader_since]).fetchall()
    assert oldest
    assert forgotten
    return Live(pointers, oldest[0], [name for (name,) in dropped], forgotten[0])


def sweep(now: datetime, progress: Progress, *, apply: bool) -> Swept:
    """Delete what nothing live reaches and is old enough; without `apply`, only say what that is.

    Raises LostError where a file that something live needs is missing; then nothing is deleted.
    """
    lost: LostError | None = None
    for _ in range(3):
        found = live(now, apply=apply)
        if lost and lost.pointer in found.pointers:
            raise lost
        try:
            swept, doomed = _sort(found, now, progress)
        except LostError as error:  # unless its pointer has gone meanwhile, and files with it
            lost = error
            continue
        if apply:
            _delete(doomed, progress)
        return swept
    assert lost
    raise lost


# Mark


@dataclass(frozen=True)
class Reached:
    """Paths that live pointers reach: `needed` ones must be there, `spare` ones may."""

    needed: dict[str, Pointer] = field(default_factory=dict)
    spare: set[str] = field(default_factory=set)

    def add(self, paths: Iterable[str], pointer: Pointer) -> None:
        """Mark what a pointer reaches."""
        if pointer.is_needed:
            self.needed.update(dict.fromkeys(paths, pointer))
        else:
            self.spare.update(paths)


def reach(pointers: Iterable[Pointer], progress: Progress) -> Reached:
    """All that pointers reach: metadata, manifest lists, manifests, files of data and of deletes.

    Former metadata files and statistics are spare: no read fails without them. So is what pointers
    reach that were replaced.

    Raises LostError where a file can't be read.
    """
    io = file_io()
    reached = Reached()
    # Where several reach the same file, the one that needs most of it comes last.
    order = sorted(pointers, key=lambda one: (one.is_needed, one.is_whole))
    roots = {one.location: one for one in order}
    lists: dict[str, tuple[str, Pointer]] = {}
    named = {location: (location, pointer) for location, pointer in roots.items()}
    for pointer, metadata in _read(named, lambda path: _metadata(io, path), reached, progress):
        reached.spare.update(entry.metadata_file for entry in metadata.metadata_log)
        statistics = (*metadata.statistics, *metadata.partition_statistics)
        reached.spare.update(one.statistics_path for one in statistics)
        shown = {ref.snapshot_id for ref in metadata.refs.values()}
        lists |= {
            snapshot.manifest_list: (snapshot.manifest_list, pointer)
            for snapshot in metadata.snapshots
            if pointer.is_whole or snapshot.snapshot_id in shown
        }
    manifests: dict[str, tuple[ManifestFile, Pointer]] = {}
    for pointer, listed in _read(
        lists, lambda path: list(read_manifest_list(io.new_input(path))), reached, progress
    ):
        manifests |= {one.manifest_path: (one, pointer) for one in listed}
    for pointer, entries in _read(
        manifests, lambda one: one.fetch_manifest_entry(io), reached, progress
    ):
        reached.add((entry.data_file.file_path for entry in entries), pointer)
    return reached


def file_io() -> FileIO:
    """What reads the lake's files, as maintenance."""
    opened = catalog.access(role="maintenance")
    return load_file_io(catalog.for_pyiceberg(opened), opened.warehouse)


def _metadata(io: FileIO, path: str) -> TableMetadata:
    return FromInputFile.table_metadata(io.new_input(path))


def _read(
    items: Mapping[str, tuple[Item, Pointer]],
    read: Callable[[Item], Found],
    reached: Reached,
    progress: Progress,
) -> Iterable[tuple[Pointer, Found]]:
    """Read files, by path, side by side, and mark them. Raises LostError."""

    def one(path: str) -> tuple[Pointer, Found] | None:
        item, pointer = items[path]
        try:
            return pointer, read(item)
        except FileNotFoundError:
            if not pointer.is_needed:
                return None
            raise LostError(pointer, path, "is missing") from None
        except OSError as error:
            raise LostError(pointer, path, f"can't be read ({error})") from None

    for path, (_, pointer) in items.items():
        reached.add([path], pointer)
    with ThreadPoolExecutor(READERS) as pool:
        for done, found in enumerate(pool.map(one, items), start=1):
            progress("marking", done, len(items))
            if found:
                yield found


# Sweep


def _sort(found: Live, now: datetime, progress: Progress) -> tuple[Swept, list[str]]:
    """What is to be deleted, what is too young for it, and what stays; and the keys to delete.

    Raises LostError where something that is needed is not there.
    """
    reached = reach(found.pointers, progress)
    general, captured = _cutoffs(found, now)
    needed = {_key(path): path for path in reached.needed}
    spare = {_key(path) for path in reached.spare}
    deleted: dict[str, Files] = defaultdict(Files)
    young, kept = Files(), Files()
    doomed: list[str] = []
    for number, (key, size, modified) in enumerate(listed(), start=1):
        if number % BATCH == 0:
            progress("listing", number, None)
        one = Files(1, size)
        cutoff = captured if key.startswith(_CAPTURED) else general
        if needed.pop(key, None) or key in spare:
            kept += one
        elif cutoff is None or modified >= cutoff:
            young += one
        else:
            deleted[_place(key)] += one
            doomed.append(key)
    for path in needed.values():
        raise LostError(reached.needed[path], path, "is missing")
    return Swept(dict(sorted(deleted.items())), young, kept), doomed


_CAPTURED = ("warehouse/bronze/changes/", "warehouse/bronze/schema_changes/")
"""Where capture writes."""


def _cutoffs(found: Live, now: datetime) -> tuple[datetime, datetime | None]:
    """Files older than this may go: any, and what capture wrote; None where none of that may."""
    hold = timedelta(hours=settings().retention.reader_hours)
    general = min(now - hold, found.oldest or now)
    for pointer in found.pointers:
        if (pointer.kind, f"{pointer.table_namespace}.{pointer.table_name}") == ("lake", CHANGES):
            metadata = _metadata(file_io(), pointer.location)
            if (last := last_captured(metadata)) is None:
                return general, None
            # What it has written and not committed yet is younger than its last commit.
            committed = metadata.snapshot_by_id(last[-1])
            assert committed
            at = datetime.fromtimestamp(committed.timestamp_ms / 1000, UTC)
            return general, min(general, at - hold)
    return general, general


def last_captured(metadata: TableMetadata) -> list[int] | None:
    """The snapshots from the current one back to the last that capture committed; None without one.

    A commit of capture walks back from the current one, from parent to parent, to the last position
    that was committed, and is refused where that is not the one it goes on from (`Lake.append`).
    """
    chain = []
    snapshot = metadata.current_snapshot()
    while snapshot is not None:
        chain.append(snapshot.snapshot_id)
        if snapshot.summary and snapshot.summary["lake.position"]:
            return chain
        parent = snapshot.parent_snapshot_id
        snapshot = metadata.snapshot_by_id(parent) if parent is not None else None
    return None


def listed() -> Iterable[tuple[str, int, datetime]]:
    """Every object of the lake: its key, its bytes, and when it was written."""
    for prefix in WRITABLE:
        for entry in _client().list_objects(
            bucket_name=settings().bucket, prefix=f"{prefix}/", recursive=True
        ):
            assert entry.object_name
            assert entry.last_modified
            yield entry.object_name, entry.size or 0, entry.last_modified


def _key(path: str) -> str:
    """The key in the bucket of what Iceberg names `s3://bucket/key`, or `s3a://…`."""
    return path.partition("://")[2].removeprefix(f"{settings().bucket}/")


def _place(key: str) -> str:
    """Where a file stands, for people: a table's folder, a branch's, or capture's."""
    depth = {"warehouse": 3, "branches": 2}.get(key.partition("/")[0], 1)
    return "/".join(key.split("/")[:depth])


def _delete(keys: Sequence[str], progress: Progress) -> None:
    for start in range(0, len(keys), BATCH):
        batch = [DeleteObject(key) for key in keys[start : start + BATCH]]
        for error in _client().remove_objects(
            bucket_name=settings().bucket, delete_object_list=batch
        ):
            raise LakeError(f"{error.name} can't be deleted ({error.message}): try again")
        progress("sweeping", start + len(batch), len(keys))


def _client() -> Minio:
    secret = catalog.access(role="maintenance").secret_key
    return object_store.client("maintenance", secret)
