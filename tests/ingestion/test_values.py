"""Every type there is: what bulk lands is what Postgres prints, and what the WAL tells is the same.

Postgres is the oracle, thrice: it says which generated texts are values of a type, how a value is
printed, and what `pgoutput` makes of it.
"""

import json
import math
import struct
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from feature_repo import definitions
from ingestion.snapshot import ingest
from ingestion.types import bronze_type
from lake import source
from lake.catalog import catalog
from lake.settings import settings as lake_settings
from lake.stack import postgres
from lake.types import canonical, held_as
from tests.conftest import empty_own
from tests.dbt_project.conftest import compiled
from tests.ingestion.conftest import declared, in_wal
from tests.pgoutput import Row

MADE = """
    create type mood as enum ('it''s', 'a,b', 'ä "quoted" \\', '');
    create type pair as (a int, b text, "C d" numeric);
    create type nested as (one pair, many pair[]);
    create type float_range as range (subtype = float8);
    create domain day as date;
    create domain amount as numeric(12, 2) default 0;
    create domain some_days as day[];
    create domain checked_pair as pair check ((value).a is distinct from 7);
    create schema "My Schema";
    create type "My Schema"."Odd Type" as enum ('x', 'X');
"""
DECLARED = (
    *("numeric(10,2)", "numeric(38,38)", "numeric(39,2)", "numeric(2,5)", "numeric(3,-2)"),
    *("character varying(5)", "character(5)", "bit(3)", "bit varying(5)", "interval second(2)"),
    *("timestamp(3) without time zone", "timestamp(0) with time zone", "time(2) with time zone"),
    *("numeric(10,2)[]", "character(3)[]", "timestamp(3) with time zone[]"),
    *("mood", "pair", "nested", "float_range", "float_multirange", "day", "some_days"),
    *("checked_pair", "mood[]", "pair[]", "day[]", "float_range[]", '"My Schema"."Odd Type"'),
    *('"My Schema"."Odd Type"[]', "amount"),
)
"""Types with modifiers, and those that a user makes."""
UNREADABLE = {
    "pg_node_tree": "select adbin from pg_attrdef limit 1",
    "pg_ndistinct": "select stxdndistinct from pg_statistic_ext_data",
    "pg_dependencies": "select stxddependencies from pg_statistic_ext_data",
    "pg_mcv_list": "select stxdmcv from pg_statistic_ext_data",
    "pg_brin_bloom_summary": "",
    "pg_brin_minmax_multi_summary": "",
    "gtsvector": "",
    "gtsvector[]": "",
    **dict.fromkeys(("xml", "xml[]"), ""),  # the stack's Postgres is built without it
}
"""Types that no text is a value of, and where Postgres itself keeps some; "" is nowhere."""

