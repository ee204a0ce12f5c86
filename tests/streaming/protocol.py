"""The protocol of capture as a model: the source's WAL, the slot, runs of capture, the lake.

A `World` takes one step at a time, and anything may be killed between two. What must hold is
checked after every step: `BrokenError` is raised where it does not. `Rules` has what the protocol
does, and mistakes that one could make instead, of which `explore` must find each.
"""

import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

Position = tuple[int, int]
"""The LSN of a transaction's commit, and the place of a change in it, from 1."""
BULK_LSN = 10
"""Where the slot began: what was committed before is in the bulk load."""


class BrokenError(AssertionError):
    """Something does not hold that must."""


@dataclass(frozen=True)
class Rules:
    """How capture goes about it; the defaults are how it does."""

    skips_by: Literal["position", "lsn"] = "position"
    acknowledges: Literal["held", "flushed", "received"] = "held"
    commits: Literal["compare and set", "blindly", "rows, then position"] = "compare and set"
    completes_at: Literal["commit", "empty commit", "change"] = "commit"
    begins: Literal["together", "writer first", "reader first"] = "together"
    refuses: bool = True


@dataclass(frozen=True)
class Change:
    position: Position
    lsn: int


@dataclass(frozen=True)
class Commit:
    """The end of a transaction, in the stream of its changes, of which there may be none."""

    lsn: int
    is_empty: bool


Message = Change | Commit


@dataclass
class Source:
    """Transactions in the order of their commits. Their changes' own LSNs are not in that order."""

    chance: random.Random
    lsn: int = BULK_LSN
    transactions: list[tuple[list[Change], Commit]] = field(default_factory=list)
    open: list[list[int]] = field(default_factory=list)

    def write(self) -> None:
        """A change in a transaction that is open, or in a new one."""
        self.lsn += 1
        if not self.open or (len(self.open) < 3 and self.chance.random() < 0.4):
            self.open.append([])
        self.chance.choice(self.open).append(self.lsn)

    def commit(self) -> None:
        if self.open:
            own = self.open.pop(self.chance.randrange(len(self.open)))
            self.lsn += 1
            changes = [Change((self.lsn, i), lsn) for i, lsn in enumerate(own, start=1)]
            self.transactions.append((changes, Commit(self.lsn, is_empty=not changes)))

    def positions(self) -> list[Position]:
        return [change.position for changes, _ in self.transactions for change in changes]

    def since(self, lsn: int) -> Iterator[Message]:
        """What a slot sends that is confirmed up to an LSN: whole transactions."""
        for changes, commit in self.transactions:
            if commit.lsn >= lsn:
                yield from changes
                yield commit


@dataclass(frozen=True)
class Held:
    """What the lake holds. `last_lsn` is the own LSN of the last change."""

    rows: tuple[Position, ...] = ()
    position: Position = (BULK_LSN - 1, 2**63)
    complete_lsn: int = BULK_LSN - 1
    last_lsn: int = 0


@dataclass(frozen=True)
class Batch:
    """What a commit to the lake adds, to what, and how far the lake is with it."""

    changes: tuple[Change, ...]
    start: Position
    complete_lsn: int | None

    @property
    def end(self) -> Position:
        return self.changes[-1].position if self.changes else self.start


@dataclass
class Run:
    """A run of capture: what it has received, emitted to its writer, and flushed."""

    read_from: Held
    written_from: Position
    received: deque[Message] = field(default_factory=deque)
    sent: int = 0
    emitted: list[Change] = field(default_factory=list)
    complete_lsn: int | None = None
    flushing: Batch | None = None
    flushed_lsn: int = 0
    rows_are_in: bool = False


