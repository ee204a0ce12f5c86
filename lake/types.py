"""The names of Postgres's types: a declared one and the source's own, in one form."""

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
