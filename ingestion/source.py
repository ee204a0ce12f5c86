"""What is set up at the source before anything is copied: the publication, and leave to read."""

from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from lake.errors import LakeError
from lake.manifest import SourceTable
from lake.settings import settings
from lake.source.inspection import Inspection, inspect

Owner = Callable[[], psycopg.Connection]
"""Opens a connection that may set up the source."""


def prepare(
    connection: psycopg.Connection,
    declared: Sequence[SourceTable],
    found: Inspection,
    owner: Owner | None,
) -> Inspection:
    """Have each declared table published and readable that nothing else ails, and no others.

    `found` is how they are; returns how they are then.

    Without an owner it is left to the source's own, who is told by the troubles. Raises LakeError
    with the statements to run where there is no publication at all, or no table without trouble.
    """
    if owner:
        publication = sql.Identifier(settings().source.publication).as_string(connection)
        drops = [f"alter publication {publication} drop table {one}" for one in found.undeclared]
        if statements := [*found.setup, *drops]:
            _run(owner, statements)
            found = inspect(connection, declared)
    elif not found.is_published:
        raise _left_to_owner(found.setup)
    if not found.tables:
        raise LakeError("\n".join(map(str, found.troubles)))
    return found


def _run(owner: Owner, statements: Sequence[str]) -> None:
    grants = [one for one in statements if one.startswith("grant ")]
    with owner() as privileged:
        with privileged.transaction():
            for statement in grants:
                privileged.execute(statement.encode())
        # Each by itself: it waits for an analyze of a table, which waits for what a grant wrote.
        for statement in statements:
            if statement not in grants:
                privileged.execute(statement.encode())


def _left_to_owner(statements: Sequence[str]) -> LakeError:
    listed = "\n".join(f"  {statement};" for statement in statements)
    return LakeError(f"have the owner of the source run this, then try again:\n{listed}")
