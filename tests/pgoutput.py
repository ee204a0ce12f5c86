"""The changes of the source's WAL as `pgoutput` tells them: an oracle that owes nothing to capture.

It is written by Postgres's manual, "Logical Replication Message Formats".
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Row = dict[str, str | None]
Position = tuple[int, int]


@dataclass(frozen=True)
class Change:
    """A change of a table: `op` is c, u, d or t; rows are texts, as far as the WAL has them.

    `unchanged` names the columns whose large values the WAL leaves out.
    """

    table: str
    op: str
    position: Position
    before: Row | None = None
    after: Row | None = None
    unchanged: Sequence[str] = ()


@dataclass(frozen=True)
class _Relation:
    """A table: its columns in order, and whether each is of the key."""

    name: str
    columns: Sequence[tuple[str, bool]]


class _Message:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def word(self) -> str:
        return self.take(self.data.index(0, self.at) + 1 - self.at)[:-1].decode()

    def row(self, relation: _Relation) -> tuple[Row, list[str]]:
        """The values of a row, and the columns whose value is left out."""
        found: Row = {}
        unchanged = []
        for name, _ in relation.columns[: self.number(2)]:
            match self.take(1):
                case b"n":
                    found[name] = None
                case b"t":
                    found[name] = self.take(self.number(4)).decode()
                case b"u":
                    unchanged.append(name)
        return found, unchanged


def decoded(messages: Iterable[bytes]) -> Iterator[Change]:
    """The changes in messages, which must begin with a transaction."""
    relations: dict[int, _Relation] = {}
    commit_lsn = ordinal = 0
    for data in messages:
        message = _Message(data)
        match message.take(1):
            case b"B":
                commit_lsn, ordinal = message.number(8), 0
            case b"R":
                number = message.number(4)
                relations[number] = _relation(message)
            case b"T":
                count, _ = message.number(4), message.take(1)
                for _ in range(count):
                    ordinal += 1
                    table = relations[message.number(4)].name
                    yield Change(table, "t", (commit_lsn, ordinal))
            case b"I" | b"U" | b"D" as kind:
                ordinal += 1
                relation = relations[message.number(4)]
                yield _change(kind, message, relation, (commit_lsn, ordinal))


def _relation(message: _Message) -> _Relation:
    schema, name, _ = message.word(), message.word(), message.take(1)
    columns = []
    for _ in range(message.number(2)):
        is_key = message.number(1) == 1
        columns.append((message.word(), is_key))
        message.take(8)
    return _Relation(f"{schema}.{name}", columns)


def _change(kind: bytes, message: _Message, relation: _Relation, position: Position) -> Change:
    before: Row | None = None
    part = message.take(1)
    if part in b"KO":
        before, _ = message.row(relation)
        if part == b"K":
            before = {name: before[name] for name, is_key in relation.columns if is_key}
        part = message.take(1)
    if kind == b"D":
        return Change(relation.name, "d", position, before)
    after, unchanged = message.row(relation)
    if before and len(before) == len(relation.columns):
        after |= {name: before[name] for name in unchanged}
        unchanged = []
    op = {b"I": "c", b"U": "u"}[kind]
    return Change(relation.name, op, position, before, after, unchanged)
