"""What nobody needs any more goes: refs and publishes whose time is over, then their files.

The policy, whose figures are `Settings.retention` and `Settings.compaction`:

- A branch is dropped at its age limit (`branch_days`), a pin a day after it was last asked for.
- A publish is forgotten when it is older than `publish_days` and not among the last `publishes`.
- A table of `lake` is compacted when it has many small files in one partition, many delete files,
  many manifests or many deleted rows (`compact.py`).
- A snapshot of `lake` leaves its table's list `reader_hours` after it was replaced.
- A file is deleted when nothing live reaches it, and it is old enough (`sweep.py`).
- A key of the object store, and a catalog of Trino's, go if their branch is gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Group
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from lake import catalog
from lake.branches import branch, compact, keys, sweep
from lake.branches.sweep import Files, Progress
from lake.stack.program import listens


@dataclass(frozen=True)
class Report:
    """What was done; or, where it was not `applied`, would be done.

    `dropped` are refs, `forgotten` counts publishes, `keys` those of the object store without a
    branch.
    """

    applied: bool
    dropped: Sequence[str]
    forgotten: int
    keys: int
    tended: compact.Tended
    swept: sweep.Swept


def maintain(
    now: datetime | None = None, *, apply: bool = False, progress: Progress = lambda *_: None
) -> Report:
    """Do what the policy says as of `now`; without `apply`, only look.

    Raises LakeError where another one is at work, or where a file that something live needs is
    missing; then no file is deleted.
    """
    now = now or datetime.now(UTC)
    with catalog.alone("lake maintain", "maintenance"):
        let_go = sweep.live(now, apply=apply)
        tended = compact.tend(now, progress, apply=apply)
        swept = sweep.sweep(now, progress, apply=apply)
        removed = keys.remove_stray(now, apply=apply)
        if apply:
            catalog.open_catalog.cache_clear()
            if listens("trino"):
                branch.tell_trino()
    return Report(apply, let_go.dropped, let_go.forgotten, removed, tended, swept)


def render(report: Report) -> Group:
    """The report as people read it."""
    done = report.applied
    lines = Table("", "", box=None, show_header=False, pad_edge=False)

    def say(what: str, detail: str) -> None:
        lines.add_row(what, Text(detail))

    if report.dropped:
        say("dropped" if done else "would drop", ", ".join(report.dropped))
    if report.forgotten:
        say("forgot" if done else "would forget", f"{report.forgotten:,} publishes")
    if report.keys:
        say("removed" if done else "would remove", f"{report.keys:,} keys without a branch")
    for name, (before, after) in report.tended.compacted.items():
        became = f" → {_wear(after)}" if after else ""
        say("compacted" if done else "would compact", f"{name}: {_wear(before)}{became}")
    for name, count in report.tended.expired.items():
        say("expired" if done else "would expire", f"{name}: {count:,} snapshots")
    for name, why in report.tended.skipped.items():
        say("skipped", f"{name}: {why}")
    for place, files in report.swept.deleted.items():
        say("deleted" if done else "would delete", f"{place}: {_files(files)}")
    say("waiting to be old enough", _files(report.swept.young))
    say("in use", _files(report.swept.kept))
    freed = sum(report.swept.deleted.values(), Files())
    say("[bold]freed[/]" if done else "[bold]would free[/]", _files(freed))
    return Group(lines, *([] if done else ["nothing was changed: `lake maintain --apply` does it"]))


def _wear(of: compact.Wear) -> str:
    return f"{of.data_files:,} data, {of.delete_files:,} delete files, {of.manifests:,} manifests"


def _files(files: Files) -> str:
    return f"{files.files:,} files, {decimal(files.bytes)}"