ROWS = 6
TIMES = (
    "0001-01-01|9999-12-31|10000-01-01|0001-12-31 BC|4714-11-24 BC|0044-03-15 BC|1582-10-10"
    "|infinity|-infinity|epoch|2000-02-29|5874897-12-31|2026-10-25 02:30:00.123456"
    "|0001-12-31 23:59:59.999999 BC|1969-12-31 23:59:59.999999|9999-12-31 23:59:59.999999"
    "|294276-12-31 23:59:59.999999"
)
EXTREMES: dict[str, str] = {
    **dict.fromkeys(("date", "day"), TIMES),
    **dict.fromkeys(("timestamp without time zone", "timestamp with time zone"), TIMES),
    "boolean": "t|f",
    '"char"': "|a|ä|\\377|\\",
    "smallint": "-32768|32767|0",
    "integer": "-2147483648|2147483647|0",
    "bigint": "-9223372036854775808|9223372036854775807|0",
    "real": "NaN|Infinity|-Infinity|1e-45|3.4028235e38|-0|0.1|16777217",
    "double precision": "NaN|Infinity|-Infinity|5e-324|1.7976931348623157e308|-0|0.1|1e15|1e16",
    "numeric": f"NaN|Infinity|-Infinity|-0|1e-20|{'9' * 999}.{'9' * 999}|0.00|-0.5",
    "money": "-92233720368547758.08|92233720368547758.07|0|1234567.891",
    "interval second": "infinity|1.239|-0.005|61",
    "interval": "infinity|-infinity|-178000000 years|1 year -2 mons +3 days -04:05:06.000007|0",
    "time without time zone": "00:00|24:00:00|23:59:59.999999",
    "time with time zone": "00:00+15:59:59|24:00:00-15:59:59|23:59:59.999999+00:30",
    "bytea": "|\\x|\\x00ff|\\\\|\\000",
    "uuid": "00000000-0000-0000-0000-000000000000|FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
    "json": '{"b": 1.0, "a" :"é \\" \\\\ \\n 🙂", "a": null}|[]|""|1e400| null ',
    "jsonb": '{"b": 1.0, "a" :"é \\" \\\\ \\n 🙂", "a": null}|[]|""|1e400| null ',
    "jsonpath": '$.a[*] ? (@ > 1)|strict $."it\'s"|$',
    "inet": "10.0.0.1|10.0.0.1/8|::1|::ffff:1.2.3.4/64|0.0.0.0/0",
    "cidr": "10.0.0.0/8|10.0.0.1|::/0|2001:db8::/32",
    "macaddr": "08:00:2b:01:02:03|ff-ff-ff-ff-ff-ff",
    "macaddr8": "08:00:2b:01:02:03|08:00:2b:01:02:03:04:05",
    "bit": "0|1",
    "bit(3)": "101|000",
    "bit varying": "|1|01010101010",
    "bit varying(5)": "|10101",
    "point": "(1,2)|(NaN,-Infinity)|(1e-300,-0)",
    "line": "{1,2,3}|{0,1,-1e300}",
    "lseg": "[(1,2),(3,4)]",
    "box": "(1,2),(3,4)|(0,0),(0,0)",
    "path": "((1,2),(3,4))|[(1,2),(3,4)]|[(0,0)]",
    "polygon": "((1,2),(3,4),(5,6))",
    "circle": "<(1,2),3>|<(0,0),Infinity>",
    "tsvector": "'a b':1A,2 'it''s' \\\\|",
    "tsquery": "'it''s' & !b <-> c:*A|",
    "pg_lsn": "0/0|FFFFFFFF/FFFFFFFF",
    "pg_snapshot": "10:20:10,14,15|1:1:",
    "txid_snapshot": "10:20:10,14,15|1:1:",
    "tid": "(0,1)|(4294967295,65535)",
    "xid": "0|4294967295",
    "xid8": "0|18446744073709551615",
    "cid": "0|4294967295",
    "oid": "0|4294967295",
    "int2vector": "|1 -2 3",
    "oidvector": "|1 2 4294967295",
    "regclass": "pg_class|4294967295|0|everything|\"My Schema\".\"Odd Table\"",
    "regproc": "now|0|4294967295",
    "regprocedure": "abs(integer)|0",
    "regoper": "0|pg_catalog.||/",
    "regoperator": "+(integer,integer)|0",
    "regtype": "integer|mood|timestamp with time zone|\"My Schema\".\"Odd Type\"|0",
    "regrole": "postgres|0",
    "regnamespace": "public|\"My Schema\"|0",
    "regcollation": '"C"|0',
    "regconfig": "english|0",
    "regdictionary": "simple|0",
    "regdatabase": "postgres|0",
    "aclitem": "postgres=r*w/postgres|=X/postgres",
    "mood": 'it\'s|a,b|ä "quoted" \\|',
    "pair": '(1,"it\'s \\"\\", ",NaN)|(,,)|(2,"",)|(,(),-1)',
    "nested": '("(1,a,2)","{""(1,a,2)"",NULL}")|(,)',
    '"My Schema"."Odd Type"': "x|X",
    "amount": "NaN|0.00|-9999999999.99",
}  # fmt: skip

