"""Which rows each side has, as SQL: the source's in Postgres's, the lake's in Trino's.

A side's query gives the texts of each row's key and of the row, their hashes, and how many copies
of the row there are. The lake's rows are what a table was built to, and the changes since.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lake.verify.values import (
    Compared,
    at_source,
    hash_at_source,
    hash_in_lake,
    in_change,
    in_lake,
    literal,
    row_at_source,
    row_in_lake,
)


@dataclass(frozen=True)
class Shape:
    """The columns that are compared, and the names of those that are the key.

    Without a key the whole row is one, and it may be there more than once.
    """

    columns: Sequence[Compared]
    key: Sequence[str]

    @property
    def by_type(self) -> list[Compared]:
        """The columns in the order in which a row's texts are put together."""
        return sorted(self.columns, key=lambda column: str(column.type))

    @property
    def key_columns(self) -> list[Compared]:
        if not self.key:
            return self.by_type
        by_name = {column.name: column for column in self.columns}
        return [by_name[name] for name in self.key]


@dataclass(frozen=True)
class Held:
    """A relation of the lake: what to select from, which rows, and how many copies each stands for.

    `is_distinct` says that a row may stand there several times for one.
    """

    relation: str
    where: str = "true"
    copies: str = "1"
    is_distinct: bool = False


@dataclass(frozen=True)
class Changes:
    """The changes of a source table in `relation`, after one commit and before another.

    `truncated` is the position of the last TRUNCATE among them, if any; `unchanged` has the
    columns, by their names at the source, that some of them leave out.
    """

    relation: str
    source_table: str
    after_lsn: int
    before_lsn: int
    count: int = 0
    unchanged: Sequence[str] = ()
    truncated: tuple[int, int] | None = None

    @property
    def where(self) -> str:
        return (
            f"source_table = {literal(self.source_table)}"
            f" and commit_lsn > {self.after_lsn} and commit_lsn < {self.before_lsn}"
        )


def source_rows(
    shape: Shape, relation: str, within: str = "true", without: Sequence[int] = ()
) -> str:
    """The source's rows, hashed, in Postgres's SQL.

    Of those alone whose `key_hash` is `within` what that condition says, and none of `without`.
    """
    key, row = (
        row_at_source([at_source(column) for column in columns])
        for columns in (shape.key_columns, shape.by_type)
    )
    keyed = f"select *, {hash_at_source(key)} as {_KEY_HASH} from {relation} offset 0"
    left_out = f" and {_KEY_HASH} not in ({', '.join(map(str, without))})" if without else ""
    return (
        f"select {_KEY_HASH} as key_hash, {hash_at_source(row)} as row_hash, {key} as key_text,"
        f" {row} as row_text, 1 as copies from ({keyed}) as keyed"
        f" where {within.replace('key_hash', _KEY_HASH)}{left_out}"
    )


_KEY_HASH = '"hash of the key"'
"""A name that is not likely to be one of the source's columns."""


def lake_rows(shape: Shape, held: Sequence[Held], changes: Changes, within: str = "true") -> str:
    """The lake's rows with the changes applied, hashed, in Trino's SQL; of those keys alone."""
    rows = _base(shape, held, changes, within)
    if changes.count:
        apply = _with_key if shape.key else _keyless
        rows = apply(shape, rows, changes, within)
    texts = f"select key_hash, key_text, {row_in_lake('texts')} as row_text, copies from ({rows})"
    return (
        f"select key_hash, {hash_in_lake('row_text')} as row_hash, key_text, row_text, copies"
        f" from ({texts})"
    )


def partial_keys(shape: Shape, held: Sequence[Held], changes: Changes) -> str:
    """The keys that can't be compared, in Trino's SQL. Columns: key_hash, key_text.

    Each is the new key of a row with a large value that stands in no row but that of its old key.
    """
    merged = _merged(shape, _base(shape, held, changes, "true"), changes, "true")
    return f"select key_hash, key_text from ({merged}) where is_partial"


# -- below, rows are: key_hash, key_text, texts (an array, of the columns by type), copies ---------


def _base(shape: Shape, held: Sequence[Held], changes: Changes, within: str) -> str:
    """The rows of the lake's tables; of no use after a TRUNCATE."""
    key, texts = row_in_lake(in_lake(shape.key_columns)), in_lake(shape.by_type)
    return " union all ".join(
        f"select {'distinct ' if one.is_distinct else ''}key_hash, key_text, texts, copies from ("
        f"select {hash_in_lake(key)} as key_hash, {key} as key_text, {texts} as texts,"
        f" {one.copies} as copies from {one.relation}"
        f" where {'false' if changes.truncated else one.where}) where {within}"
        for one in held
    )


