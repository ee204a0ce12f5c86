"""What the source names, as the lake writes it.

A table by its qualified name, `public.loan` or `"My Schema"."Tab"`: a part is quoted where Postgres
would fold or split it, and only there. Keywords are not quoted, so that the name does not depend on
the version of the source. A column by a name that needs no quotes anywhere.
"""

import re
import unicodedata
from collections.abc import Container, Iterator, Sequence
from itertools import count

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")
_PART = r'([a-z_][a-z0-9_$]*|"(?:[^"]|"")+")'
_QUALIFIED = re.compile(rf"{_PART}\.{_PART}", re.DOTALL)

LAKE_NAME = re.compile(r"[a-z_][a-z0-9_]*")
"""A name that means itself on every engine, whatever its quotes."""
LANDED = frozenset({"_unheld", "_snapshot_lsn", "_ingested_at"})
"""The columns of a table of bulk snapshots that are the lake's own."""
OWN = LANDED | {
    *("_commit_lsn", "_ordinal", "_committed_at", "_op", "_deleted", "_row_hash", "_copies"),
    *("op", "valid_from", "valid_to", "is_valid", "is_current"),
    *("rule", "on_break", "run_id", "first_seen_at", "last_seen_at"),
}
"""The columns of any layer that are the lake's own, and no source's."""


def qualified(schema: str, table: str) -> str:
    """The name of a table in a schema, both as Postgres's catalog has them."""
    return f"{_written(schema)}.{_written(table)}"


def parts(name: str) -> tuple[str, str]:
    """The schema and the table of a qualified name. Raises ValueError where it is none."""
    found = _QUALIFIED.fullmatch(name)
    if found is None:
        raise ValueError(f'`{name}` is no qualified name: write it as `schema.table`, "Quoted"')
    schema, table = found.groups()
    return _read(schema), _read(table)


def _written(part: str) -> str:
    return part if _PLAIN.fullmatch(part) else '"' + part.replace('"', '""') + '"'


def _read(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


def lake_names(names: Sequence[str], taken: Container[str] = OWN) -> dict[str, str]:
    """The name in the lake of each of a source's names: `CustomerId` is `customer_id`.

    One that means itself everywhere is kept, unless it is `taken`; no two get the same.
    """
    given = {name: name for name in names if LAKE_NAME.fullmatch(name) and name not in taken}
    for name in names:
        if name not in given:
            used = {*given.values()}
            readable = lake_name(name)
            if readable in taken:
                readable = f"source_{readable.strip('_')}"
            given[name] = next(n for n in numbered(readable) if n not in used and n not in taken)
    return {name: given[name] for name in names}


def numbered(name: str) -> Iterator[str]:
    """A name, then the same with a number: `loan`, `loan_2`, `loan_3`."""
    yield name
    yield from (f"{name}_{number}" for number in count(2))


def lake_name(name: str) -> str:
    """A name in lower-case ASCII; a letter that has no equal there is `u` and its code."""
    if LAKE_NAME.fullmatch(name):
        return name
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    folded = unicodedata.normalize("NFKD", words).casefold()
    letters = (
        letter if letter.isascii() else f"_u{ord(letter):x}_"
        for letter in folded
        if not unicodedata.combining(letter)
    )
    plain = re.sub(r"_+", "_", re.sub(r"[^a-z0-9]", "_", "".join(letters))).strip("_")
    return plain if plain[:1].isalpha() else f"_{plain}"
