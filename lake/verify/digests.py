"""Two sides' rows compared without fetching them: by digests of ranges of their keys' hashes.

A range whose digests differ is divided, and so on, until few rows are left in it. Only their hashes
and keys are fetched.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

Kind = Literal["missing", "extra", "differing"]
Range = tuple[int, int]
"""The first and the last of some hashes, which are signed 64-bit integers."""

ROWS = 256
"""About so many rows are in a range at first."""
FEWEST_BITS, MOST_BITS, MORE_BITS = 4, 14, 8
"""How many of a hash's bits name its range: at first, at least and at most; how many more then."""
LAST_BITS = 48
RANGES = 512
"""So many ranges are divided at most; of what differs in others nothing more is found out."""
FETCHED = 50_000
"""So many rows are fetched at most, copies not counted."""


@dataclass(frozen=True)
class Side:
    """One side: its rows as a query, and whom to ask.

    The query is of the rows that hold a condition on `key_hash`. It gives that, row_hash, key_text,
    row_text and copies; `total` is the sum of the hashes of all copies, in SQL.
    """

    rows: Callable[[str], str]
    total: str
    ask: Callable[[str], Sequence[Sequence[Any]]]


@dataclass(frozen=True)
class Difference:
    """A key whose rows differ: missing in the lake, extra there, or of other values."""

    kind: Kind
    key_hash: int
    key_text: str


@dataclass
class Differences:
    """What differs, in rows. Where `is_complete` is false, it is that at least."""

    source_rows: int = 0
    lake_rows: int = 0
    missing: int = 0
    extra: int = 0
    differing: int = 0
    is_complete: bool = True
    first: list[Difference] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.missing + self.extra + self.differing


@dataclass(frozen=True)
class _Digest:
    copies: int
    total: Decimal
    key_text: str = ""


_NOTHING = _Digest(0, Decimal(0))
Digests = dict[int, _Digest]
"""The digest of the rows of each range, or of each key's hash."""


def compare(
    source: Side, lake: Side, *, expected: int, sample: Sequence[Range] = (), first: int = 5
) -> Differences:
    """How the lake's rows differ from the source's.

    `expected` is about how many rows there are. Of a `sample`, only rows whose keys' hashes are in
    its ranges are compared. The `first` differences are named.
    """
    within = [f"({' or '.join(_between(one) for one in sample)})"] if sample else []
    bits = max(FEWEST_BITS, min(MOST_BITS, (expected // ROWS).bit_length()))
    sides = _ask(source, lake, _range(bits), within)
    source_rows, lake_rows = (sum(one.copies for one in side.values()) for side in sides)
    found = Differences(source_rows, lake_rows)
    while differing := _differing(*sides):
        found.is_complete &= len(differing) <= RANGES
        differing = differing[:RANGES]
        within.append(f"{_range(bits)} in ({', '.join(map(str, differing))})")
        rows = sum(side.get(one, _NOTHING).copies for side in sides for one in differing)
        if rows <= FETCHED or bits >= LAST_BITS:
            _count(found, *_ask(source, lake, "key_hash", within, "min(key_text)"), first)
            return found
        bits += MORE_BITS
        sides = _ask(source, lake, _range(bits), within)
    return found


def _between(hashes: Range) -> str:
    return f"key_hash between {hashes[0]} and {hashes[1]}"


def _range(bits: int) -> str:
    """The range that a row is in, by the first bits of its key's hash. The one at 0 is double."""
    return f"key_hash / {2 ** (64 - bits)}"


def _ask(
    source: Side, lake: Side, by: str, within: Sequence[str], key: str = "''"
) -> tuple[Digests, Digests]:
    """The digests of both sides, which are at work at the same time."""
    where = " and ".join(within) or "true"

    def digests(side: Side) -> Digests:
        query = (
            f"select {by}, sum(copies), {side.total}, {key} from ({side.rows(where)}) as hashed"
            " group by 1"
        )
        return {
            int(one): _Digest(int(copies), Decimal(total), text)
            for one, copies, total, text in side.ask(query)
        }

    with ThreadPoolExecutor(2) as pool:
        ours, theirs = pool.map(digests, (source, lake))
    return ours, theirs


def _differing(source: Digests, lake: Digests) -> list[int]:
    return [
        one
        for one in sorted(source.keys() | lake.keys())
        if _parts(source, one) != _parts(lake, one)
    ]


def _parts(digests: Digests, one: int) -> tuple[int, Decimal]:
    digest = digests.get(one, _NOTHING)
    return digest.copies, digest.total


def _count(found: Differences, source: Digests, lake: Digests, first: int) -> None:
    """Add what differs by key to what was found."""
    for key_hash in _differing(source, lake):
        there, here = source.get(key_hash, _NOTHING), lake.get(key_hash, _NOTHING)
        if there.copies > here.copies:
            kind: Kind = "missing"
            found.missing += there.copies - here.copies
        elif there.copies < here.copies:
            kind = "extra"
            found.extra += here.copies - there.copies
        else:
            kind = "differing"
            found.differing += here.copies
        if len(found.first) < first:
            found.first.append(Difference(kind, key_hash, there.key_text or here.key_text))