any_text = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=12
) | st.sampled_from(
    ["", " ", "it's", '"', "\\", "\\N", "{}", "NULL", "a\tb\r\n", "\U0010ffff🙂", "é"]
)
any_json = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(any_text, inner, max_size=2),
    max_leaves=4,
).map(lambda value: json.dumps(value, ensure_ascii=False))
any_integer = st.integers(-(2**64), 2**64).map(str) | st.integers(-9, 9).map(str)
any_decimal = st.decimals(allow_nan=False, allow_infinity=False).map(str)
any_time = st.datetimes().map(str)
GENERATED: dict[str, st.SearchStrategy[str]] = {
    **dict.fromkeys(("text", "name", "refcursor", "character", "character varying"), any_text),
    **dict.fromkeys(("json", "jsonb"), any_json),
    **dict.fromkeys(("smallint", "integer", "bigint", "oid", "xid", "xid8", "cid"), any_integer),
    **dict.fromkeys(("numeric", "money"), any_decimal),
    **dict.fromkeys(("real", "double precision"), any_decimal | st.floats(width=32).map(repr)),
    **dict.fromkeys(("date", "timestamp without time zone", "day"), any_time),
    "timestamp with time zone": any_time | st.datetimes(timezones=st.timezones()).map(str),
    "bytea": st.binary(max_size=9).map(lambda value: f"\\x{value.hex()}"),
    "uuid": st.uuids().map(str),
    "inet": st.ip_addresses().map(str),
}


def values(name: str) -> st.SearchStrategy[str]:
    """Texts that may be values of a type; which of them are, Postgres knows."""
    if name.endswith("[]"):
        return _arrays(values(name.removesuffix("[]")))
    if name == "some_days":
        return _arrays(values("day"))
    plain = canonical(name).partition("(")[0]
    if plain == "checked_pair":
        return values("pair")
    if plain.endswith(("range",)):
        return _ranges(values(_SUBTYPES[plain.replace("multi", "")]), multi="multi" in plain)
    listed = EXTREMES.get(name, EXTREMES.get(plain))
    known = st.sampled_from(listed.split("|")) if listed is not None else st.nothing()
    return known | GENERATED.get(plain, st.nothing() if listed is not None else any_text)


_SUBTYPES = {
    "int4range": "integer",
    "int8range": "bigint",
    "numrange": "numeric",
    "daterange": "date",
    "tsrange": "timestamp without time zone",
    "tstzrange": "timestamp with time zone",
    "float_range": "double precision",
}


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    flat = st.lists((st.none() | items).map(_quoted), max_size=3).map(
        lambda v: f"{{{','.join(v)}}}"
    )
    bounded = items.map(lambda value: f"[-1:-1]={{{_quoted(value)}}}")
    deep = st.tuples(items, st.none() | items).map(
        lambda pair: f"{{{{{_quoted(pair[0])}}},{{{_quoted(pair[1])}}}}}"
    )
    return flat | bounded | deep


def _ranges(bounds: st.SearchStrategy[str], *, multi: bool) -> st.SearchStrategy[str]:
    bound = bounds.map(_quoted) | st.just("")
    one = st.tuples(st.sampled_from("[("), bound, bound, st.sampled_from(")]")).map(
        lambda parts: f"{parts[0]}{parts[1]},{parts[2]}{parts[3]}"
    ) | st.just("empty")
    return st.lists(one, max_size=2).map(lambda v: f"{{{','.join(v)}}}") if multi else one


def listed(owner: psycopg.Connection) -> list[str]:
    """Every type that a column can have: no pseudo-type, no row of Postgres's own tables, no array
    of these."""
    found = owner.execute(
        """
        select format_type(oid, null) from pg_type
        where typnamespace = 'pg_catalog'::regnamespace and typtype in ('b', 'r', 'm')
            and (typelem = 0 or typcategory <> 'A' or typelem not in (
                select oid from pg_type where typtype in ('c', 'p')
            ))
        order by oid
        """
    ).fetchall()
    return [name for (name,) in found]