def _images(changes: Changes) -> str:
    """The changes since the last TRUNCATE, parsed. `was` is what is known of the row before."""
    since = ""
    if changes.truncated:
        commit, ordinal = changes.truncated
        since = f" and row(commit_lsn, ordinal) > row(bigint '{commit}', bigint '{ordinal}')"
    parsed = (
        "select op, row(commit_lsn, ordinal) as position,"
        " cast(json_parse(before) as map(varchar, varchar)) as before,"
        " cast(json_parse(after) as map(varchar, varchar)) as after,"
        " coalesce(cast(json_parse(unchanged) as array(varchar)), array[]) as unchanged"
        f" from {changes.relation} where {changes.where} and op in ('c', 'u', 'd'){since}"
    )
    return f"select *, if(op = 'u', map_concat(after, before), before) as was from ({parsed})"


def _keyless(shape: Shape, base: str, changes: Changes, within: str) -> str:
    """The rows of a table without a key: each change adds a copy of a row, or takes one away."""

    def signed(image: str, copies: int, ops: str) -> str:
        texts = in_change(shape.by_type, image)
        rows = f"select {texts} as texts from ({_images(changes)}) where op in ({ops})"
        keyed = f"select {row_in_lake('texts')} as key_text, texts from ({rows})"
        return (
            f"select key_hash, key_text, texts, {copies} as copies"
            f" from (select {hash_in_lake('key_text')} as key_hash, * from ({keyed}))"
            f" where {within}"
        )

    added, removed = signed("after", 1, "'c', 'u'"), signed("before", -1, "'d', 'u'")
    return f"{base} union all {added} union all {removed}"


def _with_key(shape: Shape, base: str, changes: Changes, within: str) -> str:
    """The rows of a table with a key: the unchanged ones, and the newest version of the others."""
    merged = _merged(shape, base, changes, within)
    return (
        f"select key_hash, key_text, texts, copies from ({merged})"
        " where is_alive and not is_partial"
    )


def _merged(shape: Shape, base: str, changes: Changes, within: str) -> str:
    """The rows of a base, and the newest version of each key that changed in place of them.

    `is_partial` says of a version that it leaves out a value, and no row of its key has one.
    """
    left_out = _left_out(shape, changes)
    texts, is_partial = "newest.texts", "false"
    if left_out:
        filled = " ".join(
            f"when {i} then if(newest.lacks_{i}, element_at(base.texts, {i}), newest.text_{i})"
            for i, _ in left_out
        )
        places = f"sequence(1, {len(shape.by_type)})"
        texts = f"zip_with({places}, newest.texts, (i, v) -> case i {filled} else v end)"
        lacks = " or ".join(f"newest.lacks_{i}" for i, _ in left_out)
        is_partial = f"newest.is_alive and (newest.is_moved or base.key_text is null and ({lacks}))"
    return (
        "select coalesce(newest.key_hash, base.key_hash) as key_hash,"
        " coalesce(newest.key_text, base.key_text) as key_text,"
        f" if(newest.key_text is null, base.texts, {texts}) as texts,"
        " coalesce(base.copies, 1) as copies,"
        " newest.key_text is null or newest.is_alive as is_alive,"
        f" newest.key_text is not null and {is_partial} as is_partial"
        f" from ({base}) as base full outer join ({_newest(shape, changes, within)}) as newest"
        " on base.key_text = newest.key_text"
    )


def _left_out(shape: Shape, changes: Changes) -> list[tuple[int, Compared]]:
    """The columns that some changes leave out, and their places among the texts, from 1."""
    columns = enumerate(shape.by_type, start=1)
    return [(i, column) for i, column in columns if column.source_name in changes.unchanged]


def _newest(shape: Shape, changes: Changes, within: str) -> str:
    """The newest version of each key: key_hash, key_text, is_alive, texts.

    For a column that some changes leave out, by its place: the newest text_1, and lacks_1, that
    there is none. Where `is_moved`, it may be found under another key.
    """
    key_after, key_before = (
        row_in_lake(in_change(shape.key_columns, image)) for image in ("after", "was")
    )
    keyed = (
        f"select *, {key_after} as key_after, {key_before} as key_before from ({_images(changes)})"
    )
    moved = "op = 'u' and before is not null and key_before <> key_after"
    versions = (
        "select if(op = 'd', key_before, key_after) as key_text, op <> 'd' as is_alive, position,"
        f" {in_change(shape.by_type, 'after')} as texts, unchanged,"
        f" coalesce({moved}, false) as is_moved from ({keyed})"
        " union all select key_before, false, position, null, array[], false"
        f" from ({keyed}) where {moved}"
    )
    of_columns = "".join(
        f", max_by(element_at(texts, {i}), position) filter (where {has}) as text_{i},"
        f" count_if({has}) = 0 as lacks_{i}"
        for i, column in _left_out(shape, changes)
        for has in [f"not contains(unchanged, {literal(column.source_name)})"]
    )
    return (
        "select key_hash, key_text, max_by(is_alive, position) as is_alive,"
        f" max_by(texts, position) as texts{of_columns},"
        " bool_or(is_moved and cardinality(unchanged) > 0) as is_moved"
        f" from (select {hash_in_lake('key_text')} as key_hash, * from ({versions}))"
        f" where {within} group by key_hash, key_text"
    )
