"""The names of Postgres's types: a declared one and the source's own, in one form.

And which of them the lake holds as what they are; all others it holds as text.
"""

import re

_ALIASES = {
    "int2": "smallint",
    "int": "integer",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "varchar": "character varying",
    "char": "character",
    "varbit": "bit varying",
    "decimal": "numeric",
    "time": "time without time zone",
    "timetz": "time with time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
}
_PIECES = re.compile(r'"(?:[^"]|"")*"|[^"]+', re.DOTALL)
_TYPE = re.compile(
    r'(?P<name>(?:"(?:[^"]|"")*"|[^"(\[])+?) ?(?P<modifier>\([^)]*\))?'
    r"(?P<zone> with(?:out)? time zone)?(?P<array>(?: ?\[\d*\])*)",
    re.DOTALL,
)

TEXT = "text"
_EXACT = {
    *("smallint", "integer", "bigint", "real", "double precision", "boolean", "date", "bytea"),
    *("timestamp without time zone", "timestamp with time zone"),
}
_DECIMAL = re.compile(r"numeric\((\d+),(\d+)\)")
_MOST_DIGITS = 38


def canonical(declared: str) -> str:
    """A type as Postgres itself writes it: `decimal(12, 2)` is `numeric(12,2)`.

    A time's precision is left out, which changes nothing of what its values are in the lake, and so
    are the dimensions of an array, which Postgres does not keep.
    """
    folded = "".join(
        piece if piece.startswith('"') else re.sub(r"\s+", " ", piece).lower()
        for piece in _PIECES.findall(declared.strip())
    )
    found = _TYPE.fullmatch(folded)
    if found is None:
        return folded
    zone = found["zone"]
    name = found["name"] + zone if zone else _ALIASES.get(found["name"], found["name"])
    modifier = (found["modifier"] or "").replace(" ", "")
    if name.startswith(("timestamp ", "time ")):
        modifier = ""
    if name in ("character", "bit") and not modifier:
        modifier = "(1)"
    if name == "numeric" and modifier and "," not in modifier:
        modifier = f"{modifier[:-1]},0)"
    return name + modifier + ("[]" if found["array"] else "")


def is_same(declared: str, actual: str) -> bool:
    """Whether a declared type is the source's, whose schema may be left out."""
    one, other = canonical(declared), canonical(actual)
    return one == other or other.endswith(f".{one}")


def held_as(postgres: str) -> str:
    """The type that the lake holds a type's values as: the same, or text."""
    written = canonical(postgres)
    if digits := decimal_digits(written):
        precision, scale = digits
        return written if scale <= precision <= _MOST_DIGITS else TEXT
    return written if written in _EXACT else TEXT


def decimal_digits(written: str) -> tuple[int, int] | None:
    """Precision and scale of a canonical type, if it is a numeric that has them."""
    found = _DECIMAL.fullmatch(written)
    return (int(found[1]), int(found[2])) if found else None