class World:
    """Everything at once. `run` has the slot; `zombies` have lost it, and go on."""

    def __init__(self, seed: int, rules: Rules) -> None:
        self.chance = random.Random(seed)
        self.rules = rules
        self.source = Source(self.chance)
        self.confirmed = BULK_LSN
        self.lake = Held()
        self.backups: list[Held] = [self.lake]
        self.run: Run | None = None
        self.opening: Held | None = None
        self.zombies: list[Run] = []
        self.stream: list[Message] = []
        self.refused = False
        self.is_tampered = False
        self.seen: Counter[str] = Counter()

    # -- steps ---------------------------------------------------------------------------------

    def step(self) -> None:
        """One step, of the source, of a run, or of fate."""
        steps = [self.source.write] * 2 + [self.source.commit]
        steps += [self.start] * 4 if self.run is None else [partial(self.go_on, self.run)] * 12
        steps += [partial(self.go_on, zombie) for zombie in self.zombies]
        if self.chance.random() < 0.12:
            steps += [self.kill, self.detach, self.back_up]
        if self.chance.random() < 0.02:
            steps += [self.restore, self.rewind, self.advance]
        self.chance.choice(steps)()
        self.check()

    def start(self) -> None:
        """Open a run, in two steps: its reader and its writer look at the lake each for itself."""
        if self.refused:
            return
        if self.opening is None:
            self.opening = self.lake
            return
        first, second, self.opening = self.opening, self.lake, None
        if self.rules.begins == "together" and first.position != second.position:
            self.seen["began apart"] += 1
            return
        reader, writer = (first, second) if self.rules.begins == "reader first" else (second, first)
        if self.rules.refuses and self.confirmed > max(reader.complete_lsn, BULK_LSN):
            self.refused = True
            self.seen["refused"] += 1
            return
        self.run = Run(reader, writer.position, flushed_lsn=self.confirmed)
        self.stream = []

    def go_on(self, run: Run | None) -> None:
        """Something that a run does by itself."""
        if run is not None:
            actions = [self.emit] * 4 + [self.flush, self.commit, self.commit]
            if run is self.run:
                actions += [self.receive] * 3 + [self.acknowledge]
            self.chance.choice(actions)(run)

    def receive(self, run: Run) -> None:
        """The slot sends what was confirmed when the run began, and what has come since."""
        if not self.stream:
            self.began_at = self.confirmed
        sent = list(self.source.since(self.began_at))[run.sent :]
        some = sent[: self.chance.randint(1, 6)]
        run.received += some
        run.sent += len(some)
        self.stream += some

    def emit(self, run: Run) -> None:
        """The next message goes to the writer, unless the lake holds it."""
        if not run.received:
            return
        message = run.received.popleft()
        if isinstance(message, Commit):
            counts = self.rules.completes_at == "empty commit" or not message.is_empty
            if counts and message.lsn >= run.read_from.position[0]:
                run.complete_lsn = message.lsn
            return
        if self.rules.skips_by == "position":
            is_held = message.position <= run.read_from.position
        else:
            is_held = message.lsn <= run.read_from.last_lsn
        if is_held:
            self.seen["skipped"] += 1
            return
        run.emitted.append(message)
        if self.rules.completes_at == "change":
            run.complete_lsn = message.position[0]

    def flush(self, run: Run) -> None:
        """A checkpoint: what was emitted is to be committed, once what was flushed before is."""
        if run.flushing is None and (run.emitted or run.complete_lsn is not None):
            run.flushing = Batch(tuple(run.emitted), run.written_from, run.complete_lsn)
            run.written_from = run.flushing.end
            run.flushed_lsn = max(run.flushed_lsn, run.complete_lsn or 0)
            run.emitted, run.complete_lsn = [], None

    def commit(self, run: Run) -> None:
        """The lake takes a batch or refuses it; a run that is refused, or not answered, ends."""
        batch = run.flushing
        if batch is None:
            return
        if self.rules.commits == "rows, then position" and not run.rows_are_in:
            self.lake = Held(
                self.lake.rows + tuple(change.position for change in batch.changes),
                self.lake.position,
                self.lake.complete_lsn,
                self.lake.last_lsn,
            )
            run.rows_are_in = True
            return
        if self.rules.commits == "compare and set" and batch.start != self.lake.position:
            self.seen["lost the race"] += 1
            self.end(run)
            return
        rows = () if run.rows_are_in else tuple(change.position for change in batch.changes)
        self.lake = Held(
            self.lake.rows + rows,
            batch.end,
            self.lake.complete_lsn if batch.complete_lsn is None else batch.complete_lsn,
            batch.changes[-1].lsn if batch.changes else self.lake.last_lsn,
        )
        run.flushing, run.rows_are_in = None, False
        self.seen["committed by a zombie" if run in self.zombies else "committed"] += 1
        if batch.changes and batch.end[0] > self.lake.complete_lsn:
            self.seen["committed a part of a transaction"] += 1
        if self.chance.random() < 0.1:
            self.seen["answer lost"] += 1
            self.end(run)

    def acknowledge(self, run: Run) -> None:
        """The slot is told what it may forget."""
        lsn = {
            "held": self.lake.complete_lsn - 1,
            "flushed": run.flushed_lsn,
            "received": max((m.lsn for m in self.stream if isinstance(m, Commit)), default=0),
        }[self.rules.acknowledges]
        if lsn > self.confirmed:
            self.confirmed = lsn
            self.seen["acknowledged"] += 1

    def end(self, run: Run) -> None:
        if run is self.run:
            self.run = None
        else:
            self.zombies = [zombie for zombie in self.zombies if zombie is not run]

    # -- fate ----------------------------------------------------------------------------------

    def kill(self) -> None:
        self.run, self.opening = None, None

    def detach(self) -> None:
        """The source takes a run for dead, which is not; another may begin."""
        if self.run is not None:
            self.zombies.append(self.run)
            self.run = None

    def back_up(self) -> None:
        self.backups.append(self.lake)

    def restore(self) -> None:
        """The lake is as it was."""
        self.lake = self.chance.choice(self.backups)
        self.backups = [held for held in self.backups if len(held.rows) <= len(self.lake.rows)]
        self.is_tampered = True
        self.seen["restored"] += 1
        if self.chance.random() < 0.5:
            self.kill()

    def rewind(self) -> None:
        """The slot is an older one, with nobody on it."""
        self.kill()
        self.confirmed = self.chance.randint(BULK_LSN, self.confirmed)
        self.seen["rewound"] += 1

    def advance(self) -> None:
        """Somebody else has moved the slot on."""
        self.kill()
        self.confirmed = self.chance.randint(self.confirmed, self.source.lsn)
        self.is_tampered = True
        self.seen["advanced"] += 1

    # -- what must hold ------------------------------------------------------------------------

    def check(self) -> None:
        """Raises BrokenError."""
        positions = self.source.positions()
        rows = self.lake.rows
        if rows != tuple(positions[: len(rows)]):
            raise BrokenError(f"bronze is {rows}, which is no beginning of {positions}")
        whole = [one for one in positions if one[0] <= self.lake.complete_lsn]
        if len(whole) > len(rows):
            raise BrokenError(f"{whole[len(rows)]} is missing of what is told to be complete")
        if self.confirmed > max(self.lake.complete_lsn, BULK_LSN) and not self.is_tampered:
            raise BrokenError(
                f"acknowledged up to {self.confirmed}, complete up to {self.lake.complete_lsn}"
            )

    def settle(self) -> None:
        """Faults stop, and after a while everything is in the lake; unless it was refused.

        It may be refused only where somebody has touched the lake or the slot.
        """
        self.zombies = []
        while self.source.open:
            self.source.commit()
        positions = self.source.positions()
        for _ in range(4000):
            if self.refused or (len(self.lake.rows) == len(positions) and self.is_complete()):
                break
            if self.run:
                self.go_on(self.run)
            else:
                self.start()
            self.check()
        if self.refused and not self.is_tampered:
            raise BrokenError("refused, and nothing was lost")
        if not self.refused and not (self.lake.rows == tuple(positions) and self.is_complete()):
            raise BrokenError(f"bronze stays at {self.lake}, the source is at {positions[-1:]}")

    def is_complete(self) -> bool:
        positions = self.source.positions()
        return not positions or self.lake.complete_lsn >= positions[-1][0]


def explore(seed: int, rules: Rules = Rules(), steps: int = 200) -> Counter[str]:
    """A schedule of random steps; returns what came about.

    Raises BrokenError where something does not hold.
    """
    world = World(seed, rules)
    for _ in range(steps):
        world.step()
    world.settle()
    return world.seen