@pytest.fixture
def typed(owner: psycopg.Connection) -> dict[str, str]:
    """A table `everything` with a column of each type; returns the column of each type."""
    owner.execute(MADE)
    owner.execute(
        """
        create table "My Schema"."Odd Table" (a int, b int default 1, c int default 2);
        create statistics estimates on a, b from "My Schema"."Odd Table";
        insert into "My Schema"."Odd Table" select i % 5, i % 5 from generate_series(1, 100) as i;
        analyze "My Schema"."Odd Table";
        """
    )
    names = dict.fromkeys([*listed(owner), *DECLARED])
    columns = {name: f"c{position}" for position, name in enumerate(names)}
    owner.execute(
        f"create table everything (id int primary key, "
        f"{', '.join(f'{column} {name}' for name, column in columns.items())})".encode()
    )
    owner.execute("grant usage on schema public to capture; grant select on everything to capture")
    return columns


def fill(owner: psycopg.Connection, columns: dict[str, str], texts: dict[str, list[str]]) -> None:
    """Have the table hold those of the texts that are values of their type, and nulls."""
    owner.execute("truncate everything")
    rows: dict[int, dict[str, str]] = {number: {} for number in range(ROWS)}
    for name, mine in texts.items():
        try:
            found = owner.execute(
                "select n from unnest(%s::text[]) with ordinality as u (v, n)"
                " where v is not null and pg_input_is_valid(v, %s)",
                [mine, name],
            ).fetchall()
        except psycopg.Error:  # its input function refuses loudly
            continue
        for (number,) in found:
            rows[number - 1][columns[name]] = mine[number - 1]
    for number, row in rows.items():
        owner.execute(
            sql.SQL("insert into everything (id{}) values ({}{})").format(
                sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier(name)) for name in row),
                sql.Literal(number),
                sql.SQL(", %s") * len(row),
            ),
            list(row.values()),
        )
    for name, query in UNREADABLE.items():
        if query:
            owner.execute(
                f"update everything set {columns[name]} = ({query}) where id = 0".encode()
            )


def printed(columns: list[str]) -> dict[int, Row]:
    """The rows by id, as Postgres sends them in text."""
    with source.connect() as connection:
        query = sql.SQL("select id, {} from public.everything")
        cursor = connection.execute(query.format(sql.SQL(", ").join(map(sql.Identifier, columns))))
        assert cursor.pgresult is not None
        found = [
            [cursor.pgresult.get_value(row, column) for column in range(len(columns) + 1)]
            for row in range(cursor.pgresult.ntuples)
        ]
    return {
        int(number or b""): {
            name: None if value is None else bytes(value).decode()
            for name, value in zip(columns, row, strict=True)
        }
        for number, *row in found
    }


def typed_value(name: str, text: str) -> Any:
    """What SQL makes of a value's text; None where its type can't hold that."""
    kind = bronze_type(name)
    try:
        match str(kind.iceberg):
            case "int" | "long":
                return int(text)
            case "boolean":
                return text == "t"
            case "float":
                return struct.unpack("f", struct.pack("f", float(text)))[0]
            case "double":
                return float(text)
            case "binary":
                return bytes.fromhex(text.removeprefix("\\x"))
            case "date":
                return date.fromisoformat(text)
            case "timestamp" | "timestamptz":
                return datetime.fromisoformat(text)
            case "string":
                return text
        return Decimal(text) if Decimal(text).is_finite() else None
    except ValueError:  # BC, infinity, a year of five digits
        return None


def is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other) and type(one) is type(other)


def take(columns: dict[str, str]) -> dict[int, dict[str, Any]]:
    """Load the table for the first time; returns its rows in bronze, by id."""
    with source.connect() as connection:
        connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
            " where slot_name = %s",
            [lake_settings().source.slot],
        )
    empty_own()
    types = {column: name for name, column in columns.items()}
    everything = declared("everything", ("id",), **types)
    ingest([everything], postgres.source_owner(), lambda *_: None)
    landed = catalog().load_table("bronze.everything").scan().to_arrow().to_pylist()
    return {row["id"]: row for row in landed if row["_unheld"] != "{}"}


