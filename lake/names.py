"""The qualified name of a source table as the lake writes it: `public.loan`, `"My Schema"."Tab"`.

A part is quoted where Postgres would fold or split it, and only there; keywords are not quoted, so
that the name does not depend on the version of the source.
"""

import re

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")
_PART = r'([a-z_][a-z0-9_$]*|"(?:[^"]|"")+")'
_QUALIFIED = re.compile(rf"{_PART}\.{_PART}", re.DOTALL)


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
