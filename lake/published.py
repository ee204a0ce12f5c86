"""What each publish put in place, and what that was made of: `quality.provenance`, for SQL to read.

It is on `lake` and not on a branch, as the results of runs are, and written by the same role. What
a publish leaves out, since it was killed then, the next one adds.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from psycopg.rows import dict_row

from lake.catalog import connect, open_catalog
from lake.errors import LakeError
from lake.settings import QUALITY, TRUNK

if TYPE_CHECKING:  # slow to import
    import pyarrow as pa

TABLE = f"{QUALITY}.provenance"
_UPTO = "lake.publish-id"
"""The table's property that names the last publish that is in it."""
_ATTEMPTS = 5
"""How often it is tried where others, who publish at the same time, write it too."""
_MADE = """
select
    m.publish_id,
    p.at as published_at,
    m.table_namespace || '.' || m.table_name as table_name,
    m.after as pointer,
    made.code_version,
    made.fingerprint,
    made.run_id,
    made.at as built_at,
    made.lsn as commit_lsn,
    made.models || made.landed as inputs
from lake.moves as m
inner join lake.publishes as p on m.publish_id = p.id
left join lateral (
    select * from lake.provenance where pointer = lake.origin(m.after) order by at desc limit 1
) as made on true
where m.publish_id > %s
order by m.publish_id, table_name
"""


def record(say: Callable[[str], None]) -> None:
    """Add to the table what was published since it was written last; `say` why, where it can't be.

    What was published is so in any case.
    """
    from pyiceberg.exceptions import CommitFailedException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _append()
                return
            except CommitFailedException:
                if attempt == _ATTEMPTS:
                    raise
    except (CommitFailedException, LakeError, OSError, SQLAlchemyError) as error:
        say(f"{TABLE} is written by the next publish: {str(error).strip().splitlines()[0]}")


def _append() -> None:
    import pyarrow as pa

    table = open_catalog(TRUNK, "recorder").create_table_if_not_exists(TABLE, _schema())
    with connect("reader") as connection, connection.cursor(row_factory=dict_row) as cursor:
        made = cursor.execute(_MADE, [int(table.properties.get(_UPTO, 0))]).fetchall()
    if made:
        with table.transaction() as change:
            change.append(pa.Table.from_pylist(made, _schema()))
            change.set_properties({_UPTO: str(made[-1]["publish_id"])})


def _schema() -> "pa.Schema":
    import pyarrow as pa

    text, time, number = pa.string(), pa.timestamp("us", "UTC"), pa.int64()
    return pa.schema(
        {
            "publish_id": number,
            "published_at": time,
            "table_name": text,
            "pointer": text,  # null of a table that was dropped
            "code_version": text,  # null, as all that follows, of what no build made
            "fingerprint": text,
            "run_id": text,
            "built_at": time,
            "commit_lsn": number,
            "inputs": pa.map_(text, text),
        }
    )
