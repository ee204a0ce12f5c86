"""The changes of the source's WAL as `pgoutput` tells them: an oracle for what bulk has copied."""

from collections.abc import Iterator
from dataclasses import dataclass

from lake import source
from lake.settings import settings

Row = dict[str, str | None]


@dataclass(frozen=True)
class Change:
    """A change: `op` is c, u or d. A row has the values that the WAL has, as texts."""

    table: str
    op: str
    commit_lsn: int
    before: Row
    after: Row


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

    def row(self, columns: list[str]) -> Row:
        found: Row = {}
        for name in columns[: self.number(2)]:
            match self.take(1):
                case b"n":
                    found[name] = None
                case b"t":
                    found[name] = self.take(self.number(4)).decode()
        return found


def changes() -> Iterator[Change]:
    """All that the slot has, in the order of commits; it stays there."""
    with source.connect() as connection:
        rows = connection.execute(
            "select data from pg_logical_slot_peek_binary_changes(%s, null, null,"
            " 'proto_version', '1', 'publication_names', %s)",
            [settings().source.slot, f'"{settings().source.publication}"'],
        ).fetchall()
    tables: dict[int, tuple[str, list[str]]] = {}
    commit_lsn = 0
    for (data,) in rows:
        message = _Message(data)
        kind = message.take(1).decode()
        if kind == "B":
            commit_lsn = message.number(8)
        elif kind == "R":
            number, schema, name, _ = (
                message.number(4),
                message.word(),
                message.word(),
                message.take(1),
            )
            columns = []
            for _ in range(message.number(2)):
                message.take(1)
                columns.append(message.word())
                message.take(8)
            tables[number] = f"{schema}.{name}", columns
        elif kind in "IUD":
            table, columns = tables[message.number(4)]
            before: Row = {}
            part = message.take(1)
            if part in b"KO":
                before = message.row(columns)
                part = message.take(1)
            after = message.row(columns) if part == b"N" else {}
            yield Change(table, {"I": "c", "U": "u", "D": "d"}[kind], commit_lsn, before, after)