def test_each_value_of_each_type_is_the_same_in_bulk_in_the_wal_and_in_postgres(
    owner: psycopg.Connection, typed: dict[str, str]
) -> None:
    names = list(typed.values())
    valued: set[str] = set()
    rows = st.fixed_dictionaries(
        {
            name: st.lists(st.none() | values(name), min_size=ROWS, max_size=ROWS)
            for name in typed
            if name not in UNREADABLE
        }
    )

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(rows)
    def agree(texts: dict[str, list[str]]) -> None:
        fill(owner, typed, texts)
        landed = take(typed)
        copied = f"select id + {ROWS}, {', '.join(names)} from everything"
        owner.execute(f"insert into everything {copied}".encode())
        told = {
            int(change.after["id"] or ""): change.after
            for change in in_wal()
            if change.table == "public.everything" and change.after
        }
        expected = printed(names)
        assert landed.keys() == set(range(ROWS))
        for number, row in landed.items():
            unheld = json.loads(row["_unheld"] or "{}")
            for name, column in typed.items():
                text = expected[number][column]
                assert told[number + ROWS][column] == expected[number + ROWS][column] == text, name
                value = None if text is None else typed_value(name, text)
                assert is_equal(row[column], value), (name, text, row[column])
                is_held = text is None or value is not None
                assert unheld.pop(column, None) == (None if is_held else text), name
                if text is not None:
                    valued.add(name)
            assert not unheld

    agree()
    never = typed.keys() - valued
    assert never == {name for name, query in UNREADABLE.items() if not query}


LEFT_OUT = {
    "decimal": "text: `NaN`",
    "date": "text: years outside 1 to 9999, `infinity`",
    "timesta": "text: years outside 1 to 9999, `infinity`",
}
TYPES = Path(__file__).parents[2] / "docs" / "types.md"


def test_the_docs_say_of_every_type_what_it_is_in_the_lake(
    owner: psycopg.Connection, tmp_path: Path
) -> None:
    lines = [
        "# Types of Postgres, and of the lake",
        "",
        "Made by `tests/ingestion/test_values.py`: the types that `pg_type` lists, and some with",
        "modifiers. Text is what Postgres prints, so nothing is lost by it, and any column can be",
        "declared as text. Arrays, and types that a user makes, are text. What is *held beside* is",
        "null in the column, and kept as text: in `_unheld` of a bulk snapshot, in the image of a",
        "change ([tables.md](tables.md#types)). A feature is a column of gold; one of a type that",
        "Feast does not take is refused by name, and how to cast it is the model's to say.",
        "",
        "| Postgres | bronze | silver on Spark | silver on Trino | Feast | held beside |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    modified = [name for name in DECLARED if "(" in name and "[" not in name]
    names = [name for name in [*listed(owner), *modified] if not name.endswith("[]")]
    asked = [f"{{{{ engine_type({name!r}) }}}}" for name in names]
    spark, trino = (compiled(tmp_path, engine, *asked) for engine in ("spark", "trino"))
    for name, on_spark, on_trino in zip(names, spark, trino, strict=True):
        kind = str(bronze_type(name).iceberg)
        beside = next((said for start, said in LEFT_OUT.items() if kind.startswith(start)), "")
        bronze = "text" if kind == "string" else kind
        feature = definitions.TYPES.get(held_as(name))
        feast = feature.name.title() if feature else "refused: cast it"
        engines = f"{on_spark.strip()} | {on_trino.strip()}"
        lines.append(f"| `{name}` | {bronze} | {engines} | {feast} | {beside} |")
    text = "\n".join(lines) + "\n"
    written = TYPES.read_text() if TYPES.exists() else ""
    if text != written:
        TYPES.write_text(text)
        pytest.fail("docs/types.md was not of today's types: it is now, commit it")
